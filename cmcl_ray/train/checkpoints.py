"""Checkpoints: folders that hold all a task's training remembers.

Tensors go to safetensors, the rest to JSON, and the manifest with checksums comes last. A progress checkpoint (inside a task)
and the one that ends a task have the same form; nothing is pickled.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError

# Replaces a tensor in the JSON half of a state; the value names it in the tensor half.
_TENSOR = "__tensor__"


@dataclass
class Checkpoint:
    """All that training remembers.

    Args:
        model: weights by name.
        position: where training stands: task, step, steps, and facts such as the version ids.
        optimizer: state of the optimizer, by parameter number.
        strategies: state of each strategy, by label.
        best: best weights so far, where they are kept.
        metrics: lines of metrics of this task so far.
    """

    model: dict[str, torch.Tensor]
    position: dict[str, Any]
    optimizer: dict[str, Any] = field(default_factory=dict)
    strategies: dict[str, Any] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)


def write_checkpoint(folder: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; it is whole once this returns and nothing before."""
    optimizer_tensors, optimizer_rest = flatten(checkpoint.optimizer)
    strategy_tensors, strategy_rest = flatten(checkpoint.strategies)
    files = {
        "model.safetensors": _pack(checkpoint.model),
        "optimizer.safetensors": _pack(optimizer_tensors),
        "strategies.safetensors": _pack(strategy_tensors),
        "best.safetensors": _pack(checkpoint.best),
        "state.json": _json({"optimizer": optimizer_rest, "strategies": strategy_rest}),
        "metrics.json": _json(checkpoint.metrics),
    }
    storage.commit(folder, files, {"position": checkpoint.position})


def read_checkpoint(folder: str) -> Checkpoint:
    """Read a whole checkpoint.

    Raises:
        IntegrityError: a file is missing or damaged; the text names it.
    """
    manifest = storage.read_manifest(folder)
    tensors = {name: _unpack(folder, f"{name}.safetensors", manifest) for name in ("model", "optimizer", "strategies", "best")}
    state = json.loads(storage.read_checked(folder, "state.json", manifest))
    return Checkpoint(
        model=tensors["model"],
        position=_position(folder, manifest),
        optimizer=unflatten(tensors["optimizer"], state["optimizer"]),
        strategies=unflatten(tensors["strategies"], state["strategies"]),
        best=tensors["best"],
        metrics=json.loads(storage.read_checked(folder, "metrics.json", manifest)),
    )


def read_weights(folder: str) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint alone.

    Raises:
        IntegrityError: the file is missing or damaged; the text names it.
    """
    return _unpack(folder, "model.safetensors", storage.read_manifest(folder))


def read_position(folder: str) -> dict[str, Any]:
    """Read where a checkpoint stands, without its tensors.

    Raises:
        IntegrityError: there is no manifest, or it is not one of a checkpoint.
    """
    return _position(folder, storage.read_manifest(folder))


def _position(folder: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    position = manifest.get("position")
    if not isinstance(position, dict) or "step" not in position:
        raise IntegrityError(
            f"manifest {storage.join(folder, storage.MANIFEST)} has position {position!r}; expected where training stood; remove "
            "the folder and run again"
        )
    return position


def _pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    # A view of shared storage would be refused, and a tensor on a GPU cannot be written.
    return save_tensors({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})


def _unpack(folder: str, name: str, manifest: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    data = storage.read_checked(folder, name, manifest)
    try:
        return dict(load_tensors(data))
    except Exception as error:  # the library raises an error type of its own
        raise IntegrityError(
            f"file {storage.join(folder, name)} cannot be read ({error}); remove the folder and run again"
        ) from None


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def flatten(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Split nested dicts and lists into tensors by path and the rest as a JSON value."""
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {_TENSOR: path}
        if isinstance(value, Mapping):
            return {str(key): walk(item, f"{path}/{_escaped(str(key))}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item, f"{path}/{number}") for number, item in enumerate(value)]
        return value

    rest = walk(state, "")
    return tensors, rest


def _escaped(key: str) -> str:
    # As in JSON pointers: a key with a slash must not meet the path of a nested one.
    return key.replace("~", "~0").replace("/", "~1")


def unflatten(tensors: Mapping[str, torch.Tensor], rest: Any) -> Any:
    """Put back together what flatten split."""
    if isinstance(rest, dict):
        if set(rest) == {_TENSOR}:
            return tensors[rest[_TENSOR]]
        return {key: unflatten(tensors, item) for key, item in rest.items()}
    if isinstance(rest, list):
        return [unflatten(tensors, item) for item in rest]
    return rest
