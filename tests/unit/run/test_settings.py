"""A config becomes checked settings, and its digest depends on what is computed and on nothing else."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cmcl_ray.config import load_config
from cmcl_ray.errors import ConfigError
from cmcl_ray.run.settings import EvaluateSettings, IndexSettings, RunSettings, package_versions, runs_of, settings_from
from tests.run.tiny import CONFIG, write_config


def settings(tmp_path: Path, *overrides: str, **sections: Any) -> RunSettings:
    return settings_from(load_config(write_config(tmp_path, "runs/x", **sections), overrides))


def test_every_section_arrives(tmp_path: Path) -> None:
    made = settings(tmp_path)
    assert (made.model.name, made.loss.name, made.backend.name, made.engine.name) == ("tiny", "info_nce", "exact", "local")
    assert made.source.params["groups"] == 3
    assert made.stream.splits.column == "split"
    assert made.train.batch_size == 16
    assert {label: spec.name for label, spec in made.policies.items()}["route_raw"] == "route"
    assert made.policies["route_raw"].params == {"calibration": "none"}
    assert made.evaluate == EvaluateSettings(samples=2, calibration_queries=50)
    assert (made.index.part_rows, made.seed, made.label) == (IndexSettings({}).part_rows, 3, "replay")
    assert made.out == str(Path.cwd() / "runs" / "x")


def test_a_run_without_strategies_is_called_finetune(tmp_path: Path) -> None:
    plain = settings(tmp_path, strategies={})
    assert (plain.label, plain.describe()["strategy"]) == ("finetune", "finetune")
    both = settings(tmp_path, strategies={"replay": {}, "ewc": {}})
    assert (both.label, both.describe()["strategy"]) == ("replay+ewc", "replay+ewc")
    assert settings(tmp_path, "label=mine").label == "mine"


@pytest.mark.parametrize("override", ["out=elsewhere", "label=other", "engine.device=cpu", "data.root=/mnt"])
def test_places_do_not_change_the_digest(tmp_path: Path, override: str) -> None:
    assert settings(tmp_path, override).run_id == settings(tmp_path).run_id


@pytest.mark.parametrize(
    "override", ["seed=4", "train.lr=0.5", "model.dim=8", "stream.source.seed=1", "policies.bridge.chain=on"]
)
def test_what_is_computed_changes_the_digest(tmp_path: Path, override: str) -> None:
    assert settings(tmp_path, override).run_id != settings(tmp_path).run_id


def test_the_description_is_plain_json(tmp_path: Path) -> None:
    """It comes back equal, and settings made of what comes back are the same run."""
    made = settings(tmp_path)
    back = json.loads(json.dumps(made.describe()))
    assert back == made.describe()
    assert settings_from(back["config"]).run_id == made.run_id


def test_versions_of_packages_that_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    found = package_versions()
    assert "ray" not in found
    assert found["torch"] == "1"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"index": {"backend": {"name": "exact"}, "batch_rows": 0}},
            "index: part_rows is 2048 and batch_rows 0; expected at least 1",
        ),
        ({"evaluate": {"directions": ["t2t"]}}, "evaluate: directions is .'t2t'.; expected t2i, i2t or both"),
        ({"train": [1]}, "train is .1. .list.; expected a mapping; correct it"),
        ({"model": {}}, "missing value model.name; expected the name of a model; set model={name: NAME}"),
        ({"model": "tiny.yaml"}, "model is 'tiny.yaml', but .* is missing"),
        ({"seed": 2**63}, "seed is 9223372036854775808; expected a whole number from 0"),
        ({"stream": {"tasks": {"by": "group"}}}, "missing value stream.source.name; expected the name of a source"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **sections)


def test_numbers_without_end_are_named() -> None:
    with pytest.raises(ConfigError, match=r"evaluate.hits\[1\] is inf; expected a finite number; correct it"):
        settings_from({**CONFIG, "out": "x", "evaluate": {"hits": [1.0, math.inf]}})


def test_one_config_is_one_run(tmp_path: Path) -> None:
    (run,) = runs_of(write_config(tmp_path, tmp_path / "out"))
    assert run.out == str(tmp_path / "out")


def test_seeds_and_labels_make_runs(tmp_path: Path) -> None:
    """Labels in order, seeds within a label, each in a folder of its own; strategies are replaced, not merged."""
    compare = {"plain": {"strategies": {}}, "kept": None, "slow": {"train": {"lr": 0.5}}}
    runs = runs_of(write_config(tmp_path, tmp_path / "out", compare=compare, seeds=[0, 7]))
    assert [(run.label, run.seed) for run in runs] == [(label, seed) for label in compare for seed in (0, 7)]
    assert [run.out for run in runs] == [f"{tmp_path}/out/{run.label}/seed{run.seed}" for run in runs]
    assert len({run.run_id for run in runs}) == 6
    assert dict(runs[0].strategies) == {}
    assert list(runs[2].strategies) == ["replay"]
    assert (runs[2].train.lr, runs[4].train.lr, runs[4].train.batch_size) == (CONFIG["train"]["lr"], 0.5, 16)


def test_seeds_without_labels_are_one_label(tmp_path: Path) -> None:
    runs = runs_of(write_config(tmp_path, tmp_path / "out"), ["seeds=[1,2]"])
    assert [(run.label, run.seed) for run in runs] == [("run", 1), ("run", 2)]
    assert {run.label for run in runs_of(write_config(tmp_path, "x"), ["seeds=[1]", "label=mine"])} == {"mine"}


def test_labels_without_seeds_take_the_seed(tmp_path: Path) -> None:
    assert [run.seed for run in runs_of(write_config(tmp_path, "x", compare={"a": {}, "b": {}}))] == [3, 3]
