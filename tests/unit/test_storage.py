"""Files are whole or absent, on a disk and behind a URI; whatever a checksum contradicts is refused by name."""

import json
import os
import pickle
import stat
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError

FILES = {"a.bin": b"seven..", "b.bin": b"", "deep/c.bin": bytes(range(256)) * 3}


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new place: a folder on the disk, and one in fsspec's memory file system."""
    return str(tmp_path / "run") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run"


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("runs",), "runs"),
        (("runs/", "a", "b.json"), "runs/a/b.json"),
        (("/", "a"), "/a"),
        (("s3://bucket/runs/", "a"), "s3://bucket/runs/a"),
        (("s3://bucket", "a", "b"), "s3://bucket/a/b"),
        (("memory://", "a"), "memory://a"),
    ],
)
def test_paths_join_under_folders_and_uris(parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(*parts) == joined


def test_local_paths_become_absolute_and_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert storage.absolute("runs/x") == f"{tmp_path}/runs/x"
    assert storage.absolute("~/x") == "/home/somebody/x"
    assert storage.absolute("file:///data/x") == "/data/x"
    assert storage.absolute("s3://bucket/../x") == "s3://bucket/../x"


@pytest.mark.parametrize(("path", "remote"), [("a/b", False), ("/a", False), ("file:///a", False), ("s3://b/a", True)])
def test_only_uris_of_other_file_systems_are_remote(path: str, remote: bool) -> None:
    assert storage.is_remote(path) is remote


def test_what_is_written_is_read_back(folder: str) -> None:
    path = storage.join(folder, "deep", "x.bin")
    assert not storage.exists(path)
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two!")
    assert storage.exists(path)
    assert storage.read_bytes(path) == b"two!"


def test_names_are_sorted_and_none_where_nothing_is(folder: str) -> None:
    assert storage.list_names(folder) == []
    for name in ("b.json", "a.json", "c/d.json"):
        storage.write_bytes(storage.join(folder, name), b"1")
    assert storage.list_names(folder) == ["a.json", "b.json", "c"]


def test_removing_takes_files_and_folders_and_forgives_absence(folder: str) -> None:
    for name in ("a.bin", "deep/b.bin", "deep/c.bin"):
        storage.write_bytes(storage.join(folder, name), b"1")
    storage.remove(storage.join(folder, "a.bin"))
    storage.remove(storage.join(folder, "a.bin"))
    assert storage.list_names(folder) == ["deep"]
    storage.remove(storage.join(folder, "deep"))
    assert storage.list_names(folder) == []


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.bin").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    storage.remove(str(tmp_path / "link"))
    assert storage.list_names(str(tmp_path)) == ["kept"]
    assert storage.list_names(str(tmp_path / "kept")) == ["a.bin"]


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "x.bin"
    storage.write_bytes(str(path), b"old")

    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="no space left"):
        storage.write_bytes(str(path), b"new and longer")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert storage.list_names(str(tmp_path)) == ["x.bin"]


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.write_bytes(str(tmp_path / "x.bin"), b"1")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == 0o640


def test_a_missing_file_is_named(folder: str) -> None:
    path = storage.join(folder, "x.bin")
    with pytest.raises(IntegrityError, match=r"file .*/run/x\.bin is missing; .* run the stage that writes it"):
        storage.read_bytes(path)
    with pytest.raises(IntegrityError, match=r"x\.bin is missing"), storage.local_file(path):
        pass


def test_a_local_copy_has_the_bytes_and_the_name(folder: str) -> None:
    path = storage.join(folder, "x.safetensors")
    storage.write_bytes(path, b"weights")
    with storage.local_file(path) as name:
        assert Path(name).read_bytes() == b"weights"
        assert Path(name).name == "x.safetensors"
    assert os.path.exists(name) is not storage.is_remote(path)


def test_equal_values_give_equal_json_bytes(folder: str) -> None:
    path = storage.join(folder, "x.json")
    storage.write_json(path, {"b": [1, None], "a": 0.1})
    first = storage.read_bytes(path)
    storage.write_json(path, {"a": 0.1, "b": [1, None]})
    assert storage.read_bytes(path) == first
    assert storage.read_json(path) == {"a": 0.1, "b": [1, None]}


def test_json_has_no_place_for_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(str(tmp_path / "x.json"), {"loss": float("nan")})
    assert storage.list_names(str(tmp_path)) == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00"])
def test_json_that_is_none_is_named(folder: str, data: bytes) -> None:
    storage.write_bytes(storage.join(folder, "x.json"), data)
    with pytest.raises(IntegrityError, match=r"x\.json is not valid JSON \(.*\); remove it and run the stage"):
        storage.read_json(storage.join(folder, "x.json"))


def test_a_folder_is_whole_only_with_its_manifest(folder: str) -> None:
    manifest = storage.commit(folder, FILES, {"task": "sky", "count": 3})
    assert storage.has_manifest(folder)
    assert storage.read_manifest(folder) == manifest
    assert storage.verify(folder) == manifest
    assert manifest["task"] == "sky"
    assert manifest["files"]["a.bin"] == {"bytes": 7, "sha256": storage.sha256(b"seven..")}
    assert {name: storage.read_checked(folder, name, manifest) for name in FILES} == FILES


