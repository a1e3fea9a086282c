"""A run's folder is read with what is there, and refused with a clear text otherwise."""

import shutil

import pytest

from cmcl_ray.errors import IntegrityError, StageError
from cmcl_ray.evaluate.scores import write_table
from cmcl_ray.report.runs import load_run, load_runs
from cmcl_ray.storage import read_json, write_json
from tests.unit.report.fabricate import POLICIES, TASKS, make_run, score_rows


def test_a_whole_run(run_folder):
    run = load_run(run_folder)
    assert (run.label, run.seed, run.run_id) == ("finetune", 0, "id-finetune-0")
    assert run.policies == list(POLICIES)
    assert run.tasks == list(TASKS)
    assert run.sides == [("all", "t2i"), ("all", "i2t"), ("known", "t2i"), ("known", "i2t")]
    assert run.matrix("keep", "all", "t2i").shape == (3, 3)
    assert run.matrix("keep", "all", "t2i", "no such metric") is None
    assert run.final_sizes("t2i") == (2700, 900)
    assert run.final_sizes("i2t") == (900, 2700)


def test_only_run_json_and_scores_are_needed(tmp_path):
    write_json(str(tmp_path / "run.json"), {"run_id": "r", "label": "l", "seed": 3})
    write_table(str(tmp_path / "scores.parquet"), score_rows("l", 3, 0))
    run = load_run(str(tmp_path))
    assert run.policies == list(POLICIES)
    assert (run.costs, run.stream, run.drift, run.samples) == (None, {}, [], [])


def test_messages(tmp_path, run_folder):
    with pytest.raises(IntegrityError, match=r"run.json is missing"):
        load_run(str(tmp_path))
    folder = str(tmp_path / "copy")
    shutil.copytree(run_folder, folder)
    write_json(f"{folder}/drift.json", {"task": 1})
    with pytest.raises(IntegrityError, match=r"drift.json holds dict; expected a list; remove it"):
        load_run(folder)
    write_json(f"{folder}/drift.json", [])
    write_json(f"{folder}/stream.json", [])
    with pytest.raises(IntegrityError, match=r"stream.json holds list; expected an object"):
        load_run(folder)
    facts = read_json(f"{folder}/run.json")
    del facts["seed"]
    write_json(f"{folder}/run.json", facts)
    with pytest.raises(IntegrityError, match=r"run.json lacks seed; expected an object with run_id, label and seed"):
        load_run(folder)
    with pytest.raises(StageError, match=r"no run was named for the report; expected at least one folder"):
        load_runs([])
    with pytest.raises(StageError, match=r"both are label 'finetune' with seed 0; expected one run a label and seed"):
        load_runs([run_folder, make_run(tmp_path / "twin")])
    with pytest.raises(StageError, match=r"both are label 'finetune'"):
        load_runs([run_folder, run_folder])


def test_an_empty_score_table_is_refused(tmp_path, run_folder):
    import pyarrow.parquet as pq

    from cmcl_ray.evaluate.scores import SCORE_SCHEMA

    shutil.copy(f"{run_folder}/run.json", tmp_path / "run.json")
    pq.write_table(SCORE_SCHEMA.empty_table(), tmp_path / "scores.parquet")
    with pytest.raises(IntegrityError, match=r"scores.parquet has no rows; expected scores; let the run end first"):
        load_run(str(tmp_path))
