"""The stream: cut into tasks, split, refused where it overlaps, and described by content."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.components import build_settings
from cmcl_ray.data.pairs import Pairs, make_pairs
from cmcl_ray.data.sources.base import REJECTED, SourceData
from cmcl_ray.data.splits import SplitSettings
from cmcl_ray.data.stream import StreamSettings, TaskStream, build_stream, slug
from cmcl_ray.data.tasks import TaskSettings
from cmcl_ray.errors import ConfigError, DataError

GROUPS = ("sky", "sea", "land")
SPLITS = ("train", "train", "train", "val", "test")


def rows_of(images: int = 45, captions: int = 2) -> list[dict[str, object]]:
    return [
        {
            "pair_id": f"p{i}_{c}",
            "image_id": f"i{i}",
            "caption": f"text {c} of {i}",
            "group": GROUPS[i // 5 % 3],
            "split": SPLITS[i % 5],
            "kind": "name" if c == 0 else "long",
            "time": 100 - i,
        }
        for i in range(images)
        for c in range(captions)
    ]


def data_of(rows: list[dict[str, object]], **image_columns: list[object]) -> SourceData:
    names = list(dict.fromkeys(row["image_id"] for row in rows))
    columns = image_columns or {"image": [f"bytes of {name}".encode() for name in names]}
    return SourceData(make_pairs(pa.Table.from_pylist(rows), pa.table({"image_id": names, **columns})), REJECTED.empty_table())


def stream_of(
    rows: list[dict[str, object]], tasks: Mapping[str, Any] | None = None, splits: Mapping[str, Any] | None = None
) -> TaskStream:
    chosen = StreamSettings(TaskSettings(**(tasks or {})), SplitSettings(**{"column": "split", **(splits or {})}))
    return build_stream(data_of(rows), chosen)


def oracle(rows: list[dict[str, object]], group: str, split: str) -> list[int]:
    return [i for i, row in enumerate(rows) if row["group"] == group and row["split"] == split]


def test_tasks_and_splits_by_column_are_those_of_a_plain_loop() -> None:
    rows = rows_of()
    stream = stream_of(rows)
    assert [task.name for task in stream.tasks] == list(GROUPS)
    for i, task in enumerate(stream.tasks):
        assert task.index == i
        for split in ("train", "val", "test"):
            found = getattr(task, split)
            assert found.dtype == np.int64
            assert found.tolist() == oracle(rows, task.name, split)


def test_order_chooses_and_sorts_tasks_and_counts_the_rest() -> None:
    rows = rows_of()
    rows[0]["group"] = rows[1]["group"] = None
    stream = stream_of(rows, {"order": ("land", "sky")})
    assert [task.name for task in stream.tasks] == ["land", "sky"]
    assert stream.manifest["left_out"] == {"tasks": {"": 2, "sea": 30}, "splits": 0, "queries": 0}


def test_query_where_and_unknown_splits_are_counted() -> None:
    rows = rows_of()
    for row in rows[:2]:
        row["split"] = "spare"
    stream = stream_of(rows, {"order": ("sky",)}, {"query_where": {"kind": ("name",)}})
    assert stream.manifest["left_out"] == {"tasks": {"sea": 30, "land": 30}, "splits": 2, "queries": 6}
    assert len(stream.tasks[0].test) == 3
    assert len(stream.tasks[0].train) == 16


def test_time_cuts_images_into_equal_counts_in_order() -> None:
    rows = rows_of(47)
    stream = stream_of(rows, {"by": "time", "how": "time", "count": 4}, {"column": None, "test_share": 0.3})
    images = [np.unique(stream.pairs.image_row[np.concatenate([task.train, task.test])]) for task in stream.tasks]
    assert sorted(len(found) for found in images) == [11, 12, 12, 12]
    # Time runs against the row numbers here.
    assert all(later.max() < earlier.min() for earlier, later in itertools.pairwise(images))
    assert [task.name for task in stream.tasks] == ["time-1", "time-2", "time-3", "time-4"]


def test_captions_of_different_times_stay_with_their_image_and_rows_without_time_are_left_out() -> None:
    rows = rows_of(20)
    rows[1]["time"] = None
    rows[-1]["time"] = rows[-2]["time"] = None
    stream = stream_of(rows, {"by": "time", "how": "time", "count": 2}, {"column": None, "test_share": 0.4})
    assert stream.manifest["left_out"]["tasks"] == {"": 2}
    assert sum(len(task.train) + len(task.test) for task in stream.tasks) == 38


def test_hash_deals_values_evenly_and_another_salt_deals_otherwise() -> None:
    rows = rows_of(60)
    splits = {"column": None, "test_share": 0.4}
    one = stream_of(rows, {"by": "image_id", "how": "hash", "count": 4}, splits)
    other = stream_of(rows, {"by": "image_id", "how": "hash", "count": 4, "salt": 1}, splits)
    assert [len(task.train) + len(task.test) for task in one.tasks] == [30, 30, 30, 30]
    assert one.fingerprint != other.fingerprint
    reversed_rows = stream_of(rows[::-1], {"by": "image_id", "how": "hash", "count": 4}, splits)
    assert reversed_rows.fingerprint == one.fingerprint


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(30)))
def test_fingerprint_depends_on_content_and_not_on_row_order(order: list[int]) -> None:
    rows = rows_of(15)
    named = {"order": GROUPS}
    assert stream_of([rows[i] for i in order], named).manifest == stream_of(rows, named).manifest


@pytest.mark.parametrize("column", ["caption", "pair_id"])
def test_fingerprint_changes_with_content(column: str) -> None:
    rows = rows_of()
    before = stream_of(rows)
    rows[-1][column] = "changed"
    after = stream_of(rows)
    assert after.fingerprint != before.fingerprint
    changed = [
        (a["name"], split)
        for a, b in zip(before.manifest["tasks"], after.manifest["tasks"], strict=True)
        for split in a["splits"]
        if a["splits"][split] != b["splits"][split]
    ]
    assert changed == [("land", "test")]


def test_fingerprint_sees_image_bytes_and_features_but_no_folder() -> None:
    rows = rows_of()
    chosen = StreamSettings(splits=SplitSettings(column="split"))
    prints = [
        build_stream(data_of(rows, **columns), chosen).fingerprint
        for columns in (
            {"image": [b"same"] * 45},
            {"image": [b"same"] * 44 + [b"other"]},
            {"image_uri": [f"/here/{i}.png" for i in range(45)]},
            {"image_uri": [f"/there/{i}.png" for i in range(45)]},
        )
    ]
    assert len(set(prints)) == 3
    assert prints[2] == prints[3]
    vectors = [[float(i), 1.0, 2.0] for i in range(45)]
    kind = pa.list_(pa.float32(), 3)
    one = build_stream(data_of(rows, image_features=pa.array(vectors, kind)), chosen)
    vectors[7][1] = 1.5
    assert build_stream(data_of(rows, image_features=pa.array(vectors, kind)), chosen).fingerprint != one.fingerprint


def test_manifest_is_json_and_counts_identical_images() -> None:
    rows = rows_of()
    images = [f"bytes {i}".encode() for i in range(45)]
    images[3] = images[4] = images[0]  # val, test and train
    images[9] = images[8]  # test and val
    stream = build_stream(data_of(rows, image=images), StreamSettings(splits=SplitSettings(column="split")))
    assert stream.manifest["identical_images_between_splits"] == {"val_in_train": 1, "test_in_train": 1, "test_in_val": 2}
    assert json.loads(json.dumps(stream.manifest)) == stream.manifest
    assert stream.manifest["tasks"][0]["splits"]["train"]["images"] == 9
    assert stream.manifest["tasks"][0]["splits"]["train"]["pairs"] == 18
    assert stream.manifest["settings"]["tasks"]["by"] == "group"
    uris = build_stream(
        data_of(rows, image_uri=[f"{i}" for i in range(45)]), StreamSettings(splits=SplitSettings(column="split"))
    )
    assert uris.manifest["identical_images_between_splits"] is None


def test_rejected_rows_are_counted_by_reason() -> None:
    data = data_of(rows_of())
    rejected = pa.table([["a", "b", "c"], ["no caption", "no image", "no caption"], ["", "", ""]], schema=REJECTED)
    stream = build_stream(SourceData(data.pairs, rejected), StreamSettings(splits=SplitSettings(column="split")))
    assert stream.manifest["rejected"] == {"no caption": 2, "no image": 1}
    assert stream.rejected.num_rows == 3


def test_an_image_in_two_splits_or_two_tasks_is_refused() -> None:
    rows = rows_of()
    rows[1]["split"] = "test"
    with pytest.raises(
        DataError, match=r"overlapping splits: image 'i0' is in train of task 'sky' \(pair 'p0_0'\) and in test of task 'sky'"
    ):
        stream_of(rows)
    rows = rows_of()
    rows[1]["group"] = "sea"
    with pytest.raises(DataError, match=r"overlapping splits: image 'i0' is in train of task 'sky'.* and in train of task 'sea'"):
        stream_of(rows)
    # A filter on queries must not hide the overlap.
    rows = rows_of()
    rows[1]["split"] = "test"
    with pytest.raises(DataError, match="overlapping splits"):
        stream_of(rows, {}, {"query_where": {"kind": ("name",)}})


@pytest.mark.parametrize("column", ["pair_id", "image_id"])
def test_repeated_ids_of_a_source_of_its_own_are_refused(column: str) -> None:
    good = data_of(rows_of()).pairs
    tables = {"pair_id": good.pairs, "image_id": good.images}
    tables[column] = pa.concat_tables([tables[column], tables[column].slice(0, 1)])
    bad = Pairs(tables["pair_id"], tables["image_id"], np.append(good.image_row, 0)[: tables["pair_id"].num_rows])
    with pytest.raises(DataError, match=f"{column} '.0.*' occurs more than once, so splits overlap"):
        build_stream(SourceData(bad, REJECTED.empty_table()), StreamSettings(splits=SplitSettings(column="split")))


def test_a_task_without_train_or_test_rows_is_refused() -> None:
    rows = [row for row in rows_of() if row["group"] != "sea" or row["split"] != "test"]
    with pytest.raises(DataError, match=r"task 'sea' has 18 train, 6 val and 0 test pairs; expected"):
        stream_of(rows)
    with pytest.raises(DataError, match=r"task 'sky' has 30 train, 0 val and 0 test pairs"):
        stream_of(rows_of(), {}, {"column": None})


def test_wrong_columns_values_and_counts_are_named() -> None:
    with pytest.raises(DataError, match="no column 'domain'"):
        stream_of(rows_of(), {"by": "domain"})
    with pytest.raises(
        DataError, match=r"order names 'seas', but no row has group 'seas'; did you mean 'sea'\?; expected some of 'sky'"
    ):
        stream_of(rows_of(), {"order": ("sky", "seas")})
    with pytest.raises(DataError, match=r"column 'group' has 3 values for 4 tasks"):
        stream_of(rows_of(), {"how": "hash", "count": 4})
    with pytest.raises(DataError, match=r"5 images have a time for 6 tasks"):
        stream_of(rows_of(5), {"by": "time", "how": "time", "count": 6}, {"column": None, "test_share": 0.5})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"count": 3}, r"stream.tasks: count is 3, which has no effect with how=column"),
        ({"how": "time"}, r"count is 0; expected the number of tasks, at least 1, with how=time"),
        ({"how": "hash", "count": 2, "order": ["a"]}, r"order is given, which has no effect with how=hash"),
        ({"salt": 2}, r"salt is 2, which has no effect with how=column"),
        ({"order": ["a", "b", "a"]}, r"order names 'a' twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_settings(TaskSettings, values, "stream.tasks")


def test_slugs_are_folder_names() -> None:
    assert slug("Animals & Nature") == "animals-nature"
    assert slug("--Ab_1/../") == "ab-1"
    assert slug("\u65e5\u672c") == "task"
