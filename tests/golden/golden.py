"""The tiny run whose figures are kept, and how to keep new ones.

    python -m tests.golden.golden

writes tiny.json anew. Do so only for a change that is meant to change what a run computes, and say in the change why it does.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq

from cmcl_ray.logs import Silent
from cmcl_ray.run.study import run_config
from tests.run.tiny import EWC, MODEL, REPLAY, TRAIN, write_config

# Steps small enough, and no bias that a normalisation cancels, so that a last bit more or less does not grow: on a CPU without
# vector instructions the losses differ from those of AVX2 by 5e-6 and no rank moves.
STEADY_MODEL = {"name": "tiny", **MODEL, "width": 16}
STEADY_TRAIN = {**TRAIN, "lr": 0.001, "epochs": 6}
KEPT = Path(__file__).with_name("tiny.json")


def figures(folder: Path) -> dict[str, Any]:
    """Run the tiny config with replay and EWC in a folder, and return its losses and scores in full precision."""
    path = write_config(folder, folder / "out", strategies={"replay": REPLAY, "ewc": EWC}, model=STEADY_MODEL, train=STEADY_TRAIN)
    with (
        mock.patch("cmcl_ray.run.continual.write_report", return_value=("", "")),
        mock.patch.object(os, "fsync"),
    ):
        run_config(path, (), Silent())
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = {
        f"task {line['task']} step {line['step']} {name}": value
        for line in lines
        for name, value in line.items()
        if name.endswith(("loss", "penalty"))
    }
    columns = ("policy", "scope", "direction", "after_task", "task_index", "metric")
    rows = pq.read_table(folder / "out" / "scores.parquet").to_pylist()
    scores = {" ".join(str(row[name]) for name in columns): row["value"] for row in rows}
    return {"losses": losses, "scores": scores}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        KEPT.write_text(json.dumps(figures(Path(scratch)), indent=1) + "\n")
    print(f"written: {KEPT}")
