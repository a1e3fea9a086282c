"""Continual metrics reproduce the worked example and say when they cannot be told."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cmcl_ray.errors import ShapeError
from cmcl_ray.evaluate.continual import (
    average_incremental,
    backward_transfer,
    final_average,
    forgetting,
    matrix_from_scores,
)
from cmcl_ray.evaluate.scores import SCORE_SCHEMA

EXAMPLE = np.array([[60.0, 72.0, 10.0], [66.0, 70.0, 30.0], [45.0, 75.0, 80.0]])
METRICS = (final_average, average_incremental, backward_transfer, forgetting)


def test_o28_final_average():
    assert final_average(EXAMPLE) == pytest.approx(66.67, abs=0.01)


def test_o28_average_incremental():
    assert average_incremental(EXAMPLE) == pytest.approx(64.89, abs=0.01)


def test_o28_backward_transfer_is_averaged_over_the_earlier_tasks():
    assert backward_transfer(EXAMPLE) == pytest.approx(-5)


def test_o28_forgetting_starts_at_the_own_time_and_leaves_the_last_row_out():
    assert forgetting(EXAMPLE) == pytest.approx(8)


def test_cells_above_the_diagonal_are_never_used():
    measured = EXAMPLE.copy()
    measured[np.triu_indices(3, k=1)] = np.nan
    for metric in METRICS:
        assert metric(measured) == metric(EXAMPLE)


def test_one_task_has_an_average_and_no_forgetting():
    single = np.array([[40.0]])
    assert final_average(single) == average_incremental(single) == 40.0
    assert math.isnan(backward_transfer(single))
    assert math.isnan(forgetting(single))


def test_a_strategy_that_trains_once_has_only_a_final_average():
    joint = np.full((3, 3), np.nan)
    joint[2] = [50.0, 60.0, 70.0]
    assert final_average(joint) == 60.0
    for metric in (average_incremental, backward_transfer, forgetting):
        assert math.isnan(metric(joint))


@given(arrays.arrays(np.float64, (4, 4), elements=st.floats(0, 100)))
def test_forgetting_is_at_least_the_negative_of_backward_transfer(matrix_TT):
    assert forgetting(matrix_TT) >= -backward_transfer(matrix_TT) - 1e-9


def score_table(cells):
    base = {"run_id": "r", "label": "l", "seed": 0, "strategy": "s", "policy": "keep", "scope": "all", "direction": "t2i"}
    rows = [
        {**base, "task": name, "task_index": task, "after_task": step, "metric": "recall@1", "value": value}
        | {"num_queries": 5, "num_gallery": 7}
        for name, task, step, value in cells
    ]
    return pa.Table.from_pylist(rows, schema=SCORE_SCHEMA)


def test_the_matrix_is_found_in_rows_of_any_order():
    table = score_table([("b", 1, 1, 3.0), ("a", 0, 1, 2.0), ("a", 0, 0, 1.0)])
    names, matrix_TT = matrix_from_scores(table, "keep", "all", "t2i", "recall@1")
    assert names == ["a", "b"]
    np.testing.assert_array_equal(matrix_TT, [[1.0, np.nan], [2.0, 3.0]])


def test_messages():
    table = score_table([("a", 0, 0, 1.0), ("a", 0, 0, 2.0)])
    with pytest.raises(ValueError, match=r"no row with policy 'rout', .*policy: keep; scope: all; .*choose among these"):
        matrix_from_scores(table, "rout", "all", "t2i", "recall@1")
    with pytest.raises(ValueError, match=r"gives a cell twice .*\(2 rows\); expected the rows of one run; filter"):
        matrix_from_scores(table, "keep", "all", "t2i", "recall@1")
    for metric in METRICS:
        with pytest.raises(ShapeError, match=r"shape \(2, 3\); expected \(T, T\)"):
            metric(np.ones((2, 3)))
