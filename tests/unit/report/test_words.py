"""The sentences say what was run."""

import pytest

from cmcl_ray.evaluate.scores import write_table
from cmcl_ray.report.runs import load_run, load_runs
from cmcl_ray.report.words import (
    best_policy,
    enumerate_words,
    opening,
    opening_of_several,
    policy_note,
    set_aside,
    strategy_name,
    verdict,
)
from cmcl_ray.storage import write_json
from tests.unit.report.fabricate import make_run, score_rows


def test_the_opening_names_stream_tasks_counts_model_engine_and_seed(run_folder):
    text = opening(load_run(run_folder))
    for part in (
        "finetune learned 3 tasks of the stream 'synthetic'",
        "one after the other",
        "3,000 images with 9,000 captions",
        "the model tiny, the engine local and the seed 0",
        "2,700 text queries against 900 images",
        "900 image queries against 2,700 texts",
    ):
        assert part in text


def test_a_run_trained_once_is_said_to_be(tmp_path):
    folder = make_run(tmp_path, "joint")
    write_table(f"{folder}/scores.parquet", [row for row in score_rows("joint", 0, 0) if row.after_task == 2])
    assert "all at once" in opening(load_run(folder))


def test_the_verdict_names_the_best_policy_and_the_two_usual_ones(run_folder):
    run = load_run(run_folder)
    assert best_policy(run) == "route"
    assert verdict(run).startswith("Over all tasks, route put a right answer first most often: for ")
    assert "Embedding the whole gallery again (reindex) gave" in verdict(run)
    assert "leaving the gallery as it is (keep) gave" in verdict(run)


def test_no_verdict_without_one_ranking_over_all_tasks(tmp_path):
    write_json(str(tmp_path / "run.json"), {"run_id": "r", "label": "l", "seed": 3})
    write_table(str(tmp_path / "scores.parquet"), [row for row in score_rows("l", 3, 0) if row.scope == "known"])
    run = load_run(str(tmp_path))
    assert verdict(run) == ""
    assert "It ran with the seed 3." in opening(run)
    assert set_aside(run) == ["The run kept no word on its stream."]


def test_rows_set_aside_are_counted_with_their_reason(run_folder):
    run = load_run(run_folder)
    assert set_aside(run) == ["3 rows set aside: the image does not decode", "12 pairs in no task: Flags"]


def test_several_runs_are_introduced_with_their_seeds_and_the_best(compared_folders):
    text = opening_of_several(load_runs(compared_folders))
    assert text.startswith("6 runs over 3 tasks of the stream 'synthetic': finetune (seeds 0, 1 and 2) and replay")
    assert "replay with the policy route" in text


@pytest.mark.parametrize(
    ("strategy", "name"),
    [("ewc", "ewc"), (["replay", "ewc"], "replay + ewc"), ({"replay": {}, "ewc": {}}, "ewc + replay"), (None, "x")],
)
def test_the_strategy_is_named_however_it_is_kept(tmp_path, strategy, name):
    write_json(str(tmp_path / "run.json"), {"run_id": "r", "label": "x", "seed": 3, "strategy": strategy})
    write_table(str(tmp_path / "scores.parquet"), score_rows("x", 3, 0))
    assert strategy_name(load_run(str(tmp_path))) == name


def test_a_policy_is_explained_by_its_component_and_settings(run_folder, tmp_path):
    write_table(str(tmp_path / "scores.parquet"), score_rows("x", 3, 0))
    policies = {"route_raw": {"name": "route", "calibrate": False}, "mine": {"name": "package.module:Mine"}}
    write_json(str(tmp_path / "run.json"), {"run_id": "r", "label": "x", "seed": 3, "config": {"policies": policies}})
    run = load_run(str(tmp_path))
    assert policy_note(run, "route_raw").endswith("each shard is asked by the model version that made it (calibrate False)")
    assert policy_note(run, "mine") == "package.module:Mine"
    assert policy_note(load_run(run_folder), "keep").startswith("the old gallery is left as it is")


def test_words_are_joined_as_in_a_sentence():
    assert [enumerate_words(list(words)) for words in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
