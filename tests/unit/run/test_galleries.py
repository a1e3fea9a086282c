"""Carrying out policies: which rows are drawn, what is refused, and that what was removed is made anew."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmcl_ray.config import load_config
from cmcl_ray.data.pairs import Rows
from cmcl_ray.errors import IntegrityError, VersionError
from cmcl_ray.index.backends.exact import Exact
from cmcl_ray.logs import Silent
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.policies.mathematics.maps import fit_map
from cmcl_ray.run.beginning import read_stream
from cmcl_ray.run.embedding import EmbedRequest, key_of, unique_requests
from cmcl_ray.run.engine import RunContext
from cmcl_ray.run.engines.local import LocalEngine
from cmcl_ray.run.galleries import Galleries, read_map, rows_of_side, sample
from cmcl_ray.run.settings import settings_from
from tests.run.left import differing


@pytest.fixture
def opened(small: Path, tmp_path: Path) -> tuple[Galleries, RunContext, LocalEngine]:
    """A copy of the finished run, opened."""
    shutil.copytree(small, tmp_path / "out")
    settings = settings_from(load_config(str(small.parent / "run.yaml"), [f"out={tmp_path / 'out'}"]))
    context = RunContext(settings, read_stream(settings), Exact(), Silent())
    engine = LocalEngine()
    engine.open(context)
    return Galleries(context, engine), context, engine


def test_a_sample_is_ascending_and_drawn_by_position() -> None:
    rows = np.arange(100, 200)
    assert sample(rows, 100, 3, 1) is rows
    drawn = sample(rows, 7, 3, 1)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == 7
    assert drawn.tolist() == sample(rows, 7, 3, 1).tolist() != sample(rows, 7, 3, 2).tolist()


def test_rows_of_images_are_each_there_once(opened: tuple[Galleries, RunContext, LocalEngine]) -> None:
    pairs, task = opened[1].stream.pairs, opened[1].stream.tasks[1]
    assert rows_of_side(pairs, task.test, "text") is task.test
    images = rows_of_side(pairs, task.test, "image")
    assert len(images) == 12
    assert set(images.tolist()) == set(pairs.image_row[task.test].tolist())


def test_a_query_of_a_version_that_is_not_of_this_run_is_refused(opened: tuple[Galleries, RunContext, LocalEngine]) -> None:
    galleries, context, _ = opened
    current = json.loads((Path(context.gallery) / "current").read_text())["policies"]["route"]
    gallery = galleries.read(current)
    version = context.job.version(1)
    with pytest.raises(VersionError, match=rf"is asked through version .*, which this run does not have; .*{version.id}"):
        galleries.queries(gallery, gallery.shards[0], context.stream.tasks, {version.id: version})


def test_removed_folders_come_back_as_they_were(opened: tuple[Galleries, RunContext, LocalEngine], small: Path) -> None:
    galleries, context, _ = opened
    versions = [context.job.version(task) for task in (0, 1)]
    for policy, current in json.loads((Path(context.gallery) / "current").read_text())["policies"].items():
        shards = galleries.read(current).shards
        assert policy in ("bridge", "route")
        shutil.rmtree(Path(context.gallery) / shards[0].folder)
        shutil.rmtree(Path(context.gallery) / "embeddings" / shards[1].embeddings)
        galleries.mend(shards, versions)
    assert differing(Path(context.settings.out), small) == set()


def test_a_map_that_is_damaged_or_missing_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source, target = (rng.standard_normal((9, 4)).astype(np.float32) for _ in range(2))
    data = fit_map("affine", source, target).to_bytes()
    (tmp_path / "maps").mkdir()
    path = tmp_path / "maps" / "a.npz"
    with pytest.raises(IntegrityError, match=r"maps/a.npz is missing"):
        read_map(str(tmp_path), "maps/a.npz")
    path.write_bytes(data)
    assert read_map(str(tmp_path), "maps/a.npz").matrix.shape == (4, 4)
    for broken in (b"", data[:-30], data[: len(data) // 2], b"no zip", data.replace(b"shift", b"shaft")):
        path.write_bytes(broken)
        with pytest.raises(IntegrityError, match=r"map .*maps/a.npz is damaged .*; expected an .npz file; remove it"):
            read_map(str(tmp_path), "maps/a.npz")


def test_requests_are_cut_and_counted_once(opened: tuple[Galleries, RunContext, LocalEngine]) -> None:
    _, context, engine = opened
    version, rows = context.job.version(0), np.arange(10)
    request = EmbedRequest(version, "text", rows)
    assert [part.tolist() for part in request.parts(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    others = [EmbedRequest(version, "text", rows.copy()), EmbedRequest(version, "image", rows)]
    keys = [key_of(each, context.stream, context.settings.model) for each in (request, *others)]
    assert keys[0] == keys[1] != keys[2]
    assert list(unique_requests([request, *others], keys)) == [keys[0], keys[2]]
    first, second, third = engine.embed([request, *others])
    assert first.ids.tolist() == rows.tolist()
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert third.vectors.shape == (10, 16)
    np.testing.assert_allclose(np.linalg.norm(third.vectors, axis=1), 1, atol=1e-6)


def test_parts_of_an_earlier_try_are_kept(
    opened: tuple[Galleries, RunContext, LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after two of four parts, the next call embeds the other two, to the same vectors."""
    _, context, engine = opened
    request = EmbedRequest(context.job.version(1), "image", np.arange(7))
    object.__setattr__(context.settings.index, "part_rows", 2)
    plain, seen, most = engine._embedder.embed, [], [2]

    def counted(version: ModelVersion, side: str, rows: Rows) -> np.ndarray:
        if len(seen) == most[0]:
            raise KeyboardInterrupt
        seen.append(rows.tolist())
        return plain(version, side, rows)

    monkeypatch.setattr(engine._embedder, "embed", counted)
    with pytest.raises(KeyboardInterrupt):
        engine.embed([request])
    most[0] = 4
    (found,) = engine.embed([request])
    assert seen == [[0, 1], [2, 3], [4, 5], [6]]
    monkeypatch.undo()
    expected = np.concatenate([plain(request.version, "image", rows) for rows in request.parts(2)])
    np.testing.assert_array_equal(found.vectors, expected)


def test_an_engine_must_be_opened() -> None:
    with pytest.raises(RuntimeError, match="no run is open; call open first"):
        LocalEngine().fit(0)


def test_a_closed_engine_forgets_its_run(opened: tuple[Galleries, RunContext, LocalEngine]) -> None:
    opened[2].close()
    opened[2].shutdown()
    with pytest.raises(RuntimeError, match="no run is open"):
        opened[2].embed([])
