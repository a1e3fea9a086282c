"""Bad input through the command: exit code 2, one line that says what is wrong and what to do, and no stack trace."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result

from tests.run.conftest import Command
from tests.run.left import differing
from tests.run.tables import write_pictures
from tests.run.tiny import write_config

pytestmark = pytest.mark.usefixtures("no_report")

REPOSITORY = Path(__file__).resolve().parents[2]


def refused(result: Result, *parts: str) -> None:
    """Check that a command ended as bad input must: with 2, and one line on standard error that holds some texts in order."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("cmcl: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.output
    position = 0
    for part in parts:
        assert part in lines[0][position:], (part, lines[0])
        position = lines[0].index(part, position) + len(part)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        # Unknown keys, at every depth.
        ("trian.lr=0.1", ["unknown key trian", "did you mean 'train'?", "expected one of seed"]),
        ("train.learning_rate=0.1", ["unknown key train.learning_rate", "TrainSettings takes", "correct or remove it"]),
        ("train.epoch=3", ["unknown key train.epoch; did you mean 'epochs'?"]),
        ("model.widht=8", ["unknown key model.widht; did you mean 'width'?"]),
        ("stream.source.grups=3", ["unknown key stream.source.grups; did you mean 'groups'?"]),
        ("policies.keep.calibration=none", ["unknown key policies.keep.calibration", "Keep takes: none"]),
        ("strategies.replay.image_per_task=3", ["unknown key strategies.replay.image_per_task; did you mean 'images_per_task'?"]),
        ("evaluate.hit=12", ["unknown key evaluate.hit; did you mean 'hits'?"]),
        # Wrong types and values.
        ("train.epochs=many", ["train.epochs is 'many' (str); expected a whole number"]),
        ("train.epochs=1.5", ["train.epochs is 1.5 (float); expected a whole number"]),
        ("train.precision=fp16", ["train.precision is 'fp16'", "expected one of 'auto', 'fp32', 'bf16'"]),
        ("train=fast", ["train is 'fast'"]),
        ("train.lr=.nan", ["train.lr is nan; expected a finite number"]),
        ("stream.source.domain_shift=.inf", ["stream.source.domain_shift is inf; expected a finite number"]),
        ("train.epochs=0", ["train: epochs is 0; expected at least 1"]),
        ("train.batch_size=1", ["train: batch_size is 1; expected at least 2"]),
        ("train.device=gpu", ["device is 'gpu'; expected auto, cpu or cuda"]),
        ("model.width=9", ["model: model.width is 9 and model.text_width 16; expected multiples of 8 and of 4"]),
        ("strategies.replay.images_per_task=0", ["strategies.replay: images_per_task is 0"]),
        ("policies.bridge.fit_pairs=0", ["fit_pairs is 0; expected at least 1"]),
        ("evaluate.hits=5", ["evaluate: hits is 5; expected at least 11"]),
        ("evaluate.samples=-1", ["evaluate: samples is -1; expected at least 0"]),
        ("evaluate.calibration_queries=0", ["evaluate: calibration_queries is 0; expected at least 1"]),
        ("evaluate.directions=[]", ["evaluate: directions is []; expected t2i, i2t or both"]),
        ("index.part_rows=0", ["index: part_rows is 0"]),
        ("seed=-1", ["seed is -1; expected a whole number from 0"]),
        ("seed=one", ["seed is 'one' (str); expected a whole number"]),
        ("seeds=3", ["seeds is 3 (int); expected a list of a whole number"]),
        ("compare.a=3", ["compare.a is 3; expected a mapping of the values that differ"]),
        ("stream.source.groups=9", ["stream.source.groups is 9; expected 1 to 6"]),
        ("stream.source.test_images_per_group=0", ["task 'poster' has 64 train, 16 val and 0 test pairs"]),
        # Missing values, and names that do not exist.
        ("out=???", ["missing value out; expected a folder or URI"]),
        ("model.name=???", ["missing value model.name; expected the name of a model"]),
        (
            "model.name=tinny",
            ["model.name is 'tinny', which is no model; did you mean 'tiny'?", "expected one of tiny, two_branch"],
        ),
        ("loss.name=nce", ["loss.name is 'nce', which is no loss", "expected one of info_nce, triplet"]),
        ("strategies.ecw={}", ["strategies.ecw.name is 'ecw', which is no strategy; did you mean 'ewc'?"]),
        ("policies=[keep,rout]", ["policies.rout.name is 'rout', which is no policy; did you mean 'route'?"]),
        ("policies={}", ["policies is empty; expected at least one gallery policy"]),
        ("index.backend.name=hnsw", ["index.backend.name is 'hnsw', which is no backend"]),
        ("engine.name=spark", ["engine.name is 'spark', which is no engine", "local, ray"]),
        ("stream.source.name=coco", ["stream.source.name is 'coco', which is no source", "synthetic, table"]),
        ("model.name=nowhere.models:Big", ["model.name is 'nowhere.models:Big', which cannot be imported"]),
        # The data does not fit.
        ("model={name: two_branch}", ["model two_branch works on features", "no column image_features", "or take model tiny"]),
        ("stream.tasks.by=colour", ["no column 'colour'; it has pair_id"]),
        ("stream.tasks.order=[poster,chalkbord]", ["names 'chalkbord'", "did you mean 'chalkboard'?"]),
        ("train.keep=worst", ["train.keep is 'worst'", "expected one of 'last', 'best'"]),
        # Texts that are no override.
        ("train.lr", ["override 'train.lr' has no key and value; expected key=value"]),
        ("train.lr=[", ["override 'train.lr=[' cannot be read"]),
    ],
)
def test_settings_that_cannot_be(cmcl: Command, tmp_path: Path, override: str, parts: list[str]) -> None:
    """Each before anything is trained; and most leave no folder that would stand in the way of the corrected command."""
    path = write_config(tmp_path, tmp_path / "out", policies={"keep": {}, "bridge": {}})
    changes = ["policies={}"] if override == "policies={}" else []
    if changes:
        path = write_config(tmp_path, tmp_path / "out", policies={})
    refused(cmcl("run", path, *([] if changes else [override])), *parts)
    assert not (tmp_path / "out" / "tasks").exists() or not list((tmp_path / "out" / "tasks").rglob("manifest.json"))


