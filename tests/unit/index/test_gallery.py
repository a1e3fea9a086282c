"""Shards and gallery versions: named by content, whole before they are named, swapped and rolled back in one write."""

import dataclasses
import json

import numpy as np
import pytest

from cmcl_ray.errors import IntegrityError, ShapeError, StageError
from cmcl_ray.index.backends.exact import Exact
from cmcl_ray.index.backends.flat import Flat
from cmcl_ray.index.embeddings import EmbeddingKey, Embeddings
from cmcl_ray.index.gallery import Current, GalleryStore, GalleryVersion
from cmcl_ray.index.shards import Shard, build_shard, open_shard

VECTORS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
IDS = np.array([5, 2, 9, 0, 7, 3, 11])


def embeddings(version="v0"):
    return Embeddings(EmbeddingKey(version, "image", "r" * 64), IDS, VECTORS)


@pytest.fixture
def root(tmp_path):
    return str(tmp_path)


@pytest.fixture
def shard(root):
    return build_shard(root, Exact(), embeddings(), task=1, task_name="sky", facts={"mean": 0.1})


def test_a_shard_says_what_it_holds_and_survives_json(root, shard):
    assert (shard.task, shard.task_name, shard.side, shard.version) == (1, "sky", "image", "v0")
    assert (shard.dtype, shard.dim, shard.count, shard.backend) == ("float32", 3, 7, "exact")
    assert shard.folder == f"shards/{shard.name}"
    assert Shard.from_json(json.loads(json.dumps(shard.to_json()))) == shard
    hits = open_shard(root, shard, Flat()).search(VECTORS[:2], 1)
    assert hits.ids.shape == (2, 1)


def test_the_name_follows_the_content_alone(root, shard):
    same = build_shard(root, Exact(block_rows=64), embeddings(), task=1, task_name="heaven", facts={"mean": 0.2})
    assert (same.name, same.files) == (shard.name, shard.files)
    assert same.facts == {"mean": 0.2}
    others = [
        build_shard(root, Exact(), embeddings("v1"), task=1, task_name="sky"),
        build_shard(root, Exact(), embeddings(), task=2, task_name="sky"),
        build_shard(root, Flat(), embeddings(), task=1, task_name="sky"),
        build_shard(root, Exact(), dataclasses.replace(embeddings(), vectors=VECTORS[:, :2]), task=1, task_name="sky"),
    ]
    assert len({shard.name, *(other.name for other in others)}) == 5


def test_a_shard_without_manifest_is_built_again(root, shard, tmp_path):
    folder = tmp_path / shard.folder
    (folder / "manifest.json").unlink()
    (folder / "vectors.npy").write_bytes(b"half")
    with pytest.raises(IntegrityError, match=r"manifest\.json is missing"):
        open_shard(root, shard, Exact())
    assert build_shard(root, Exact(), embeddings(), task=1, task_name="sky", facts={"mean": 0.1}) == shard
    assert open_shard(root, shard, Exact()).count == 7


def test_a_finished_shard_is_not_built_again(root, shard, tmp_path):
    before = (tmp_path / shard.folder / "vectors.npy").stat().st_mtime_ns
    build_shard(root, Exact(), embeddings(), task=1, task_name="sky")
    assert (tmp_path / shard.folder / "vectors.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["vectors.npy", "ids.npy"])
def test_a_flipped_bit_in_a_shard_is_named(root, shard, tmp_path, name):
    path = tmp_path / shard.folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=rf"{name} is damaged"):
        open_shard(root, shard, Exact())


def test_a_folder_of_another_shard_is_refused(root, shard):
    with pytest.raises(IntegrityError, match=r"manifest\.json is of shard .*'version': 'v0'.*; expected .*'version': 'v9'"):
        open_shard(root, dataclasses.replace(shard, version="v9"), Exact())


def test_a_backend_that_finds_other_vectors_is_refused(root, shard):
    class Forgetful(Exact):
        def open(self, folder, files):
            return self.build(VECTORS[:2], IDS[:2])

    with pytest.raises(ShapeError, match=r"holds 2 vectors of dim 3, its gallery version says 7 of dim 3"):
        open_shard(root, shard, Forgetful())


@pytest.fixture
def store(root):
    return GalleryStore(root)


def version(shard, parent=None, after_task=0):
    return GalleryVersion((shard,), parent, "keep", after_task, {"routes": {}})


def test_a_version_is_named_by_its_content_and_read_back(store, shard, tmp_path):
    first = version(shard)
    assert store.commit(first) == first.id == store.commit(first)
    assert store.read(first.id) == first
    assert [path.name for path in (tmp_path / "versions").iterdir()] == [f"{first.id}.json"]
    assert version(shard, after_task=1).id != first.id


def test_a_changed_version_file_is_refused(store, shard, tmp_path):
    id = store.commit(version(shard))
    path = tmp_path / "versions" / f"{id}.json"
    path.write_text(path.read_text().replace('"sky"', '"sea"'))
    with pytest.raises(IntegrityError, match=rf"{id}\.json is damaged: its content has digest .*, its name says {id}"):
        store.read(id)
    with pytest.raises(IntegrityError, match=r"nowhere\.json is missing"):
        store.read("nowhere")


def test_a_version_needs_its_parent_and_whole_shards(store, shard, tmp_path):
    with pytest.raises(StageError, match=r"parent 0123 of a gallery version is not in"):
        store.commit(version(shard, parent="0123"))
    (tmp_path / shard.folder / "manifest.json").unlink()
    with pytest.raises(StageError, match=rf"shard .*{shard.name} has no manifest; expected a finished shard"):
        store.commit(version(shard))
    assert not (tmp_path / "versions").exists()


def test_swap_and_rollback_move_one_pointer(store, shard):
    first = store.commit(version(shard))
    second = store.commit(version(shard, first, 1))
    with pytest.raises(StageError, match=r"has no file current; expected a finished task"):
        store.current()
    store.set_current({"keep": second, "route": first}, "route")
    assert store.current() == Current("route", {"keep": second, "route": first})
    assert store.rollback("keep") == first
    assert store.current() == Current("route", {"keep": first, "route": first})
    with pytest.raises(StageError, match=rf"version {first} of policy 'keep' has no parent"):
        store.rollback("keep")
    with pytest.raises(StageError, match=r"policy 'kep' has no gallery in .*did you mean 'keep'.*expected one of keep, route"):
        store.rollback("kep")


def test_the_pointer_names_only_what_is_there(store, shard):
    first = store.commit(version(shard))
    with pytest.raises(StageError, match=r"live policy is 'rout'; expected one of keep"):
        store.set_current({"keep": first}, "rout")
    with pytest.raises(StageError, match=r"gallery version feed of policy 'keep' is not in"):
        store.set_current({"keep": "feed"}, "keep")
