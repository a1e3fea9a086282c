"""Every figure of a run can be computed again, and the policies agree where they must."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cmcl_ray.logs import Silent
from cmcl_ray.run.study import run_config
from tests.run.brute_force import Key, differences
from tests.run.tables import write_pictures
from tests.run.tiny import CONFIG, write_config

Scores = dict[Key, float]


def scores_of(run: Path) -> Scores:
    columns = ("policy", "after_task", "task_index", "scope", "direction", "metric")
    return {tuple(row[name] for name in columns): row["value"] for row in pq.read_table(run / "scores.parquet").to_pylist()}  # type: ignore[misc]


def test_every_score_is_what_brute_force_finds(finished: Path) -> None:
    """All policies, both scopes and directions, every task after every task."""
    assert differences(finished) == []
    # 5 policies x (1 + 2 + 3) tasks x 2 scopes x 2 directions x 5 metrics.
    assert len(scores_of(finished)) == 5 * 6 * 2 * 2 * 5


def test_the_script_runs_alone_and_finds_a_changed_figure(copied: Path) -> None:
    """In a process that does not have the package, on a table with one figure moved by one query."""
    table = pq.read_table(copied / "scores.parquet")
    values = table["value"].to_pylist()
    values[7] += 100 / 24
    column = table.schema.get_field_index("value")
    pq.write_table(table.set_column(column, table.schema.field(column), [values]), copied / "scores.parquet")
    script = Path(__file__).with_name("brute_force.py")
    done = subprocess.run([sys.executable, "-I", str(script), str(copied)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("\n") == 1
    assert "cmcl_ray" not in script.read_text().replace("brute_force", "")


@pytest.mark.usefixtures("no_report")
def test_other_policies_backends_and_sizes(tmp_path: Path) -> None:
    """Chained and other maps, faiss, parts and batches that do not divide, one direction, a hit list that ends early."""
    pytest.importorskip("faiss")
    policies = {
        "chain": {"name": "bridge", "chain": True},
        **{kind: {"name": "bridge", "map": kind, "fit_pairs": 20} for kind in ("mean", "procrustes", "ridge")},
        "route": {},
    }
    index = {"backend": {"name": "flat"}, "part_rows": 7, "batch_rows": 5}
    evaluate = {"directions": ["i2t"], "hits": 11, "samples": 0, "calibration_queries": 9}
    path = write_config(tmp_path, tmp_path / "out", policies=policies, index=index, evaluate=evaluate)
    run_config(path, (), Silent())
    assert differences(tmp_path / "out") == []
    assert len(scores_of(tmp_path / "out")) == 5 * 6 * 2 * 5


@pytest.mark.usefixtures("no_report")
def test_relevance_that_joins_images(tmp_path: Path) -> None:
    """A table of files where several images show the same thing: any of them is right."""
    stream = write_pictures(tmp_path, relevance=True)
    run_config(write_config(tmp_path, tmp_path / "out", stream=stream, policies={"route": {}, "keep": {}}), (), Silent())
    assert differences(tmp_path / "out") == []
    items = pq.read_table(tmp_path / "out" / "gallery" / "items.parquet").to_pylist()
    images = [item["relevance"] for item in items if item["side"] == "image"]
    assert len(set(images)) < len(images)


def pairs_of(scores: Scores, *policies: str) -> Iterator[tuple[Key, list[float]]]:
    """Cells with the values of some policies side by side."""
    for key, value in scores.items():
        if key[0] == policies[0]:
            yield key, [value, *(scores[(policy, *key[1:])] for policy in policies[1:])]


def test_after_the_first_task_all_policies_agree(finished: Path) -> None:
    """There is one model then, whatever is done with an old gallery."""
    cells = [values for key, values in pairs_of(scores_of(finished), *CONFIG["policies"]) if key[1] == 0]
    assert len(cells) == 2 * 2 * 5
    assert all(len(set(values)) == 1 for values in cells)


def test_the_newest_task_is_asked_alike(finished: Path) -> None:
    """Its own shard comes from the newest model under every policy, so within the task all agree."""
    for key, values in pairs_of(scores_of(finished), *CONFIG["policies"]):
        if key[3] == "known" and key[1] == key[2]:
            assert len(set(values)) == 1, key


def test_matching_never_forgets_within_a_task(finished: Path) -> None:
    """route_raw asks each shard with the model that made it: R[T][k] = R[k][k] exactly in the known scope."""
    scores = scores_of(finished)
    for policy in ("route_raw", "route"):
        own = {key[2:]: value for key, value in scores.items() if key[0] == policy and key[3] == "known" and key[1] == key[2]}
        later = {key: value for key, value in scores.items() if key[0] == policy and key[3] == "known"}
        assert len(later) == 6 * 2 * 5
        assert {key: own[key[2:]] for key in later} == later


def test_policies_differ_where_the_model_moved(finished: Path) -> None:
    """The identities above would also hold of a run in which nothing was learnt."""
    scores = scores_of(finished)
    last = {policy: [value for key, value in scores.items() if key[0] == policy and key[1] == 2] for policy in CONFIG["policies"]}
    assert len({tuple(values) for values in last.values()}) == 5


def test_all_tasks_are_no_easier_than_the_known_one(finished: Path) -> None:
    """Other shards hold nothing relevant, so they can only come between."""
    scores = scores_of(finished)
    for key, value in scores.items():
        if key[3] == "all":
            known = scores[(*key[:3], "known", *key[4:])]
            assert value >= known if key[-1] == "median_rank" else value <= known, key


def test_figures_are_in_range(finished: Path) -> None:
    rows: list[dict[str, Any]] = pq.read_table(finished / "scores.parquet").to_pylist()
    for row in rows:
        high = {"mrr": 1.0, "median_rank": float(row["num_gallery"])}.get(row["metric"], 100.0)
        assert 0 <= row["value"] <= high