def test_a_correction_finds_no_folder_in_its_way(cmcl: Command, tmp_path: Path) -> None:
    """What is refused before the first task writes nothing, so the same folder takes the corrected command."""
    path = write_config(tmp_path, tmp_path / "out")
    for override in ("model.width=9", "model={name: two_branch}", "stream.tasks.by=colour", "stream.source.groups=0"):
        assert cmcl("run", path, override).exit_code == 2
        assert not (tmp_path / "out").exists()


def test_a_config_that_is_not_there(cmcl: Command, tmp_path: Path) -> None:
    refused(cmcl("run", tmp_path / "none.yaml"), f"config file {tmp_path}/none.yaml is missing; expected a YAML file")
    refused(cmcl("run", "nosuchdemo"), "nosuchdemo.yaml is missing")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    refused(cmcl("run", tmp_path / "list.yaml"), "holds a list; expected a mapping")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    refused(cmcl("run", tmp_path / "broken.yaml"), "broken.yaml")


def test_a_batch_that_workers_cannot_share(cmcl: Command, tmp_path: Path) -> None:
    path = write_config(tmp_path, tmp_path / "out", engine={"name": "ray", "num_workers": 3})
    refused(cmcl("run", path), "train.batch_size is 16, which 3 workers cannot share equally", "change one of them")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda folder: (folder / "pairs.csv").unlink(), ["stream.source.pairs names", "pairs.csv, which is missing"]),
        (
            lambda folder: (folder / "pairs.csv").write_text("image_uri,group,split\nimages/00.png,day,train\n"),
            ["pairs.csv has no column 'caption'; it has image_uri, group, split", "say under stream.source.columns"],
        ),
        (lambda folder: (folder / "pairs.csv").write_text(""), ["pairs.csv cannot be read as csv"]),
        (lambda folder: (folder / "pairs.csv").write_bytes(b"\xff\xfe\x00"), ["pairs.csv"]),
        (
            lambda folder: shutil.rmtree(folder / "images"),
            ["48 of 48 pairs cannot be used (48 image file missing)", "max_rejected_share"],
        ),
    ],
)
def test_data_that_is_not_there(cmcl: Command, tmp_path: Path, damage: Callable[[Path], Any], parts: list[str]) -> None:
    stream = write_pictures(tmp_path)
    damage(tmp_path)
    refused(cmcl("run", write_config(tmp_path, tmp_path / "out", stream=stream)), *parts)
    assert not (tmp_path / "out").exists()


