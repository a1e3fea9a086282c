"""Both exact backends give the answers of a brute-force ranking, ties included, whatever the batch, block or cut."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.errors import ConfigError, DataError, IntegrityError, ShapeError
from cmcl_ray.index.backends.exact import Exact
from cmcl_ray.index.backends.flat import Flat
from cmcl_ray.index.hits import merge_hits

BACKENDS = [Exact(block_rows=64), Exact(), Flat()]
NAMES = ["exact-64", "exact", "flat"]
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=NAMES)


def oracle(vectors, ids, queries, k):
    """Rank by float64 products rounded to float32, with a sort of Python's."""
    all_ids, all_scores = [], []
    for query in queries:
        scores = [float(np.float32((vector.astype(np.float64) * query.astype(np.float64)).sum())) for vector in vectors]
        found = sorted(zip(scores, ids.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
        found += [(-np.inf, -1)] * (k - len(found))
        all_scores.append([pair[0] for pair in found])
        all_ids.append([pair[1] for pair in found])
    return np.array(all_ids).reshape(-1, k), np.array(all_scores, np.float32).reshape(-1, k)


def unit(rng, count, dim):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def same(hits, expected):
    np.testing.assert_array_equal(hits.ids, expected[0])
    np.testing.assert_array_equal(hits.scores, expected[1])
    assert (hits.ids.dtype, hits.scores.dtype) == (np.int64, np.float32)


@each_backend
@pytest.mark.parametrize(("count", "k"), [(0, 3), (1, 3), (5, 9), (37, 4), (37, 37), (300, 5), (300, 290)])
def test_hits_equal_brute_force(backend, count, k):
    rng = np.random.default_rng(count)
    vectors, queries, ids = unit(rng, count, 12), unit(rng, 7, 12), rng.permutation(2 * count)[:count]
    same(backend.build(vectors, ids).search(queries, k), oracle(vectors, ids, queries, k))


@each_backend
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 260), k=st.integers(1, 40), levels=st.integers(1, 3))
def test_ties_across_the_cut_keep_the_lowest_ids(backend, seed, count, k, levels):
    rng = np.random.default_rng(seed)
    # Few levels in few dimensions: far more equal scores than spare candidates.
    vectors = rng.integers(-levels, levels + 1, size=(count, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, size=(4, 3)).astype(np.float32)
    ids = rng.permutation(3 * count)[:count]
    same(backend.build(vectors, ids).search(queries, k), oracle(vectors, ids, queries, k))


@each_backend
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-4])
def test_collapsed_embeddings_are_still_ranked_exactly(backend, spread):
    rng = np.random.default_rng(3)
    vectors = (unit(rng, 1, 16) + spread * rng.standard_normal((150, 16))).astype(np.float32)
    queries = (vectors[:5] + spread * rng.standard_normal((5, 16))).astype(np.float32)
    queries[4] = 0.0
    same(backend.build(vectors, np.arange(150)).search(queries, 6), oracle(vectors, np.arange(150), queries, 6))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_cut_into_shards_and_any_batch_give_the_same_hits(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    vectors, queries = unit(rng, 90, 20), unit(rng, 6, 20)
    vectors[rng.integers(90, size=30)] = vectors[0]
    whole = BACKENDS[1].build(vectors, np.arange(90)).search(queries, 5)
    of_shard = rng.integers(data.draw(st.integers(1, 4)), size=90)
    for backend in BACKENDS:
        parts = [backend.build(vectors[of_shard == s], np.flatnonzero(of_shard == s)) for s in np.unique(of_shard)]
        same(merge_hits([part.search(queries, 5) for part in parts], 5), (whole.ids, whole.scores))
    alone = BACKENDS[1].build(vectors, np.arange(90)).search(queries[2:3], 5)
    same(alone, (whole.ids[2:3], whole.scores[2:3]))


@each_backend
def test_many_queries_over_many_blocks(backend):
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 700, 8), unit(rng, 530, 8)
    hits = backend.build(vectors, np.arange(700)).search(queries, 3)
    order = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :3]
    np.testing.assert_array_equal(hits.ids, order)


