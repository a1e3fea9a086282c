"""Tables hold the figures of the metrics, mark the best, and print everywhere."""

import math

import numpy as np
import pytest

from cmcl_ray.evaluate.continual import backward_transfer, final_average, forgetting
from cmcl_ray.evaluate.scores import write_table
from cmcl_ray.report.detail_tables import cost_table, drift_table, matrix_table, stream_table
from cmcl_ray.report.markdown import escape, render_table
from cmcl_ray.report.runs import load_run, load_runs
from cmcl_ray.report.tables import NOTHING, comparison_table, headline_table, number, policy_table, size, update_cost
from cmcl_ray.report.text import render_policy_table
from cmcl_ray.storage import write_json
from tests.unit.report.fabricate import POLICIES, TASKS, make_run, score_rows


@pytest.fixture(scope="module")
def run(run_folder):
    return load_run(run_folder)


def column(table, title, group=0):
    place = [entry.title for entry in table.columns].index(title)
    return {name: cells[place] for name, cells in table.groups[group].rows}


def test_the_policy_table_prints_the_metrics_of_each_scope_and_direction(run):
    table = policy_table(run)
    assert [group.title for group in table.groups][:2] == ["Text to image, all tasks", "Image to text, all tasks"]
    for group, (scope, direction) in enumerate(run.sides):
        for policy in POLICIES:
            matrix_TT = run.matrix(policy, scope, direction)
            assert column(table, "R@1", group)[policy].text == f"{final_average(matrix_TT):.1f}"
            assert column(table, "Forgetting", group)[policy].text == f"{forgetting(matrix_TT):.1f}"
            assert column(table, "Backward transfer", group)[policy].text == f"{backward_transfer(matrix_TT):.1f}"
            mrr = run.matrix(policy, scope, direction, "mrr")
            assert column(table, "MRR", group)[policy].text == f"{np.mean(mrr[-1]):.3f}"


def test_the_best_is_marked_in_the_right_direction(run):
    table = headline_table(run)
    for title in ("R@1 t2i all", "Forgetting i2t"):
        assert [policy for policy, cell in column(table, title).items() if cell.best] == ["route"]
    cheap = {policy for policy, cell in column(table, "Update passes").items() if cell.best}
    assert cheap == {"keep", "bridge", "route", "transport"}


def test_what_is_equal_for_all_is_not_marked(tmp_path):
    rows = [row for row in score_rows("one", 0, 0) if row.policy == "keep"]
    write_json(str(tmp_path / "run.json"), {"run_id": "r", "label": "one", "seed": 0})
    write_table(str(tmp_path / "scores.parquet"), rows)
    (group,) = headline_table(load_run(str(tmp_path))).groups
    assert not any(cell.best for _, cells in group.rows for cell in cells)
    assert group.rows[0][1][-1].text == NOTHING


def test_update_costs_leave_out_the_first_task_the_queries_and_the_training(run):
    assert update_cost(run, "keep") == (600, pytest.approx(1.5))
    assert update_cost(run, "reindex") == (1800, pytest.approx(4.5))


def test_the_comparison_is_over_seeds(compared_folders):
    runs = load_runs(compared_folders)
    table = comparison_table(runs)
    assert [group.title for group in table.groups] == list(POLICIES)
    cell = column(table, "R@1 t2i all")["replay"]
    values = [final_average(run.matrix("keep", "all", "t2i")) for run in runs if run.label == "replay"]
    assert cell.text == f"{np.mean(values):.1f} \u00b1 {np.std(values, ddof=1):.1f}"
    assert "95 % interval" in cell.note
    assert "seed 2: " in cell.note
    assert cell.best
    assert not column(table, "R@1 t2i all")["finetune"].best
    # Costs do not vary, so no spread is printed.
    assert column(table, "Update passes")["replay"].text == "600"


def test_the_matrix_table_has_a_row_a_time_and_dashes_above_the_diagonal(run):
    table = matrix_table(run, "known", "i2t")
    assert [group.title for group in table.groups] == list(POLICIES)
    rows = table.groups[0].rows
    assert [name for name, _ in rows] == [f"after {task}" for task in TASKS]
    assert [cell.text == NOTHING for cell in rows[1][1]] == [False, False, True]


def test_drift_cost_and_stream_tables(run):
    drift = drift_table(run)
    assert [group.title for group in drift.groups] == list(TASKS[:2])
    assert column(drift, "Differential", 1)["after travel | places"].text == NOTHING
    costs = cost_table(run)
    assert [group.title for group in costs.groups] == ["Shared by all policies", *POLICIES]
    assert column(costs, "Encoder passes")["train"].text == "270,000"
    assert column(costs, "Peak memory", 1)["update"].text == NOTHING
    stream = stream_table(run)
    assert column(stream, "train captions")["1 animals & nature"].text == "3,000"


def test_numbers():
    assert number(math.nan, 1) == NOTHING
    assert number(math.inf, 1) == "unranked"
    assert number(-0.04, 1) == "0.0"
    assert number(-1234.56, 1) == "-1,234.6"
    assert [size(value) for value in (0, 1023, 225 * 1024, 3 * 2**40)] == [NOTHING, "1,023 B", "225 KiB", "3.0 TiB"]


def test_the_terminal_table_is_plain_and_aligned(run):
    lines = render_policy_table(run).splitlines()
    assert render_policy_table(run).isascii()
    rows = [line for line in lines if line.split(" ")[0] in POLICIES]
    assert len(rows) == len(POLICIES)
    (best,) = (line for line in rows if line.startswith("route"))
    assert best.count("*") == 8
    dots = {tuple(place for place, letter in enumerate(line) if letter == ".") for line in rows}
    assert len(dots) == 1
    assert max(map(len, lines)) <= 120


def test_markdown_cannot_be_broken_by_names(run):
    text = render_table(matrix_table(run, "all", "t2i"))
    head = text.splitlines()[2]
    assert head == "| Policy, time | animals & nature | food \\<drink\\> | travel \\| places |"
    assert escape("a\n# b") == "a \\# b"


def test_a_run_trained_at_once_has_dashes_for_forgetting(tmp_path):
    folder = make_run(tmp_path, "joint")
    write_table(f"{folder}/scores.parquet", [row for row in score_rows("joint", 0, 0) if row.after_task == 2])
    assert column(headline_table(load_run(folder)), "Forgetting t2i")["keep"].text == NOTHING