def test_pictures_that_do_not_decode_are_set_aside(cmcl: Command, tmp_path: Path) -> None:
    """The run goes on without them; they are counted in the message and in stream.json, and listed in rejected.parquet."""
    path = write_config(tmp_path, tmp_path / "out", stream=write_pictures(tmp_path, broken=2), policies={"keep": {}})
    result = cmcl("run", path)
    assert result.exit_code == 0, result.output
    assert "2 tasks, 46 pairs, 2 rows set aside (rejected.parquet)" in result.stderr
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["id"] for row in rejected] == ["pairs_000001", "pairs_000002"]
    assert {row["reason"] for row in rejected} == {"image does not decode"}
    assert "images/01.png" in rejected[0]["detail"]
    assert json.loads((tmp_path / "out" / "stream.json").read_text())["rejected"] == {"image does not decode": 2}


def test_too_many_bad_pictures_stop_the_run(cmcl: Command, tmp_path: Path) -> None:
    path = write_config(tmp_path, tmp_path / "out", stream=write_pictures(tmp_path, broken=12))
    refused(cmcl("run", path), "12 of 48 pairs cannot be used (12 image does not decode)", "max_rejected_share")


def test_data_that_changed_since_the_run_began(cmcl: Command, tmp_path: Path) -> None:
    """Neither goes on with the run nor answers a search: rows would be other rows."""
    path = write_config(tmp_path, tmp_path / "out", stream=write_pictures(tmp_path), policies={"keep": {}})
    assert cmcl("run", path).exit_code == 0
    write_pictures(tmp_path, caption=[f"other {number}" for number in range(48)])
    refused(cmcl("run", path), "the data has fingerprint", "the dataset changed since this run began", "give another folder")
    refused(cmcl("search", tmp_path / "out", "a red thing"), "the dataset changed since this run began")


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "strategies.safetensors", "state.json"])
def test_a_damaged_checkpoint(cmcl: Command, copied: Path, name: str) -> None:
    flip(copied / "tasks" / "00_poster" / "checkpoint" / name)
    path = f"{copied}/tasks/00_poster/checkpoint/{name}"
    refused(cmcl("run", copied.parent / "run.yaml"), f"file {path} is damaged", "its manifest says", "remove the folder")
    # The task after it starts from it.
    shutil.rmtree(copied / "tasks" / "01_chalkboard")
    refused(cmcl("run", copied.parent / "run.yaml"), f"file {path} is damaged")


@pytest.mark.parametrize("kind", ["embeddings", "shards"])
@pytest.mark.parametrize("name", ["vectors.npy", "ids.npy"])
def test_a_damaged_embedding_or_shard(cmcl: Command, copied: Path, finished: Path, kind: str, name: str) -> None:
    """Every one of them is read when the last stage is done again; a search reads the live policy's shards."""
    (copied / "tasks" / "02_neon" / "scores" / "manifest.json").unlink()
    current = json.loads((copied / "gallery" / "current").read_text())["policies"]["keep"]
    gallery = json.loads((copied / "gallery" / "versions" / f"{current}.json").read_text())
    shard = next(shard for shard in gallery["shards"] if shard["side"] == "image")
    folder = copied / "gallery" / (shard["folder"] if kind == "shards" else f"embeddings/{shard['embeddings']}")
    flip(folder / name)
    refused(cmcl("run", copied.parent / "run.yaml"), f"file {folder / name} is damaged", "remove the folder")
    if kind == "shards":
        refused(cmcl("search", copied, "a red circle"), f"file {folder / name} is damaged")
    # What the text says is what helps.
    shutil.rmtree(folder)
    assert cmcl("run", copied.parent / "run.yaml").exit_code == 0
    assert differing(copied, finished) == set()


def test_a_removed_shard_of_a_finished_run_is_made_anew(cmcl: Command, copied: Path, finished: Path) -> None:
    """Where no stage is left to do, the same command still does what the text of a damaged file promises."""
    for kind in ("shards", "embeddings"):
        shutil.rmtree(copied / "gallery" / kind)
    refused(cmcl("search", copied, "red"), "gallery/shards/", "manifest.json is missing")
    assert cmcl("run", copied.parent / "run.yaml").exit_code == 0
    assert cmcl("search", copied, "red").stdout == cmcl("search", finished, "red").stdout


def test_a_damaged_map(cmcl: Command, copied: Path) -> None:
    (copied / "tasks" / "02_neon" / "scores" / "manifest.json").unlink()
    maps = sorted((copied / "gallery" / "maps").iterdir())
    for path in maps:
        flip(path)
    refused(cmcl("run", copied.parent / "run.yaml"), "map ", "gallery/maps/", ".npz is damaged", "remove it and run again")
    refused(cmcl("search", copied, "a red circle", "--policy", "bridge"), "map ", ".npz is damaged")
    for path in maps:
        path.unlink()
    assert cmcl("run", copied.parent / "run.yaml").exit_code == 0