def test_a_lower_precision_of_torch_does_not_change_hits():
    rng = np.random.default_rng(2)
    vectors, queries = unit(rng, 400, 32), unit(rng, 5, 32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        same(Exact().build(vectors, np.arange(400)).search(queries, 5), oracle(vectors, np.arange(400), queries, 5))
    finally:
        torch.set_float32_matmul_precision(before)


@each_backend
def test_saved_files_open_by_either_backend_and_equal_content_gives_equal_files(backend, tmp_path):
    rng = np.random.default_rng(5)
    vectors, queries, ids = unit(rng, 33, 6), unit(rng, 4, 6), rng.permutation(99)[:33]
    index = backend.build(vectors, ids)
    files = index.save(str(tmp_path / "a"))
    assert files == backend.build(vectors[::-1], ids[::-1]).save(str(tmp_path / "b"))
    for other in BACKENDS:
        opened = other.open(str(tmp_path / "a"), files)
        assert (opened.count, opened.dim) == (33, 6)
        same(opened.search(queries, 4), oracle(vectors, ids, queries, 4))


@each_backend
def test_an_empty_index_can_be_saved_and_opened(backend, tmp_path):
    files = backend.build(np.empty((0, 6), np.float32), np.empty(0, np.int64)).save(str(tmp_path))
    hits = backend.open(str(tmp_path), files).search(np.ones((2, 6), np.float32), 3)
    assert (hits.ids == -1).all()
    assert np.isneginf(hits.scores).all()


@each_backend
def test_no_queries_give_no_hits(backend):
    assert backend.build(np.ones((4, 6), np.float32), np.arange(4)).search(np.empty((0, 6), np.float32), 3).ids.shape == (0, 3)


@each_backend
def test_adding_gives_a_new_index_and_leaves_the_old_one(backend):
    rng = np.random.default_rng(6)
    vectors, queries, ids = unit(rng, 40, 6), unit(rng, 4, 6), rng.permutation(40)
    index = backend.build(vectors[:25], ids[:25])
    grown = index.add(vectors[25:], ids[25:])
    same(grown.search(queries, 5), oracle(vectors, ids, queries, 5))
    same(index.search(queries, 5), oracle(vectors[:25], ids[:25], queries, 5))
    with pytest.raises(DataError, match=f"id {ids[30]} occurs more than once"):
        grown.add(vectors[30:31], ids[30:31])
    with pytest.raises(ShapeError, match=r"vectors to add have dim 5, the index has dim 6"):
        index.add(np.ones((1, 5), np.float32), np.array([99]))


@each_backend
def test_what_cannot_be_indexed_or_asked_is_refused(backend):
    good = np.ones((3, 4), np.float32)
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ShapeError, match=r"shape \(3, 4\) and ids have shape \(2,\); expected \(N, D\) and \(N,\)"):
        backend.build(good, np.arange(2))
    with pytest.raises(DataError, match=r"id 7 occurs more than once; expected every id once"):
        backend.build(good, np.array([7, 3, 7]))
    with pytest.raises(DataError, match=r"id -2 is negative; expected ids >= 0"):
        backend.build(good, np.array([7, 3, -2]))
    with pytest.raises(DataError, match=r"vector of id 1 holds a value that is not finite"):
        backend.build(bad, np.arange(3))
    index = backend.build(good, np.arange(3))
    with pytest.raises(ShapeError, match=r"queries have shape \(2, 5\), the index has dim 4: they come from different models"):
        index.search(np.ones((2, 5), np.float32), 1)
    with pytest.raises(DataError, match=r"query 1 holds a value that is not finite"):
        index.search(bad, 1)
    with pytest.raises(ValueError, match=r"k is 0; expected at least 1"):
        index.search(good, 0)


@each_backend
def test_a_damaged_or_missing_file_is_named(backend, tmp_path):
    files = backend.build(np.ones((3, 4), np.float32), np.arange(3)).save(str(tmp_path))
    path = tmp_path / "vectors.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"vectors\.npy is damaged"):
        backend.open(str(tmp_path), files)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"vectors\.npy is missing"):
        backend.open(str(tmp_path), files)
    with pytest.raises(IntegrityError, match=r"vectors\.npy is not listed .* has ids\.npy; expected 'vectors\.npy'"):
        backend.open(str(tmp_path), {"ids.npy": files["ids.npy"]})


def test_faiss_is_left_as_it_was_found():
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    index = Flat().build(np.ones((3, 4), np.float32), np.arange(3))
    index.search(np.ones((2, 4), np.float32), 1)
    assert faiss.cvar.distance_compute_blas_threshold == before


def test_missing_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"backend 'flat' needs faiss.* `pip install cmcl-ray\[cpu\]`"):
        build_component(ComponentSpec("backend", "flat", {}, "index.backend"))


def test_settings_of_exact_are_checked():
    with pytest.raises(ConfigError, match=r"block_rows is 1; expected at least 64"):
        Exact(block_rows=1)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"device is 'cuda', but torch sees no GPU.* set device to auto or cpu"):
            Exact(device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_gpu_gives_the_same_hits(precision):
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 5000, 64), unit(rng, 530, 64)
    vectors[4000:4100] = vectors[0]
    expected = Exact(device="cpu").build(vectors, np.arange(5000)).search(queries, 10)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        same(Exact(device="cuda").build(vectors, np.arange(5000)).search(queries, 10), (expected.ids, expected.scores))
    finally:
        torch.set_float32_matmul_precision(before)
