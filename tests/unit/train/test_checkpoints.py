"""Checkpoints come back as they were written, and nothing damaged is taken for whole."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError
from cmcl_ray.train.checkpoints import (
    Checkpoint,
    flatten,
    read_checkpoint,
    read_position,
    read_weights,
    unflatten,
    write_checkpoint,
)

FILES = (
    "best.safetensors",
    "metrics.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "strategies.safetensors",
)


def sample() -> Checkpoint:
    """A checkpoint with every kind of thing that is remembered."""
    torch.manual_seed(0)
    shared = torch.randn(4, 3)
    return Checkpoint(
        model={"branch.weight": shared, "view": shared[1:3].T, "scale": torch.tensor(2.5), "none": torch.empty(0, 3)},
        position={"task": 1, "step": 7, "steps": 9, "best_loss": None, "wall_s": 0.25, "version": "abc"},
        optimizer={"0": {"step": torch.tensor(7.0), "exp_avg": torch.randn(4, 3)}, "1": {}},
        strategies={
            "ewc": {"importance": {"w": torch.rand(2, 2)}, "anchor": {}},
            "replay": {"memory": [["b", "a"], []], "count": 3, "share": 0.1, "note": None, "on": True},
            "deep": {"list": [torch.arange(3), {"half": torch.ones(2, dtype=torch.bfloat16)}]},
        },
        best={"branch.weight": torch.randn(4, 3)},
        metrics=[{"step": 1, "train/loss": 0.1}, {"step": 2, "train/loss": 1e-300}],
    )


def same(left: Any, right: Any) -> bool:
    """Equality of nested values whose tensors are equal in type, shape and every bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    write_checkpoint(folder, sample())
    assert same(vars(read_checkpoint(folder)), vars(sample()))
    assert same(read_weights(folder), sample().model)
    assert read_position(folder) == sample().position


def test_equal_checkpoints_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_checkpoint(str(tmp_path / name), sample())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_empty_checkpoint_comes_back(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path), Checkpoint(model={"w": torch.zeros(2)}, position={"step": 0}))
    read = read_checkpoint(str(tmp_path))
    assert (read.optimizer, read.strategies, read.best, read.metrics) == ({}, {}, {}, [])


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSORS = st.builds(lambda shape, value: torch.full(shape, value, dtype=torch.float64), SHAPES, st.floats(allow_nan=False))
STATES = st.recursive(
    LEAVES | TENSORS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(STATES)
def test_any_nested_state_comes_apart_and_together(state: Any) -> None:
    """The rest is JSON, and both halves give the state back, whatever the keys hold."""
    tensors, rest = flatten(state)
    assert same(unflatten(tensors, json.loads(json.dumps(rest))), state)


def test_keys_with_slashes_do_not_meet_nested_ones() -> None:
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "a~1b": torch.full((1,), 2.0)}
    tensors, rest = flatten(state)
    assert len(tensors) == 3
    assert same(unflatten(tensors, rest), state)


def test_a_number_that_is_not_finite_survives() -> None:
    """Progress may stand at a best loss that is not known yet."""
    tensors, rest = flatten({"a": math.inf, "b": torch.tensor(math.nan)})
    back = unflatten(tensors, json.loads(json.dumps(rest)))
    assert back["a"] == math.inf
    assert torch.isnan(back["b"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, how: str) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(str(folder), sample())
    data = (folder / name).read_bytes()
    if how == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data[:-1] if how == "cut" else data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    with pytest.raises(IntegrityError, match=f"checkpoint/{name} is {'missing' if how == 'missing' else 'damaged'}"):
        read_checkpoint(str(folder))


def test_a_checkpoint_without_its_manifest_is_none(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path), sample())
    (tmp_path / "manifest.json").unlink()
    for read in (read_checkpoint, read_weights, read_position):
        with pytest.raises(IntegrityError, match=r"manifest\.json is missing"):
            read(str(tmp_path))


def test_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    storage.commit(str(tmp_path), {"model.safetensors": b"abc"}, {"shard": {}})
    with pytest.raises(IntegrityError, match=r"manifest\.json has position None; expected where training stood"):
        read_position(str(tmp_path))
    with pytest.raises(IntegrityError, match=r"file .*model\.safetensors cannot be read"):
        read_weights(str(tmp_path))


def test_the_manifest_comes_last_and_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a file of the checkpoint is being written there is no manifest, also when one is written over."""
    folder, written = str(tmp_path / "checkpoint"), []
    plain = storage.write_bytes

    def watched(path: str, data: bytes) -> None:
        written.append((path.rsplit("/", 1)[-1], storage.has_manifest(folder)))
        plain(path, data)

    monkeypatch.setattr(storage, "write_bytes", watched)
    for _ in range(2):
        write_checkpoint(folder, sample())
    assert not any(there for _, there in written)
    names = [name for name, _ in written]
    assert names.index("manifest.json") == len(FILES)
    assert names[-1] == "manifest.json"
    assert sorted(names) == sorted([*FILES, "manifest.json"] * 2)
