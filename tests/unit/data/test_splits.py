"""Splits: by column, by keyed hash, and the filter on queries."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmcl_ray.components import build_settings
from cmcl_ray.data.pairs import Pairs, make_pairs
from cmcl_ray.data.splits import SplitSettings, assign_splits, keep_queries, keyed_hash
from cmcl_ray.errors import ConfigError, DataError


def pairs_of(images: int, captions: int = 2, **columns: list[str | None]) -> Pairs:
    names = [f"i{i}" for i in range(images)]
    table = {
        "pair_id": [f"{name}_{c}" for name in names for c in range(captions)],
        "image_id": [name for name in names for _ in range(captions)],
        "caption": [f"text {c} of {name}" for name in names for c in range(captions)],
        **columns,
    }
    return make_pairs(pa.table(table), pa.table({"image_id": names, "image_uri": names}))


@given(st.lists(st.text(), max_size=8), st.integers(-3, 3))
def test_keyed_hash_is_that_of_each_value_alone(values: list[str], salt: int) -> None:
    found = keyed_hash(values, "test", salt)
    for value, number in zip(values, found.tolist(), strict=True):
        digest = hashlib.blake2b(value.encode(), digest_size=8, key=f"test/{salt}".encode()).digest()
        assert number == int.from_bytes(digest, "little")


def test_shares_are_near_and_captions_stay_together() -> None:
    pairs = pairs_of(3000)
    codes = assign_splits(pairs, SplitSettings(val_share=0.1, test_share=0.2))
    assert (codes[::2] == codes[1::2]).all()
    counts = np.bincount(codes[::2], minlength=3) / 3000
    np.testing.assert_allclose(counts, [0.7, 0.1, 0.2], atol=0.03)


def test_more_rows_and_another_order_leave_a_split_as_it_is() -> None:
    settings = SplitSettings(val_share=0.2, test_share=0.1, salt=4)
    few, many = pairs_of(40), pairs_of(90)
    np.testing.assert_array_equal(assign_splits(few, settings), assign_splits(many, settings)[:80])
    other = SplitSettings(val_share=0.2, test_share=0.1, salt=5)
    assert (assign_splits(many, settings) != assign_splits(many, other)).any()


def test_a_larger_val_share_takes_from_train_only() -> None:
    pairs = pairs_of(400)
    small = assign_splits(pairs, SplitSettings(val_share=0.1, test_share=0.2))
    large = assign_splits(pairs, SplitSettings(val_share=0.3, test_share=0.2))
    np.testing.assert_array_equal(small == 2, large == 2)
    assert ((small == 1) <= (large == 1)).all()


def test_columns_name_splits_and_shares_come_from_train() -> None:
    source = ["a"] * 200 + ["b"] * 100 + ["c"] * 40 + [None] * 60
    pairs = pairs_of(200, source=source)
    codes = assign_splits(pairs, SplitSettings(column="source", train=("a",), val=(), test=("b",), val_share=0.3))
    assert set(codes[:200].tolist()) == {0, 1}
    assert set(codes[200:300].tolist()) == {2}
    assert set(codes[300:].tolist()) == {-1}


def test_query_where_keeps_train_whole() -> None:
    pairs = pairs_of(3, split=["train", "train", "val", "val", "test", "test"], kind=["name", "long"] * 3)
    settings = SplitSettings(column="split", query_where={"kind": ("name",)})
    np.testing.assert_array_equal(keep_queries(pairs, settings, assign_splits(pairs, settings)), [0, 0, 1, -1, 2, -1])


def test_faults_are_named() -> None:
    pairs = pairs_of(2, split=["x", "x", "y", "y"])
    with pytest.raises(DataError, match=r"no row has a split: column 'split' holds 'x', 'y'; expected one of 'train'"):
        assign_splits(pairs, SplitSettings(column="split"))
    with pytest.raises(DataError, match="no column 'fold'"):
        assign_splits(pairs, SplitSettings(column="fold"))
    with pytest.raises(DataError, match="no column 'concept'"):
        assign_splits(pairs, SplitSettings(val_share=0.5, key="concept"))
    with pytest.raises(DataError, match="no column 'kind'"):
        keep_queries(pairs, SplitSettings(query_where={"kind": ("a",)}), np.zeros(4, dtype=np.int64))
    with pytest.raises(DataError, match=r"query_where.split names 'z', which no row has; expected one of 'x', 'y'"):
        keep_queries(pairs, SplitSettings(query_where={"split": ("z",)}), np.zeros(4, dtype=np.int64))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"column": "s", "train": ["a"], "test": ["a"]}, r"stream.splits: value 'a' is named twice among train, val and test"),
        (
            {"val_share": 0.6, "test_share": 0.4},
            r"val_share is 0.6 and test_share is 0.4; expected shares from 0 whose sum is below 1",
        ),
        ({"val_share": -0.1}, r"val_share is -0.1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_settings(SplitSettings, values, "stream.splits")
