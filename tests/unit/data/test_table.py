"""The table source: any layout of files, bad rows set aside with a reason, one clear error for what cannot be read."""

import csv
import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.data.sources.base import SourceData
from cmcl_ray.data.sources.table import Table
from cmcl_ray.data.tables import images as table_images
from cmcl_ray.errors import ConfigError, DataError


def png(shade: int, size: tuple[int, int] = (5, 7)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(stream, "PNG")
    return stream.getvalue()


def claims(width: int, height: int) -> bytes:
    """Return a small PNG whose header claims to be large."""
    header = b"IHDR" + struct.pack(">II", width, height) + png(1)[24:29]
    return png(1)[:12] + header + struct.pack(">I", zlib.crc32(header)) + png(1)[33:]


def read(root: Path, **settings: Any) -> SourceData:
    source: Table = build_component(ComponentSpec("source", "table", {"root": str(root), **settings}, "stream.source"))
    return source.read()


def rows_of(count: int = 6, captions: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "pair_id": f"p{i}_{c}",
            "image_id": f"i{i}",
            "caption": f'text {c}, of "{i}"',
            "group": "ab"[i % 2],
            "image_path": f"pictures/{i}.png",
            "concept": f"c{i // 2}",
        }
        for i in range(count)
        for c in range(captions)
    ]


def write(root: Path, rows: list[dict[str, Any]], kind: str, name: str = "pairs") -> str:
    path = root / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(png(i))
    return tmp_path


