"""The settings of a run: the config held against every constructor before anything starts."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmcl_ray import __version__, storage
from cmcl_ray.components import ComponentSpec, build_settings, check_component, convert
from cmcl_ray.config import config_root, load_config, with_changes
from cmcl_ray.data.stream import StreamSettings
from cmcl_ray.errors import ConfigError, StageError, did_you_mean
from cmcl_ray.train.settings import TrainSettings

# Sections that say where and under which name a run happens, not what it computes: they are not part of its digest.
_PLACES = ("engine", "out", "label", "compare", "seeds", "data")
_SECTIONS = (
    "seed", "out", "label", "data", "stream", "model", "loss", "strategies", "train", "index", "policies", "evaluate", "engine",
    "compare", "seeds",
)  # fmt: skip


@dataclass(frozen=True)
class IndexSettings:
    """How a gallery is embedded and indexed.

    Args:
        backend: name and settings of the search backend.
        part_rows: rows embedded as one piece of work, stored as one part.
        batch_rows: rows in a forward pass.
    """

    backend: Mapping[str, Any]
    part_rows: int = 2048
    batch_rows: int = 256

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        if min(self.part_rows, self.batch_rows) < 1:
            raise ValueError(f"part_rows is {self.part_rows} and batch_rows {self.batch_rows}; expected at least 1")


@dataclass(frozen=True)
class EvaluateSettings:
    """What is scored.

    Args:
        directions: t2i, i2t or both.
        hits: hits taken from the index for each query, at least 11: recall needs ten, ties at the border one more.
        samples: queries shown in the report with their hits, for each direction.
        calibration_queries: training rows of a shard's own task that its score calibration is learnt from, at most.
    """

    directions: tuple[str, ...] = ("t2i", "i2t")
    hits: int = 32
    samples: int = 4
    calibration_queries: int = 1000

    def __post_init__(self) -> None:
        """Refuse unknown directions and lists too short to read a recall from."""
        if not self.directions or set(self.directions) - {"t2i", "i2t"}:
            raise ValueError(f"directions is {list(self.directions)}; expected t2i, i2t or both")
        if self.hits < 11:
            raise ValueError(f"hits is {self.hits}; expected at least 11")


@dataclass(frozen=True)
class RunSettings:
    """All settings of one run, checked.

    Args:
        config: the merged config as a plain mapping.
        run_id: digest of all that decides the run's figures, 16 hexadecimal digits.
        label: name of the run among those it is compared with.
        seed: of everything random.
        out: folder of the run, absolute, or a URI.
        source: where the pairs come from.
        stream: how they are cut into tasks and splits.
        model: the dual encoder.
        loss: the training loss.
        strategies: by label.
        train: how to train.
        index: how galleries are embedded and indexed.
        backend: the search backend.
        policies: gallery policies by label.
        evaluate: what is scored.
        engine: where the work happens.
    """

    config: Mapping[str, Any]
    run_id: str
    label: str
    seed: int
    out: str
    source: ComponentSpec
    stream: StreamSettings
    model: ComponentSpec
    loss: ComponentSpec
    strategies: Mapping[str, ComponentSpec]
    train: TrainSettings
    index: IndexSettings
    backend: ComponentSpec
    policies: Mapping[str, ComponentSpec]
    evaluate: EvaluateSettings
    engine: ComponentSpec

    def describe(self) -> dict[str, Any]:
        """Return what run.json holds."""
        return {
            "run_id": self.run_id,
            "label": self.label,
            "seed": self.seed,
            "strategy": "+".join(self.strategies) or "finetune",
            "engine": self.engine.name,
            "policies": list(self.policies),
            "config": dict(self.config),
            "versions": package_versions(),
        }


def package_versions() -> dict[str, str]:
    """Return the versions of what a run's figures may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"cmcl-ray": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "pyarrow", "ray", "faiss-cpu", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def settings_from(config: Mapping[str, Any]) -> RunSettings:
    """Check a config against every constructor it names.

    Args:
        config: as load_config returns it.

    Raises:
        ConfigError: an unknown key, a wrong type or a missing value, each named with its path.
    """
    for key in config:
        if key not in _SECTIONS:
            raise ConfigError(
                f"unknown key {key}{did_you_mean(key, _SECTIONS)}; expected one of {', '.join(_SECTIONS)}; correct it"
            )
    stream = dict(_mapping(config, "stream"))
    source = _spec("source", stream.pop("source", None), "stream.source")
    index = build_settings(IndexSettings, _mapping(config, "index"), "index")
    label = str(config.get("label") or "+".join(_mapping(config, "strategies")) or "finetune")
    settings = RunSettings(
        config=config,
        run_id=storage.digest_of({key: value for key, value in config.items() if key not in _PLACES}),
        label=label,
        seed=convert(config.get("seed", 0), int, "seed"),
        out=storage.absolute(convert(_present(config, "out"), str, "out")),
        source=source,
        stream=build_settings(StreamSettings, stream, "stream"),
        model=_spec("model", config.get("model"), "model"),
        loss=_spec("loss", config.get("loss"), "loss"),
        strategies={
            name: _spec("strategy", value, f"strategies.{name}") for name, value in _mapping(config, "strategies").items()
        },
        train=build_settings(TrainSettings, _mapping(config, "train"), "train"),
        index=index,
        backend=_spec("backend", index.backend, "index.backend"),
        policies={name: _spec("policy", value, f"policies.{name}") for name, value in _mapping(config, "policies").items()},
        evaluate=build_settings(EvaluateSettings, _mapping(config, "evaluate"), "evaluate"),
        engine=_spec("engine", config.get("engine"), "engine"),
    )
    if not settings.policies:
        raise ConfigError("policies is empty; expected at least one gallery policy; add policies: {keep: {}}")
    for spec in (settings.source, settings.loss, settings.backend, settings.engine, *settings.strategies.values()):
        check_component(spec)
    for spec in settings.policies.values():
        check_component(spec)
    check_component(settings.model, runtime=("facts",))
    return settings


