"""The config: YAML files merged with ``key=value`` overrides into one plain mapping.

``base.yaml`` gives the choice of components, the named file goes over it, overrides go over both. A section may name a YAML of
its folder (``model: tiny`` reads ``configs/model/tiny.yaml``); a mapping with ``use: tiny`` starts from that file and changes
keys. Strategies, policies and backends take their folder's file of the same name as defaults, where there is one. Checking
against constructors happens in ``run/settings``; here a key is only a key. OmegaConf stays inside this file: what leaves is
plain dicts, lists, texts and numbers.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmcl_ray.errors import ConfigError

# section -> folder of YAML files that it may name
FILES = {"stream": "stream", "model": "model", "train": "train", "index": "index"}
# section (a mapping of labels to settings) -> folder of YAML files with defaults, found by the component's name
LABELLED = {"strategies": "strategy", "policies": "policy"}


def config_root(path: str) -> Path:
    """Return the folder with ``base.yaml`` above a config file, else the one that came with the package."""
    for folder in Path(path).resolve().parents:
        if (folder / "base.yaml").is_file():
            return folder
    installed = Path(str(resources.files("cmcl_ray"))) / "configs"
    return installed if installed.is_dir() else Path(str(resources.files("cmcl_ray"))).parent / "configs"


def load_config(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file with its defaults and overrides.

    Args:
        path: a YAML file; a bare name such as ``demo`` means ``configs/run/demo.yaml``.
        overrides: ``key=value`` texts with dotted keys; the value is YAML.

    Returns:
        The merged mapping, interpolations resolved; values still missing are the text ``???``.

    Raises:
        ConfigError: a file is missing or is not YAML, or an override has no ``=``.
    """
    if not os.path.exists(path) and "/" not in path and not path.endswith((".yaml", ".yml")):
        path = str(config_root(path) / "run" / f"{path}.yaml")
    root = config_root(path)
    layers = [_read(root / "base.yaml")] if (root / "base.yaml").is_file() else []
    layers.append(_read(Path(path)))
    changes = [_override(text) for text in overrides]
    # A whole section given by name (model=two_branch) replaces the file's choice before keys inside it are set.
    named = [change for change in changes if _names_file(change)]
    merged: dict[str, Any] = {}
    for layer in [*layers, *named]:
        _merge(merged, _expand_files(layer, root))
    _labels_from_lists(merged)
    for change in changes:
        if change not in named:
            _merge(merged, change)
            _labels_from_lists(merged)
    for section, folder in LABELLED.items():
        merged[section] = _expand_labels(merged.get(section), root / folder, section)
    return _resolve(merged, path)


def with_changes(config: Mapping[str, Any], changes: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return a config with a mapping of changes merged over it; ``strategies`` and ``policies`` are replaced, not merged.

    Args:
        config: a config as load_config returns it.
        changes: nested values, as one entry of ``compare`` holds them.
        root: folder of the YAML files, for sections named by file.

    Returns:
        The changed config, interpolations resolved.

    Raises:
        ConfigError: a file named by a section is missing or is not YAML, or an interpolation leads nowhere.
    """
    merged = OmegaConf.to_container(OmegaConf.create(dict(config)))
    assert isinstance(merged, dict)
    changes = _expand_files(changes, root)
    for section, folder in LABELLED.items():
        if section in changes:
            merged.pop(section, None)
            changes[section] = _expand_labels(changes[section], root / folder, section)
    result = {str(key): value for key, value in merged.items()}
    _merge(result, changes)
    # A section named by file brings its interpolations with it.
    return _resolve(result, "with changes")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"config file {path} is missing; expected a YAML file; check the path")
    try:
        loaded = OmegaConf.load(path)
        plain = OmegaConf.to_container(loaded, resolve=False)
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(f"config file {path} cannot be read ({_one_line(error)}); expected YAML") from None
    except Exception as error:  # PyYAML's errors share no public base with OmegaConf's
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(f"config file {path} is not YAML ({_one_line(error)}); correct the line named") from None
        raise
    if not isinstance(plain, dict):
        raise ConfigError(f"config file {path} holds a {type(plain).__name__}; expected a mapping of keys to values")
    return {str(key): value for key, value in plain.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _override(text: str) -> dict[str, Any]:
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}' has no key and value; expected key=value, for example train.lr=0.001")
    try:
        loaded = OmegaConf.from_dotlist([text])
    except Exception as error:
        raise ConfigError(
            f"override '{text}' cannot be read ({_one_line(error)}); expected key=value with a YAML value"
        ) from None
    plain = OmegaConf.to_container(loaded, resolve=False)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _names_file(change: Mapping[str, Any]) -> bool:
    chosen = [value for section, value in change.items() if section in FILES]
    return any(isinstance(value, str) or (isinstance(value, Mapping) and "use" in value) for value in chosen)


def _expand_files(layer: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Replace sections given by name, or started with ``use``, by the YAML files they name."""
    expanded = dict(layer)
    for section, folder in FILES.items():
        value = layer.get(section)
        if isinstance(value, str) and value != "???":
            expanded[section] = _named(root / folder, value, section)
        elif isinstance(value, Mapping) and "use" in value:
            started = _named(root / folder, str(value["use"]), section)
            _merge(started, {key: item for key, item in value.items() if key != "use"})
            started[_REPLACES] = True
            expanded[section] = started
    return expanded


# Marks a section that came from a named file: it replaces what a lower layer chose instead of merging with it.
_REPLACES = "__replaces__"


def _named(folder: Path, name: str, section: str) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml")) if folder.is_dir() else []
        raise ConfigError(f"{section} is '{name}', but {path} is missing; expected one of {', '.join(known) or 'no file yet'}")
    return {**_read(path), _REPLACES: True}


def _labels_from_lists(merged: dict[str, Any]) -> None:
    """Turn lists of names into labels in place, so that an override reaches into one of them and keeps the others."""
    for section in LABELLED:
        if isinstance(merged.get(section), list):
            merged[section] = {str(label): {} for label in merged[section]}


def _expand_labels(section: Any, folder: Path, name: str) -> dict[str, Any]:
    if section is None:
        return {}
    if isinstance(section, list):
        section = {str(label): {} for label in section}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name} is {section!r}; expected a mapping of labels to settings, or a list of names")
    expanded: dict[str, Any] = {}
    for label, settings in section.items():
        if settings is None:
            settings = {}
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{name}.{label} is {settings!r}; expected a mapping of settings")
        file = folder / f"{settings.get('name', label)}.yaml"
        expanded[str(label)] = {"name": label, **(_read(file) if file.is_file() else {}), **settings}
    return expanded


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Merge a layer over another one in place: mappings key by key, everything else replaced."""
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = under.get(key)
            # The settings of one component mean nothing to another.
            renamed = isinstance(below, dict) and "name" in value and value["name"] != below.get("name")
            if value.get(_REPLACES) or renamed or not isinstance(below, dict):
                # A component given by its bare name (engine: ray) may be followed by settings of it.
                under[key] = {"name": below} if isinstance(below, str) and "name" not in value else {}
            _merge(under[key], {name: item for name, item in value.items() if name != _REPLACES})
        elif isinstance(value, str) and isinstance(under.get(key), dict) and under[key].get("name") == value:
            continue  # the component that is there already, named once more
        else:
            under[key] = value


def _resolve(merged: dict[str, Any], path: str) -> dict[str, Any]:
    try:
        config = OmegaConf.create(merged)
        assert isinstance(config, DictConfig)
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a value"
        raise ConfigError(
            f"config {path}: {key} cannot be resolved ({_one_line(error).split(' full_key:')[0]}); set the value it refers to"
        ) from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
