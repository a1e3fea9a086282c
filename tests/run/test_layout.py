"""What a run leaves behind is a contract: other tools read it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cmcl_ray import storage
from cmcl_ray.evaluate.scores import COST_SCHEMA, SCORE_SCHEMA
from tests.run.left import paths_of
from tests.run.tiny import CONFIG, SOURCE, tiny_stream

TASKS = ("00_poster", "01_chalkboard", "02_neon")
CHECKPOINT = ("best", "model", "optimizer", "strategies")


def test_every_file_is_where_the_contract_says(finished: Path) -> None:
    """All of them, and nothing else: no progress checkpoint, no part of an embedding, no file half written."""
    expected = {
        *("run.json", "stream.json", "scores.parquet", "costs.parquet", "metrics.jsonl", "report.html", "report.md"),
        *("drift.json", "samples.json", "gallery/current", "gallery/items.parquet"),
        *(f"tasks/{task}/checkpoint/{name}.safetensors" for task in TASKS for name in CHECKPOINT),
        *(f"tasks/{task}/checkpoint/{name}.json" for task in TASKS for name in ("state", "metrics", "manifest")),
        *(f"tasks/{task}/scores/{name}.parquet" for task in TASKS for name in ("scores", "costs")),
        *(f"tasks/{task}/scores/{name}.json" for task in TASKS for name in ("drift", "samples", "manifest")),
    }
    assert {name for name in paths_of(finished) if not name.startswith("gallery/") or name.count("/") == 1} == expected
    for kind in ("embeddings", "shards"):
        for folder in (finished / "gallery" / kind).iterdir():
            assert sorted(path.name for path in folder.iterdir()) == ["ids.npy", "manifest.json", "vectors.npy"]
    # Each policy has a gallery version after each task.
    assert len(list((finished / "gallery" / "versions").iterdir())) == 5 * 3


def test_run_json_loads_without_the_package(finished: Path) -> None:
    """Plain JSON: the resolved config, the seed, versions, and the digest that is the run's id."""
    run = json.loads((finished / "run.json").read_text())
    assert run["config"]["model"] == CONFIG["model"]
    assert run["config"]["policies"]["route_raw"] == {"name": "route", "calibration": "none"}
    assert (run["seed"], run["strategy"], run["label"], run["engine"]) == (3, "replay", "replay", "local")
    assert run["policies"] == list(CONFIG["policies"])
    assert {"python", "torch", "numpy", "pyarrow", "cmcl-ray"} <= run["versions"].keys()
    assert len(run["run_id"]) == 16
    assert {row["run_id"] for row in pq.read_table(finished / "scores.parquet").to_pylist()} == {run["run_id"]}


def test_stream_json_counts_every_split(finished: Path) -> None:
    stream = json.loads((finished / "stream.json").read_text())
    assert [task["name"] for task in stream["tasks"]] == ["poster", "chalkboard", "neon"]
    for task in stream["tasks"]:
        for split, key in (("train", ""), ("val", "val_"), ("test", "test_")):
            assert task["splits"][split]["images"] == SOURCE[f"{key}images_per_group"]
            assert task["splits"][split]["pairs"] == 2 * SOURCE[f"{key}images_per_group"]
    assert len(stream["fingerprint"]) == 64


def test_tables_have_the_schemas_of_the_contract(finished: Path) -> None:
    assert pq.read_schema(finished / "scores.parquet").equals(SCORE_SCHEMA)
    assert pq.read_schema(finished / "costs.parquet").equals(COST_SCHEMA)


def test_items_name_every_id_of_the_gallery(finished: Path) -> None:
    """Ids in embeddings are rows of the data; this table says which image or pair, of which task, and what it is right for."""
    items = pq.read_table(finished / "gallery" / "items.parquet").to_pylist()
    stream = tiny_stream()
    names = {"image": stream.pairs.images["image_id"].to_pylist(), "text": stream.pairs.pairs["pair_id"].to_pylist()}
    assert len(items) == 3 * (12 + 24)
    for item in items:
        assert item["id"] == names[item["side"]][item["row"]]
        assert item["id"].split("_")[1] == stream.tasks[item["task_index"]].name
        # The caption's id starts with that of its image.
        (image,) = [other for other in items if other["side"] == "image" and other["relevance"] == item["relevance"]]
        assert item["id"].startswith(image["id"])


def test_every_manifest_tells_the_truth(finished: Path) -> None:
    for manifest in finished.rglob("manifest.json"):
        storage.verify(str(manifest.parent))


def test_the_checkpoint_is_read_by_other_tools(finished: Path) -> None:
    """safetensors with names of both branches, shaped as the config says."""
    weights = load_file(finished / "tasks" / TASKS[2] / "checkpoint" / "model.safetensors")
    assert weights["image_branch.head.weight"].shape == (16, 4 * 8 * 16)
    assert weights["text_branch.words.weight"].shape == (256, 16)


def test_metrics_are_lines_of_json_with_every_step_once(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["task"], line["step"]) for line in lines] == [(task, step) for task in range(3) for step in range(1, 9)]
    assert all(line["train/loss"] > 0 for line in lines)


def test_current_points_at_the_last_galleries(finished: Path) -> None:
    current = json.loads((finished / "gallery" / "current").read_text())
    assert current["live"] == "keep"
    assert current["policies"].keys() == CONFIG["policies"].keys()
    for policy, version in current["policies"].items():
        gallery = json.loads((finished / "gallery" / "versions" / f"{version}.json").read_text())
        assert (gallery["policy"], gallery["after_task"]) == (policy, 2)
        assert sorted((shard["side"], shard["task"]) for shard in gallery["shards"]) == [
            (side, task) for side in ("image", "text") for task in range(3)
        ]


def test_what_an_update_costs(finished: Path) -> None:
    """Counts are those of the policy alone, whatever other policies had embedded already."""
    costs = pq.read_table(finished / "costs.parquet").to_pylist()
    passes = {(row["policy"], row["task_index"]): row["forward_passes"] for row in costs if row["stage"] == "update"}
    new = 12 + 24
    for task in range(3):
        assert passes["keep", task] == passes["route_raw", task] == new
        assert passes["reindex", task] == (task + 1) * new
        # The newest shards are calibrated with 50 queries at most: 50 captions for images, 32 images for captions.
        assert passes["route", task] == new + 50 + 32
    trained = {row["task_index"]: row["samples"] for row in costs if row["stage"] == "train"}
    assert trained == {0: 8 * 16, 1: 8 * (16 + 8), 2: 8 * (16 + 8)}
    assert all(row["wall_s"] >= 0 for row in costs)


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_report_is_whole(finished: Path, name: str) -> None:
    text = (finished / name).read_text()
    assert "reindex" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
