"""Embeddings are whole or absent: parts resume, damage is named, a kill costs no finished part."""

import numpy as np
import pytest

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError, ShapeError, StageError
from cmcl_ray.index.arrays import check_file, open_array
from cmcl_ray.index.embeddings import EmbeddingKey, EmbeddingStore, rows_digest

IDS = np.array([5, 2, 9, 0, 7, 3, 11])
VECTORS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
KEY = EmbeddingKey("v1", "text", rows_digest(IDS, "pairs"))
CUTS = [slice(0, 3), slice(3, 3), slice(3, 7)]


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(str(tmp_path))


def write(store, parts=(0, 1, 2)):
    for part in parts:
        store.write_part(KEY, part, IDS[CUTS[part]], VECTORS[CUTS[part]])


def test_parts_in_any_order_join_to_the_rows_in_order(store, tmp_path):
    write(store, (2, 0, 1))
    assert not store.has(KEY)
    found = store.finish(KEY, 3, {"wall_s": 1.5})
    np.testing.assert_array_equal(found.ids, IDS)
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert (found.key, found.facts) == (KEY, {"wall_s": 1.5})
    assert store.has(KEY)
    assert sorted(path.name for path in (tmp_path / KEY.name).iterdir()) == ["ids.npy", "manifest.json", "vectors.npy"]
    again = store.finish(KEY, 3, {})
    assert again.facts == {"wall_s": 1.5}
    assert store.open_name(KEY.name).key == KEY


def test_opened_vectors_are_a_private_map(store):
    write(store)
    store.finish(KEY, 3, {}).vectors[0, 0] = 99.0
    np.testing.assert_array_equal(store.open(KEY).vectors, VECTORS)


def test_the_cut_into_parts_does_not_show_in_the_files(tmp_path):
    one, three = EmbeddingStore(str(tmp_path / "one")), EmbeddingStore(str(tmp_path / "three"))
    one.write_part(KEY, 0, IDS, VECTORS)
    one.finish(KEY, 1, {})
    write(three)
    three.finish(KEY, 3, {})
    assert storage.verify(one.folder(KEY)) == storage.verify(three.folder(KEY))


def test_only_whole_parts_count_after_a_kill(store, tmp_path):
    write(store)
    folder = tmp_path / KEY.name
    flip(folder / "part-00000.npy")
    (folder / "part-00002.json").unlink()
    (folder / ".writing-abc").write_bytes(b"half")
    assert store.parts_done(KEY) == {1}
    with pytest.raises(StageError, match=r"lack 1 of 3 parts, first part 2; expected parts 0 to 2"):
        store.finish(KEY, 3, {})
    write(store, (2,))
    with pytest.raises(IntegrityError, match=r"part-00000\.npy is damaged"):
        store.finish(KEY, 3, {})
    (folder / "part-00001.json").write_text("{")
    assert store.parts_done(KEY) == {2}
    write(store, (0, 1))
    np.testing.assert_array_equal(store.finish(KEY, 3, {}).vectors, VECTORS)


def test_a_kill_before_the_manifest_costs_no_part(store, tmp_path, monkeypatch):
    write(store)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.finish(KEY, 3, {})
    assert not store.has(KEY)
    with pytest.raises(IntegrityError, match=r"manifest\.json is missing"):
        store.open(KEY)
    assert store.parts_done(KEY) == {0, 1, 2}
    np.testing.assert_array_equal(store.finish(KEY, 3, {}).ids, IDS)
    assert store.parts_done(KEY) == set()


@pytest.mark.parametrize("name", ["vectors.npy", "ids.npy"])
def test_a_flipped_bit_or_missing_file_is_named(store, tmp_path, name):
    write(store)
    store.finish(KEY, 3, {})
    path = tmp_path / KEY.name / name
    flip(path)
    with pytest.raises(IntegrityError, match=rf"{name} is damaged"):
        store.open(KEY)
    store.open(KEY, verify=False)
    path.write_bytes(b"")
    with pytest.raises(IntegrityError, match=rf"{name} is damaged: 0 bytes"):
        store.open(KEY)
    path.write_bytes(b"not an array")
    with pytest.raises(IntegrityError, match=rf"{name} is no \.npy array"):
        store.open(KEY, verify=False)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{name} is missing"):
        store.open(KEY, verify=False)


def test_embeddings_of_other_rows_are_refused(store):
    write(store)
    store.finish(KEY, 3, {})
    other = EmbeddingKey("v1", "text", KEY.rows[:16] + "0" * 48)
    with pytest.raises(IntegrityError, match=r"are of EmbeddingKey.*wanted were.*expected the same key"):
        store.open(other)


def test_parts_that_do_not_fit_are_refused(store):
    with pytest.raises(ShapeError, match=r"part 0 of embeddings v1-text-.* vectors of shape \(7, 3\) and ids of shape \(2,\)"):
        store.write_part(KEY, 0, IDS[:2], VECTORS)
    store.write_part(KEY, 0, IDS[:2], VECTORS[:2])
    store.write_part(KEY, 1, IDS[2:], VECTORS[2:, :2])
    with pytest.raises(ShapeError, match=r"have widths \[2, 3\]; expected one"):
        store.finish(KEY, 2, {})


def test_no_parts_cannot_be_finished(store):
    with pytest.raises(StageError, match=r"lack 0 of 0 parts"):
        store.finish(KEY, 0, {})


def test_no_rows_are_embeddings_too(store):
    store.write_part(KEY, 0, IDS[:0], VECTORS[:0])
    assert store.finish(KEY, 1, {}).vectors.shape == (0, 3)


def test_the_digest_knows_ids_their_order_and_content():
    digests = {rows_digest(IDS, "a"), rows_digest(IDS[::-1], "a"), rows_digest(IDS, "b"), rows_digest(IDS[:-1], "a")}
    assert len(digests) == 4
    assert rows_digest(IDS.astype(np.int32), "a") == rows_digest(IDS, "a")


def test_a_store_at_a_uri_is_read_whole():
    store = EmbeddingStore("memory://embeddings")
    write(store)
    assert store.parts_done(KEY) == {0, 1, 2}
    np.testing.assert_array_equal(store.finish(KEY, 3, {}).vectors, VECTORS)
    with pytest.raises(IntegrityError, match=r"ids\.npy is damaged"):
        open_array(store.folder(KEY), "ids.npy", {"ids.npy": {"bytes": 1, "sha256": "0"}})
    files = storage.read_manifest(store.folder(KEY))["files"]
    check_file(storage.join(store.folder(KEY), "ids.npy"), files["ids.npy"])