def reasons(data: SourceData) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in data.rejected.to_pylist()}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "ndjson"])
def test_all_kinds_of_files_give_the_same_pairs(root: Path, kind: str) -> None:
    data = read(root, pairs=write(root, rows_of(), kind), columns={"image_uri": "image_path"})
    assert data.rejected.num_rows == 0
    assert data.pairs.texts("caption") == [row["caption"] for row in rows_of()]
    assert data.pairs.texts("concept") == [row["concept"] for row in rows_of()]
    assert data.pairs.image_row.tolist() == [i // 2 for i in range(12)]
    assert data.pairs.images.column("image_uri")[1].as_py() == str(root / "pictures" / "1.png")
    assert len(set(data.pairs.images.column("image_digest").to_pylist())) == 6


def test_numbers_and_dates_in_text_columns_stay_texts(root: Path) -> None:
    rows = [{**row, "group": "1", "caption": "2020-01-01", "concept": "2021-03-04"} for row in rows_of()]
    for kind in ("csv", "jsonl"):
        data = read(root, pairs=write(root, rows, kind), columns={"image_uri": "image_path"})
        assert set(data.pairs.texts("group")) == {"1"}
        assert set(data.pairs.texts("caption")) == {"2020-01-01"}
        assert set(data.pairs.texts("concept")) == {"2021-03-04"}
    numbers = [{**row, "pair_id": i, "group": i % 2} for i, row in enumerate(rows_of())]
    data = read(root, pairs=write(root, numbers, "parquet"), columns={"image_uri": "image_path"})
    assert data.pairs.texts("pair_id", np.array([3])) == ["3"]


def test_files_are_found_by_pattern_and_put_one_after_the_other(root: Path) -> None:
    rows = rows_of()
    write(root, rows[6:], "parquet", "pairs-b")
    write(root, rows[:6], "parquet", "pairs-a")
    data = read(root, pairs=["pairs-*.parquet"], columns={"image_uri": "image_path"})
    assert data.pairs.texts("pair_id") == [row["pair_id"] for row in rows]
    again = read(root, pairs=[str(root / "pairs-b.parquet"), "pairs-*.parquet"], columns={"image_uri": "image_path"})
    assert again.pairs.texts("pair_id") == [row["pair_id"] for row in rows[6:] + rows[:6]]


def test_two_tables_are_joined_and_unused_images_dropped(root: Path) -> None:
    rows = [{key: row[key] for key in ("pair_id", "image_id", "caption", "group")} for row in rows_of()]
    images = [{"image_id": f"i{i}", "image": png(i), "group": "ignored", "source": f"s{i % 2}", "width": 5} for i in range(9)]
    write(root, rows, "parquet")
    write(root, images[5:] + images[:1], "parquet", "images-2")
    write(root, images[:5], "parquet", "images-1")
    data = read(root, pairs="pairs.parquet", images=["images-*.parquet"])
    assert data.rejected.num_rows == 0
    assert data.pairs.images.column("image_id").to_pylist() == [f"i{i}" for i in range(6)]
    assert data.pairs.images.column("image").to_pylist() == [png(i) for i in range(6)]
    assert data.pairs.texts("source") == [f"s{i // 2 % 2}" for i in range(12)]
    assert set(data.pairs.texts("group")) == {"a", "b"}
    assert "width" not in data.pairs.pairs.column_names


def test_missing_ids_are_made_from_row_numbers_paths_and_bytes(root: Path) -> None:
    rows = [{"caption": row["caption"], "path": row["image_path"]} for row in rows_of()]
    data = read(
        root, pairs=write(root, rows, "csv"), columns={"image_uri": "path"}, where={"path": ["pictures/2.png", "pictures/0.png"]}
    )
    assert data.pairs.texts("pair_id") == ["pairs_000000", "pairs_000001", "pairs_000004", "pairs_000005"]
    assert data.pairs.texts("image_id")[::2] == ["pictures/0.png", "pictures/2.png"]
    rows = [{"caption": f"text {i}", "image": png(i // 2)} for i in range(6)]
    data = read(root, pairs=write(root, rows, "parquet"))
    assert data.pairs.image_row.tolist() == [0, 0, 1, 1, 2, 2]
    (root / "sub").mkdir()
    write(root / "sub", rows, "parquet")
    both = read(root, pairs=["pairs.parquet", "sub/pairs.parquet"])
    assert both.pairs.texts("pair_id")[::6] == ["pairs-0_000000", "pairs-1_000000"]


def test_bad_rows_are_set_aside_with_their_reason(root: Path) -> None:
    rows = rows_of(9)
    rows[0]["caption"] = "  "
    rows[1]["group"] = ""
    rows[3]["pair_id"] = "p1_0"
    rows[5]["image_path"] = "pictures/0.png"
    rows[6]["image_path"] = rows[7]["image_path"] = "../outside.png"
    (root / "pictures" / "4.png").write_bytes(b"no picture")
    whole = (root / "pictures" / "5.png").read_bytes()
    (root / "pictures" / "5.png").write_bytes(whole[: len(whole) // 2])
    rows[13]["image_path"] = rows[12]["image_path"] = "pictures/gone.png"
    (root / "pictures" / "7.png").write_bytes(claims(9000, 8000))
    rows[16]["image_id"] = rows[17]["image_id"] = ""
    settings = {"pairs": write(root, rows, "csv"), "columns": {"image_uri": "image_path"}, "max_rejected_share": 1.0}
    data = read(root, **settings)
    assert reasons(data) == {
        "p0_0": "no caption",
        "p0_1": "no group",
        "p1_0": "repeated pair id",
        "p2_1": "image differs",
        "p3_0": "path leaves root",
        "p3_1": "path leaves root",
        **dict.fromkeys(("p4_0", "p4_1", "p5_0", "p5_1"), "image does not decode"),
        **dict.fromkeys(("p6_0", "p6_1"), "image file missing"),
        **dict.fromkeys(("p7_0", "p7_1"), "image too large"),
        **dict.fromkeys(("p8_0", "p8_1"), "no image"),
    }
    assert data.pairs.texts("pair_id") == ["p1_0", "p2_0"]
    assert data.pairs.images.column("image_id").to_pylist() == ["i1", "i2"]
    details = {row["id"]: row["detail"] for row in data.rejected.to_pylist()}
    assert details["p3_0"] == "i3: ../outside.png"
    assert "9000 x 8000" in details["p7_1"]
    trusting = read(root, **settings, check_images=False)
    assert {reason for reason in reasons(trusting).values()} >= {"image file missing", "path leaves root"}
    assert "image does not decode" not in reasons(trusting).values()
    with pytest.raises(DataError, match=r"16 of 18 pairs cannot be used \(.*4 image does not decode.*at most a share of 0.5"):
        read(root, **{**settings, "max_rejected_share": 0.5})


def test_too_large_an_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"image_id": ["a", "b"], "image": [claims(8001, 8000), claims(80_000, 8000)]})
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    found = table_images.examine_images(table, True)
    assert [finding.reason for finding in found] == ["image too large"] * 2
    assert found[0].detail == "8001 x 8000 pixels"


def test_images_without_bytes_or_rows_are_set_aside(root: Path) -> None:
    rows = [{key: row[key] for key in ("pair_id", "image_id", "caption")} for row in rows_of()]
    images = [{"image_id": f"i{i}", "image": png(i) if i else None} for i in range(5)]
    write(root, rows, "parquet")
    write(root, images, "parquet", "images")
    data = read(root, pairs="pairs.parquet", images=["images.parquet"], max_rejected_share=0.5)
    assert reasons(data) == dict.fromkeys(("p0_0", "p0_1", "p5_0", "p5_1"), "no image")
    rows = [{"caption": "a", "image": png(1)}, {"caption": "b", "image": None}]
    data = read(root, pairs=write(root, rows, "parquet"), max_rejected_share=0.5)
    assert reasons(data) == {"pairs_000001": "no image"}


def test_bytes_that_differ_under_one_image_id_are_set_aside(root: Path) -> None:
    rows = [{"image_id": "x", "caption": f"text {i}", "image": png(i // 2)} for i in range(4)]
    data = read(root, pairs=write(root, rows, "parquet"), max_rejected_share=0.5)
    assert reasons(data) == {"pairs_000002": "image differs", "pairs_000003": "image differs"}


def features(root: Path, key: str, ids: list[str], name: str, width: int = 3, kind: pa.DataType | None = None) -> np.ndarray:
    values = np.arange(len(ids) * width, dtype=np.float32).reshape(len(ids), width)
    column = pa.array(values.tolist(), kind or pa.list_(pa.float32(), width))
    pq.write_table(pa.table({key: ids, f"{name}_features": column}), root / f"{name}.parquet")
    return values


@pytest.mark.parametrize("kind", [None, pa.list_(pa.float64()), pa.large_list(pa.float32())])
def test_features_are_joined_by_id(root: Path, kind: pa.DataType | None) -> None:
    rows = [{key: row[key] for key in ("pair_id", "image_id", "caption")} for row in rows_of()]
    write(root, rows, "parquet")
    image = features(root, "image_id", [f"i{i}" for i in (5, 3, 1, 0, 2)], "image", 3, kind)
    text = features(root, "pair_id", [row["pair_id"] for row in rows[:0:-1]], "text", 4, kind)
    settings = {
        "pairs": "pairs.parquet",
        "image_features": "image.parquet",
        "text_features": "text.parquet",
        "max_rejected_share": 0.5,
    }
    data = read(root, **settings)
    assert reasons(data) == {"p4_0": "no image features", "p4_1": "no image features", "p0_0": "no text features"}
    found = np.array(data.pairs.images.column("image_features").to_pylist())
    np.testing.assert_array_equal(found, image[[3, 2, 4, 1, 0]])
    assert data.pairs.images.column("image_features").type == pa.list_(pa.float32(), 3)
    assert data.pairs.texts("pair_id")[0] == "p0_1"
    np.testing.assert_array_equal(data.pairs.pairs.column("text_features")[0].as_py(), text[-1])


def test_features_that_are_not_finite_are_set_aside(root: Path) -> None:
    kind = pa.list_(pa.float32(), 2)
    vectors = [[1.0, 2.0], [float("nan"), 1.0], None, [3.0, 4.0]]
    table = {"caption": list("abcd"), "image_id": list("wxyz"), "image_features": pa.array(vectors, kind)}
    pq.write_table(pa.table(table), root / "pairs.parquet")
    data = read(root, pairs="pairs.parquet", max_rejected_share=0.5)
    assert reasons(data) == {"pairs_000001": "no image features", "pairs_000002": "no image features"}
    assert data.pairs.images.column("image_features").to_pylist() == [[1.0, 2.0], [3.0, 4.0]]


def test_time_keeps_its_type_and_relevance_can_be_another_column(root: Path) -> None:
    rows = [{**row, "day": i} for i, row in enumerate(rows_of())]
    columns = {"image_uri": "image_path", "time": "day", "relevance": "concept"}
    data = read(root, pairs=write(root, rows, "parquet"), columns=columns)
    assert data.pairs.pairs.column("time").to_pylist() == list(range(12))
    assert data.pairs.relevance(np.arange(12)).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.pairs.texts("concept") == data.pairs.texts("relevance")


def test_a_source_pickles_and_a_working_folder_is_the_default_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    source = pickle.loads(pickle.dumps(Table(write(root, rows_of(), "csv"), columns={"image_uri": "image_path"})))
    monkeypatch.chdir(os.path.dirname(root))
    assert len(source.read().pairs) == 12


def test_uris_are_read_through_fsspec() -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/set/pairs-1.csv", b'image_uri,caption\n1.png,"one, two"\nmemory://set/2.png,three\n')
    files.pipe_file("/set/1.png", png(1))
    files.pipe_file("/set/2.png", png(2))
    data = Table("pairs-*.csv", root="memory://set").read()
    assert data.pairs.texts("caption") == ["one, two", "three"]
    assert data.pairs.images.column("image_uri").to_pylist() == ["memory://set/1.png", "memory://set/2.png"]


def test_what_cannot_be_read_is_one_clear_error(root: Path) -> None:
    name = write(root, rows_of(), "csv")
    uri = {"image_uri": "image_path"}
    with pytest.raises(DataError, match=r"stream.source.pairs names .*/none.csv, which is missing"):
        read(root, pairs="none.csv")
    with pytest.raises(DataError, match=r"stream.source.images names .*/im\*.parquet, which is missing"):
        read(root, pairs=name, images=["im*.parquet"])
    (root / "pairs.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"has the suffix 'xlsx'; expected .parquet, .csv, .jsonl or .ndjson"):
        read(root, pairs="pairs.xlsx")
    (root / "broken.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"broken.parquet cannot be read as parquet"):
        read(root, pairs="broken.parquet")
    with pytest.raises(DataError, match=r"the pairs table .*silent.csv has no column 'caption'; it has"):
        read(root, pairs=write(root, [{"image_path": "a", "text": "b"}], "csv", "silent"), columns=uri)
    with pytest.raises(
        DataError, match=r"the pairs table has no image: its columns are caption, pair_id; expected image_id, image"
    ):
        read(root, pairs=write(root, [{"caption": "a"}], "csv", "blind"))
    with pytest.raises(DataError, match=r"columns.image_uri is 'image_pth', which no table has; did you mean 'image_path'"):
        read(root, pairs=name, columns={"image_uri": "image_pth"})
    with pytest.raises(DataError, match=r"columns names 'img'; did you mean .*; expected one of caption, group"):
        read(root, pairs=name, columns={"img": "image_path"})
    with pytest.raises(DataError, match=r"the pairs table .* has no column 'vendor'"):
        read(root, pairs=name, columns=uri, where={"vendor": ["a"]})
    with pytest.raises(DataError, match=r"0 of 0 pairs cannot be used \(the table is empty\)"):
        read(root, pairs=name, columns=uri, where={"group": ["z"]})


def test_columns_of_the_wrong_type_are_named(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"column image of .* has type string; expected binary .*set stream.source.columns.image_uri"
    ):
        read(root, pairs=write(root, [{"caption": "a", "image": "a.png"}], "csv"))
    with pytest.raises(DataError, match=r"column caption of .* has type list<.*>; expected texts"):
        read(root, pairs=write(root, [{"caption": ["a", "b"], "image_uri": "x"}], "parquet"))
    ragged = [
        {"caption": "a", "image_id": "x", "image_features": [1.0]},
        {"caption": "b", "image_id": "y", "image_features": [1.0, 2.0]},
    ]
    with pytest.raises(DataError, match=r"column image_features of .* lists of 2 lengths; expected numbers, equally many a row"):
        read(root, pairs=write(root, ragged, "parquet"))
    with pytest.raises(DataError, match=r"column image_features of .* has type double; expected fixed-size lists"):
        read(root, pairs=write(root, [{"caption": "a", "image_id": "x", "image_features": 1.0}], "parquet"))
    write(root, [{"image_id": "x", "vector": [1.0]}], "parquet", "image")
    with pytest.raises(DataError, match=r"the table stream.source.image_features has no column 'image_features'"):
        read(root, pairs=write(root, [{"caption": "a", "image_id": "x"}], "parquet"), image_features="image.parquet")
    write(root, [{"caption": "a", "image_id": "x", "time": 3}], "parquet", "t1")
    write(root, [{"caption": "a", "image_id": "x", "time": "3"}], "parquet", "t2")
    with pytest.raises(DataError, match=r"t1.parquet, .*t2.parquet do not fit together"):
        read(root, pairs=["t1.parquet", "t2.parquet"])
    write(root, [{"id": "x", "image": b"x"}], "parquet", "images")
    with pytest.raises(DataError, match=r"the images table .*images.parquet has no column 'image_id'"):
        read(root, pairs="t1.parquet", images=["images.parquet"])
    write(root, [{"caption": "a"}], "parquet", "alone")
    write(root, [{"image_id": "x", "image": b"x"}], "parquet", "images")
    with pytest.raises(DataError, match=r"the pairs table has no column 'image_id'"):
        read(root, pairs="alone.parquet", images=["images.parquet"])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"source.pairs is an empty list"):
        Table([])
    with pytest.raises(ConfigError, match=r"source.max_rejected_share is 2; expected 0 to 1"):
        Table("a.csv", max_rejected_share=2)
