"""The commands on a finished run: what they print, and that it is right."""

import json
import re
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmcl_ray import __version__
from cmcl_ray.run import doctor
from tests.run.conftest import Command
from tests.run.tiny import tiny_stream, write_config


def answers(output: str) -> list[tuple[int, float, str, str, str]]:
    """Rank, score, id, task and version of each line below the head."""
    lines = [line.split(maxsplit=5) for line in output.splitlines()[1:]]
    return [(int(line[0]), float(line[1]), line[2], line[3], line[4]) for line in lines]


@pytest.mark.usefixtures("no_report")
def test_run_prints_the_table_and_where_the_report_is(cmcl: Command, copied: Path) -> None:
    result = cmcl("run", copied.parent / "run.yaml")
    assert result.exit_code == 0, result.output
    assert "replay (seed 3), after task 3 of 3" in result.stdout
    assert [
        line.split()[0] for line in result.stdout.splitlines() if re.match(r"(keep|bridge|route|route_raw|reindex) ", line)
    ] == [*("keep", "bridge", "route", "route_raw", "reindex")]
    assert result.stdout.splitlines()[-1] == f"report: {copied}/report.html"


@pytest.mark.usefixtures("no_report")
def test_run_goes_through_a_comparison(cmcl: Command, tmp_path: Path) -> None:
    """Two labels and two seeds are four runs in folders of their own, and one report over them."""
    path = write_config(
        tmp_path,
        tmp_path / "out",
        policies={"keep": {}},
        evaluate={"directions": ["t2i"], "samples": 0},
        compare={"plain": {"strategies": {}}, "both": {"strategies": {"replay": {"images_per_task": 3}}}},
        seeds=[0, 1],
    )
    result = cmcl("run", path)
    assert result.exit_code == 0, result.output
    for label, strategy in (("plain", "finetune"), ("both", "replay")):
        for seed in (0, 1):
            run = json.loads((tmp_path / "out" / label / f"seed{seed}" / "run.json").read_text())
            assert (run["label"], run["seed"], run["strategy"]) == (label, seed, strategy)
    runs = [tmp_path / "out" / label / "seed0" for label in ("plain", "both")]
    assert (tmp_path / "out" / "report.html").is_file()
    again = cmcl("report", *runs, "--out", tmp_path / "two")
    assert again.stdout.split() == ["report:", f"{tmp_path}/two/report.html", f"{tmp_path}/two/report.md"]
    assert all(label in (tmp_path / "two" / "report.md").read_text() for label in ("plain", "both"))
    alone = cmcl("report", runs[0])
    assert alone.stdout.split() == ["report:", f"{runs[0]}/report.html", f"{runs[0]}/report.md"]
    assert (runs[0] / "report.html").is_file()
    assert result.stdout.splitlines()[-1] == f"report: {tmp_path}/out/report.html"


@pytest.mark.parametrize("policy", [None, "bridge", "route", "route_raw", "reindex"])
def test_a_text_finds_images(cmcl: Command, finished: Path, policy: str | None) -> None:
    """All images of the gallery come in the order of their scores, each once, with its task and the version that made it."""
    options = [] if policy is None else ["--policy", policy]
    result = cmcl("search", finished, "a small red circle", "-k", 100, *options)
    assert result.exit_code == 0, result.output
    found = answers(result.stdout)
    items = {item["id"]: item for item in pq.read_table(finished / "gallery" / "items.parquet").to_pylist()}
    assert {name for _, _, name, _, _ in found} == {name for name, item in items.items() if item["side"] == "image"}
    assert [rank for rank, *_ in found] == list(range(1, 37))
    assert [score for _, score, *_ in found] == sorted((score for _, score, *_ in found), reverse=True)
    versions = {}
    for _, _, name, task, version in found:
        assert task == ("poster", "chalkboard", "neon")[items[name]["task_index"]]
        versions.setdefault(task, set()).add(version)
    made = [json.loads((path / "checkpoint" / "manifest.json").read_text())["position"]["version"] for path in tasks_of(finished)]
    newest = {task: {made[2]} for task in versions}
    assert versions == (newest if policy == "reindex" else {"poster": {made[0]}, "chalkboard": {made[1]}, "neon": {made[2]}})


def tasks_of(run: Path) -> list[Path]:
    return sorted((run / "tasks").iterdir())


def test_a_search_finds_what_the_run_scored(cmcl: Command, finished: Path) -> None:
    """A test caption, typed in, ranks the images as the report's sample of that query does."""
    samples = json.loads((finished / "samples.json").read_text())
    for sample in samples:
        if sample["direction"] == "t2i":
            result = cmcl("search", finished, sample["query"]["text"], "-k", 5, "--policy", sample["policy"])
            found = answers(result.stdout)
            assert [name for _, _, name, _, _ in found] == [hit["id"] for hit in sample["hits"]]
            assert [score for _, score, *_ in found] == pytest.approx([hit["score"] for hit in sample["hits"]], abs=2e-3)


