"""The settings of a run: the config held against every constructor before anything starts."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cmcl_ray import __version__, storage
from cmcl_ray.components import ComponentSpec, build_component, build_settings, check_component, convert
from cmcl_ray.config import config_root, load_config, with_changes
from cmcl_ray.data.stream import StreamSettings
from cmcl_ray.errors import ConfigError, did_you_mean
from cmcl_ray.train.settings import TrainSettings

# Sections that say where and under which name a run happens, not what it computes: they are not part of its digest.
PLACES = ("engine", "out", "label", "compare", "seeds", "data")
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
        for name, least in (("hits", 11), ("samples", 0), ("calibration_queries", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")


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
        ConfigError: an unknown key, a wrong type, a missing value, or one a constructor refuses; each named with its path.
    """
    _refuse_not_finite(config, "")
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
        run_id="",
        label=label,
        seed=_seed(config.get("seed", 0)),
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
    check_component(settings.engine)
    check_component(settings.model, runtime=("facts",))
    # A constructor may refuse what its types allow, and it costs nothing to ask: nothing is read or started before use.
    for spec in (settings.source, settings.loss, settings.backend, *settings.strategies.values(), *settings.policies.values()):
        build_component(spec)
    # Last, since only a checked config is sure to have a digest.
    return replace(settings, run_id=storage.digest_of({key: value for key, value in config.items() if key not in PLACES}))


def _refuse_not_finite(value: Any, path: str) -> None:
    """Refuse numbers that no setting means and no JSON file can hold."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_not_finite(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _refuse_not_finite(item, f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value}; expected a finite number; correct it")


def _seed(value: Any) -> int:
    seed = int(convert(value, int, "seed"))
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}; expected a whole number from 0 to 2**63 - 1; correct it")
    return seed


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
    if not compare and not config.get("seeds"):
        return [settings_from(config)]
    seeds = convert(config["seeds"], list[int], "seeds") if config.get("seeds") else [_seed(config.get("seed", 0))]
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