@pytest.mark.parametrize("fails_at", range(len(FILES) + 1))
def test_the_manifest_comes_last(folder: str, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    write, written = storage.write_bytes, []

    def stops(path: str, data: bytes) -> None:
        if len(written) == fails_at:
            raise OSError("killed")
        written.append(path)
        write(path, data)

    monkeypatch.setattr(storage, "write_bytes", stops)
    with pytest.raises(OSError, match="killed"):
        storage.commit(folder, FILES)
    monkeypatch.undo()
    assert not storage.has_manifest(folder)
    storage.commit(folder, FILES)
    storage.verify(folder)


def test_a_folder_made_anew_is_not_whole_until_the_end(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.commit(folder, {"a.bin": b"old", "b.bin": b"old"})
    write = storage.write_bytes

    def stops(path: str, data: bytes) -> None:
        if path.endswith("b.bin"):
            raise OSError("killed")
        write(path, data)

    monkeypatch.setattr(storage, "write_bytes", stops)
    with pytest.raises(OSError, match="killed"):
        storage.commit(folder, {"a.bin": b"new", "b.bin": b"new"})
    assert not storage.has_manifest(folder)


@given(name=st.sampled_from(sorted(name for name in FILES if FILES[name])), data=st.data())
def test_a_flipped_byte_is_named(name: str, data: st.DataObject) -> None:
    folder = "memory://flipped/run"
    storage.commit(folder, FILES)
    whole = bytearray(FILES[name])
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    storage.write_bytes(storage.join(folder, name), bytes(whole))
    with pytest.raises(IntegrityError, match=rf"file {folder}/{name} is damaged: {len(whole)} bytes .* remove the folder"):
        storage.verify(folder)


def test_a_file_cut_short_or_gone_is_named(folder: str) -> None:
    storage.commit(folder, FILES)
    storage.write_bytes(storage.join(folder, "a.bin"), b"seven.")
    with pytest.raises(IntegrityError, match=r"a\.bin is damaged: 6 bytes .* its manifest says 7 bytes"):
        storage.verify(folder)
    storage.verify(folder, ["b.bin"])
    storage.remove(storage.join(folder, "a.bin"))
    with pytest.raises(IntegrityError, match=r"a\.bin is missing"):
        storage.verify(folder)


def test_a_file_the_manifest_does_not_list_is_refused(folder: str) -> None:
    manifest = storage.commit(folder, FILES)
    storage.write_bytes(storage.join(folder, "x.bin"), b"1")
    with pytest.raises(IntegrityError, match=r"x\.bin is not listed in .*manifest\.json; remove the folder"):
        storage.read_checked(folder, "x.bin", manifest)


@pytest.mark.parametrize("value", [[], {"count": 3}, {"files": ["a.bin"]}])
def test_a_manifest_of_another_make_is_refused(folder: str, value: object) -> None:
    storage.write_json(storage.join(folder, storage.MANIFEST), value)
    with pytest.raises(IntegrityError, match="lists no files; expected an object with 'files'"):
        storage.read_manifest(folder)


def test_sealing_lists_files_that_are_there_already(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "a.bin"), b"abc")
    storage.seal(folder, {"a.bin": {"bytes": 3, "sha256": storage.sha256(b"abc")}}, {"rows": 2})
    assert storage.verify(folder)["rows"] == 2


def test_a_digest_ignores_the_order_of_keys_and_tells_values_apart() -> None:
    assert storage.digest_of({"a": 1, "b": [1, 2]}) == storage.digest_of({"b": [1, 2], "a": 1})
    assert storage.digest_of({"a": 1}) != storage.digest_of({"a": 2})
    assert storage.digest_of([1, 2]) != storage.digest_of([2, 1])
    assert len(storage.digest_of({}, length=10)) == 10
    # Fixed for all machines and versions, since run ids are made of it.
    assert storage.digest_of({"seed": 0, "stream": "synthetic"}) == "5540f76c01d02816"


def test_errors_of_storage_survive_pickling(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        storage.read_manifest(str(tmp_path))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_json_on_disk_is_for_people_too(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "x.json"), {"b": 1, "a": 2})
    text = (tmp_path / "x.json").read_text()
    assert text == '{\n  "a": 2,\n  "b": 1\n}\n'
    assert json.loads(text) == {"a": 2, "b": 1}


def test_a_changed_fact_in_a_manifest_is_refused(tmp_path: Path) -> None:
    storage.commit(str(tmp_path), {"a": b"1"}, {"position": 7})
    path = tmp_path / storage.MANIFEST
    path.write_text(path.read_text().replace(": 7", ": 8"))
    with pytest.raises(IntegrityError, match=r"manifest .*manifest\.json is damaged: its content has digest"):
        storage.read_manifest(str(tmp_path))