@pytest.mark.parametrize("name", ["run.json", "stream.json", "gallery/current"])
def test_a_damaged_json_file(cmcl: Command, copied: Path, name: str) -> None:
    (copied / name).write_text('{"half": ')
    result = cmcl("search", copied, "a red circle")
    refused(result, f"file {copied / name} is not valid JSON")


def test_a_gallery_version_that_was_changed(cmcl: Command, copied: Path) -> None:
    for path in (copied / "gallery" / "versions").iterdir():
        path.write_text(path.read_text().replace('"mean": 0.0', '"mean": 0.5'))
    refused(cmcl("search", copied, "a red circle"), "gallery/versions/", "is damaged: its content has digest")


@pytest.mark.parametrize(
    ("override", "named"),
    [("train.lr=0.02", "train.lr: 0.01 there, 0.02 here"), ("seed=7", "seed: 3 there, 7 here"), ("model.dim=8", "model.dim: 16")],
)
def test_a_folder_of_another_config(cmcl: Command, finished: Path, tmp_path: Path, override: str, named: str) -> None:
    path = write_config(tmp_path, finished)
    refused(
        cmcl("run", path, override), f"folder {finished} holds run", "of another config", named, "give another folder (out=...)"
    )


def test_a_folder_of_something_else(cmcl: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path = write_config(tmp_path, tmp_path / "out")
    for text in ('{"run": 1}', "[1, 2]"):
        (tmp_path / "out" / "run.json").write_text(text)
        refused(cmcl("run", path), f"file {tmp_path}/out/run.json is no run's")
        refused(cmcl("search", tmp_path / "out", "text"), f"file {tmp_path}/out/run.json is no run's")


def test_a_folder_that_cannot_be_written(cmcl: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("taken")
    path = write_config(tmp_path, tmp_path / "file" / "out")
    refused(cmcl("run", path), "a file cannot be used", "check the path")


def test_search_where_no_run_is(cmcl: Command, tmp_path: Path) -> None:
    refused(cmcl("search", tmp_path, "a red circle"), f"folder {tmp_path} holds no run.json; expected the folder of a run")
    refused(cmcl("search", tmp_path / "none", "a red circle"), "holds no run.json")


def test_searches_that_cannot_be(cmcl: Command, finished: Path, tmp_path: Path) -> None:
    refused(cmcl("search", finished, "red", "--policy", "reindx"), "no gallery of policy 'reindx'; did you mean 'reindex'?")
    refused(cmcl("search", finished, "red", "-k", 0), "0 hits were asked for; expected at least 1")
    refused(cmcl("search", finished, "photo.png"), "image file photo.png is missing; expected a file, or a text")
    (tmp_path / "photo.png").write_bytes(b"no picture")
    refused(cmcl("search", finished, tmp_path / "photo.png"), "does not decode", "expected a PNG, JPEG or other image file")


def test_a_search_that_has_no_gallery_yet(cmcl: Command, copied: Path) -> None:
    """Interrupted before the first stage was over."""
    shutil.rmtree(copied / "gallery")
    refused(cmcl("search", copied, "red"), "gallery has no file current; expected a finished task")


def test_reports_that_cannot_be(cmcl: Command, finished: Path, copied: Path, tmp_path: Path) -> None:
    refused(cmcl("report", tmp_path / "none"), f"{tmp_path}/none/run.json is missing")
    refused(cmcl("report", finished, copied, "--out", tmp_path), "both are label 'replay' with seed 3")
    (copied / "scores.parquet").write_bytes(b"PAR1 and no more")
    refused(cmcl("report", copied), "scores.parquet is not a Parquet file")
    assert cmcl("report").exit_code == 2


def test_no_stack_trace_from_a_process(tmp_path: Path) -> None:
    """The same through python -m, where nothing catches what the command lets through."""
    path = write_config(tmp_path, tmp_path / "out", policies={"keep": {}})
    command = [sys.executable, "-m", "cmcl_ray.cli", "run", path, "train.lr=fast"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cmcl: train.lr is 'fast' (str); expected a number; correct it\n"


def test_verbose_says_where(cmcl: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("taken")
    path = write_config(tmp_path, tmp_path / "file" / "out", policies={"keep": {}})
    result = cmcl("--verbose", "run", path)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("cmcl: a file cannot be used")