def test_an_image_finds_captions(cmcl: Command, finished: Path, tmp_path: Path) -> None:
    """Asked with a test image's own file, reindex gives the order of the stored vectors' inner products."""
    stream = tiny_stream()
    row = int(stream.pairs.image_row[stream.tasks[2].test[0]])
    (tmp_path / "query.png").write_bytes(stream.pairs.images["image"][row].as_py())
    result = cmcl("search", finished, tmp_path / "query.png", "-k", 72, "--policy", "reindex")
    assert result.exit_code == 0, result.output
    found = answers(result.stdout)
    assert len({name for _, _, name, _, _ in found}) == 72
    version = found[0][4]
    folders = [path for path in (finished / "gallery" / "embeddings").iterdir() if path.name.startswith(f"{version}-image")]
    held = [dict(zip(np.load(path / "ids.npy").tolist(), np.load(path / "vectors.npy"), strict=True)) for path in folders]
    query = next(part[row] for part in held if row in part)
    rows = {item["id"]: item["row"] for item in pq.read_table(finished / "gallery" / "items.parquet").to_pylist()}
    texts = {}
    for path in (finished / "gallery" / "embeddings").iterdir():
        if path.name.startswith(f"{version}-text"):
            texts.update(zip(np.load(path / "ids.npy").tolist(), np.load(path / "vectors.npy"), strict=True))
    assert [score for _, score, *_ in found] == pytest.approx([query @ texts[rows[name]] for _, _, name, _, _ in found], abs=1e-4)


def test_a_moved_run_is_searched_where_it_is(cmcl: Command, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    assert cmcl("search", tmp_path / "moved", "red").stdout == cmcl("search", finished, "red").stdout


def test_help_names_every_command(cmcl: Command) -> None:
    output = cmcl("--help").stdout
    for name in ("run", "report", "search", "doctor"):
        assert re.search(rf"^  {name} ", output, re.MULTILINE)
        # Line by line, as they were written.
        assert re.search(rf"^  Examples:\n    cmcl {name}.*\n    cmcl {name}", cmcl(name, "-h").stdout, re.MULTILINE)
    assert __version__ in cmcl("--version").stdout


def test_doctor_finds_this_machine_well(cmcl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = cmcl("doctor", tmp_path)
    assert result.exit_code == 0, result.output
    names = [line.split()[1] for line in result.stdout.splitlines()]
    assert names[:2] == ["python", "torch"]
    assert names[-5:] == ["faiss", "gpu", "cluster", "machine", "storage"]
    assert {line.split()[0] for line in result.stdout.splitlines()} <= {"ok", "warn"}
    assert list(tmp_path.iterdir()) == []


class Package:
    """A distribution as importlib.metadata lists it."""

    def __init__(self, name: str | None, version: str) -> None:
        self.metadata = {"Name": name}
        self.version = version


def test_doctor_refuses_two_builds_of_faiss(cmcl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [Package("faiss-gpu-cu12", "1.10"), Package(None, "0"), Package("faiss-cpu", "1.9"), Package("numpy", "2")]
    monkeypatch.setattr(metadata, "distributions", lambda: packages)
    result = cmcl("doctor", tmp_path)
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("fail")]
    assert "faiss-cpu 1.9 and faiss-gpu-cu12 1.10  ->  uninstall all of them, then install cmcl-ray[cpu] or [gpu]" in line


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """faiss may be missing, a package may not; a folder that is a file cannot be written."""
    monkeypatch.setattr(metadata, "distributions", lambda: [])
    plain = metadata.version

    def version(name: str) -> str:
        if name == "pyarrow":
            raise metadata.PackageNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(metadata, "version", version)
    (tmp_path / "file").write_text("")
    found = {finding.name: finding for finding in doctor.diagnose(str(tmp_path / "file"))}
    assert (found["faiss"].state, found["pyarrow"].state, found["torch"].state) == ("warn", "fail", "ok")
    assert "backend exact works without" in found["faiss"].found
    assert found["pyarrow"].advice == "pip install cmcl-ray"
    assert found["storage"].state == "fail"
    assert "cannot be written" in found["storage"].found


@pytest.mark.parametrize(("address", "state"), [("127.0.0.1:1", "fail"), ("ray://nohost.invalid:7", "fail"), ("auto", "ok")])
def test_doctor_asks_a_cluster_whether_it_answers(monkeypatch: pytest.MonkeyPatch, address: str, state: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    finding = doctor._ray()
    assert finding.state == state
    if state == "fail":
        assert address in finding.found
        assert finding.advice == "start the head or unset RAY_ADDRESS"


def test_doctor_names_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 9, 1))
    assert doctor._python().advice == "install Python 3.11 to 3.13"
