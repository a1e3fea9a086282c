"""A run's folder is claimed once, by one config and one dataset."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cmcl_ray.config import load_config
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.errors import StageError
from cmcl_ray.run.beginning import ITEMS_SCHEMA, check_data, check_out, gallery_items, read_stream, write_beginning
from cmcl_ray.run.settings import RunSettings, settings_from
from tests.run.tables import write_pictures
from tests.run.tiny import write_config


def settings(folder: Path, *overrides: str) -> RunSettings:
    return settings_from(load_config(write_config(folder, folder / "out"), overrides))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TaskStream:
    return read_stream(settings(tmp_path_factory.mktemp("data"), "stream.source.groups=2"))


def test_a_new_folder_is_free_and_stays_empty_until_it_is_claimed(tmp_path: Path, stream: TaskStream) -> None:
    made = settings(tmp_path)
    check_out(made)
    check_data(made, stream)
    assert not (tmp_path / "out").exists()
    write_beginning(made, stream)
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        *("gallery/items.parquet", "run.json", "stream.json")
    ]
    check_out(made)
    check_data(made, stream)


def test_what_is_written_is_left_alone(tmp_path: Path, stream: TaskStream) -> None:
    made = settings(tmp_path)
    write_beginning(made, stream)
    (tmp_path / "out" / "run.json").write_text("as it was")
    write_beginning(made, stream)
    assert (tmp_path / "out" / "run.json").read_text() == "as it was"
    # stream.json comes last: without it the beginning is written again.
    (tmp_path / "out" / "stream.json").unlink()
    write_beginning(made, stream)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == made.describe()


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("train.lr=0.5", "train.lr: 0.01 there, 0.5 here"),
        ("train.clip_norm=2", "train.clip_norm: None there, 2 here"),
        ("strategies.ewc.decay=0.5", "strategies.ewc: None there, {"),
        ("evaluate.directions=[t2i]", r"evaluate.directions: None there, \['t2i'\] here"),
    ],
)
def test_the_first_difference_is_named(tmp_path: Path, stream: TaskStream, override: str, difference: str) -> None:
    write_beginning(settings(tmp_path), stream)
    with pytest.raises(StageError, match=rf"folder {tmp_path}/out holds run [0-9a-f]{{16}} of another config \({difference}"):
        check_out(settings(tmp_path, override))


def test_a_config_of_another_release_is_named_as_such(tmp_path: Path, stream: TaskStream) -> None:
    """Equal configs under another digest: nothing to name but that."""
    write_beginning(settings(tmp_path), stream)
    path = tmp_path / "out" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": "0" * 16}))
    with pytest.raises(StageError, match=r"\(another version of the config\)"):
        check_out(settings(tmp_path))


def test_other_data_is_refused(tmp_path: Path, stream: TaskStream) -> None:
    made = settings(tmp_path)
    write_beginning(made, stream)
    with pytest.raises(StageError, match=r"the data has fingerprint [0-9a-f]{64}, but .*stream.json was written for [0-9a-f]"):
        check_data(made, read_stream(made))


def test_items_are_the_test_rows_of_each_task_by_side(stream: TaskStream) -> None:
    table = gallery_items(stream)
    assert table.schema.equals(ITEMS_SCHEMA)
    rows = table.to_pylist()
    for task in stream.tasks:
        for side, expected in (
            ("text", task.test.tolist()),
            ("image", sorted(set(stream.pairs.image_row[task.test].tolist()))),
        ):
            found = [row for row in rows if (row["task_index"], row["side"]) == (task.index, side)]
            assert [row["row"] for row in found] == expected
    assert len(rows) == 2 * (24 + 12)


def test_rows_set_aside_are_listed(tmp_path: Path) -> None:
    section = write_pictures(tmp_path, broken=1, relevance=True)
    made = settings_from(load_config(write_config(tmp_path, tmp_path / "out", stream=section)))
    stream = read_stream(made)
    write_beginning(made, stream)
    assert pq.read_table(tmp_path / "out" / "rejected.parquet").num_rows == 1
    # Pictures of one colour and group have one number, on both sides.
    items = pq.read_table(tmp_path / "out" / "gallery" / "items.parquet").to_pylist()
    codes = {side: [item["relevance"] for item in items if item["side"] == side] for side in ("image", "text")}
    assert set(codes["image"]) == set(codes["text"])
    assert len(set(codes["image"])) == 4
    shutil.rmtree(tmp_path / "out")