def _present(config: Mapping[str, Any], key: str) -> Any:
    value = config.get(key, "???")
    if value == "???":
        raise ConfigError(f"missing value {key}; expected a folder or URI; set it in the config or give {key}=VALUE")
    return value


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} is {value!r} ({type(value).__name__}); expected a mapping; correct it")
    return value


def _spec(kind: str, value: Any, path: str) -> ComponentSpec:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or value["name"] == "???":
        raise ConfigError(f"missing value {path}.name; expected the name of a {kind}; set {path}={{name: NAME}}")
    return ComponentSpec(kind, value["name"], {key: item for key, item in value.items() if key != "name"}, path)


def runs_of(path: str, overrides: tuple[str, ...] | list[str] = ()) -> list[RunSettings]:
    """Return the runs a config file asks for: one, or one for each entry of ``compare`` and each of ``seeds``.

    Args:
        path: the config file.
        overrides: ``key=value`` texts.

    Returns:
        Checked settings; runs of a comparison have their folders under the config's ``out``: <out>/<label>/seed<seed>.

    Raises:
        ConfigError: as settings_from.
    """
    config = load_config(path, overrides)
    compare = _mapping(config, "compare")
    seeds = convert(config.get("seeds") or [config.get("seed", 0)], list[int], "seeds")
    if not compare and not config.get("seeds"):
        return [settings_from(config)]
    root = config_root(path)
    out = storage.absolute(convert(_present(config, "out"), str, "out"))
    base = {key: value for key, value in config.items() if key not in ("compare", "seeds")}
    runs = []
    for label, changes in (compare or {str(config.get("label") or "run"): {}}).items():
        if changes is not None and not isinstance(changes, Mapping):
            raise ConfigError(f"compare.{label} is {changes!r}; expected a mapping of the values that differ; correct it")
        changed = with_changes(base, changes or {}, root)
        for seed in seeds:
            runs.append(
                settings_from({**changed, "label": str(label), "seed": seed, "out": storage.join(out, str(label), f"seed{seed}")})
            )
    return runs


def check_out(settings: RunSettings) -> None:
    """Check that a run's folder is empty or was begun by the same run, and write run.json where it is new.

    Raises:
        StageError: the folder belongs to a run of another config.
    """
    path = storage.join(settings.out, "run.json")
    if storage.exists(path):
        found = storage.read_json(path)
        if found.get("run_id") != settings.run_id:
            raise StageError(
                f"folder {settings.out} holds run {found.get('run_id')} of another config ({_difference(found, settings)}); this "
                f"config is run {settings.run_id}; give another folder (out=...) or remove it"
            )
        return
    storage.write_json(path, settings.describe())


def _difference(found: Mapping[str, Any], settings: RunSettings) -> str:
    """Name the first key in which two configs differ."""

    def walk(left: Any, right: Any, path: str) -> str | None:
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            for key in sorted({*left, *right}):
                inside = walk(left.get(key), right.get(key), f"{path}.{key}" if path else str(key))
                if inside:
                    return inside
            return None
        return None if left == right else f"{path}: {left!r} there, {right!r} here"

    places = {key: None for key in _PLACES}
    return walk({**found.get("config", {}), **places}, {**settings.config, **places}, "") or "another version of the config"


__all__ = [
    "EvaluateSettings", "IndexSettings", "RunSettings", "check_out", "package_versions", "runs_of", "settings_from",
]  # fmt: skip
