"""Picking rows of a column in chunks: the same as from one array, in the order asked for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.data.pairs import take_rows


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_rows_come_in_the_order_asked_for_however_the_column_is_cut(lengths, data):
    values = [f"v{i}" for i in range(sum(lengths))]
    ends = np.cumsum(lengths)
    column = pa.chunked_array([values[end - length : end] for end, length in zip(ends, lengths, strict=True)], pa.string())
    wanted = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=9)) if values else []
    taken = take_rows(column, np.array(wanted, dtype=np.int64))
    assert taken.to_pylist() == [values[row] for row in wanted]
    assert taken.type == column.type


def test_vectors_and_nulls_survive_the_cut():
    kind = pa.list_(pa.float32(), 3)
    chunks = [pa.array([[1, 2, 3], None, [4, 5, 6]], kind).slice(1), pa.array([[7, 8, 9]], kind)]
    taken = take_rows(pa.chunked_array(chunks), np.array([2, 1, 0, 2]))
    assert taken.to_pylist() == [[7, 8, 9], [4, 5, 6], None, [7, 8, 9]]
    assert taken.null_count == 1


@pytest.mark.parametrize("cut", [[3], [1, 2]])
def test_a_row_outside_of_the_column_is_refused(cut):
    column = pa.chunked_array([list(range(length)) for length in cut], pa.int64())
    with pytest.raises(IndexError, match="7"):
        take_rows(column, np.array([0, 7]))
