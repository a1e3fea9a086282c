"""Components by name: one file in a room's folder, one YAML beside the config, nothing to register.

A component is a class whose constructor signature *is* its settings: names, types and defaults stand there and nowhere else.
The config is held against that signature before anything runs. ``package.module:Class`` reaches code outside the tree.
Every module in a component folder is a component, but for ``base``; helpers live in sub-packages.
"""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from cmcl_ray.errors import ConfigError, did_you_mean

T = TypeVar("T")

# kind -> (folder of the components, module and name of the contract they implement)
KINDS: dict[str, tuple[str, str]] = {
    "source": ("cmcl_ray.data.sources", "cmcl_ray.data.sources.base:Source"),
    "model": ("cmcl_ray.models", "cmcl_ray.models.base:DualEncoder"),
    "loss": ("cmcl_ray.models.losses", "cmcl_ray.models.losses.base:Loss"),
    "strategy": ("cmcl_ray.strategies", "cmcl_ray.strategies.base:Strategy"),
    "backend": ("cmcl_ray.index.backends", "cmcl_ray.index.backends.base:Backend"),
    "policy": ("cmcl_ray.policies", "cmcl_ray.policies.base:GalleryPolicy"),
    "engine": ("cmcl_ray.run.engines", "cmcl_ray.run.engine:Engine"),
}
# Not part of any folder of components: Ray lives in its own room.
ELSEWHERE: dict[tuple[str, str], str] = {("engine", "ray"): "cmcl_ray.on_ray.engine:RayEngine"}


@dataclasses.dataclass(frozen=True)
class ComponentSpec:
    """A component as the config names it.

    Args:
        kind: one of KINDS.
        name: file name in the kind's folder, or ``package.module:Class``.
        params: constructor arguments from the config.
        path: where it stands in the config, for error texts.
    """

    kind: str
    name: str
    params: Mapping[str, Any]
    path: str


def component_names(kind: str) -> list[str]:
    """List the names of the components of a kind that come with the package."""
    folder = importlib.import_module(KINDS[kind][0])
    names = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.ispkg and module.name != "base"]
    return sorted(names + [name for of_kind, name in ELSEWHERE if of_kind == kind])


def component_class(kind: str, name: str, path: str) -> type:
    """Find the class of a component.

    Raises:
        ConfigError: no such file or class, or it does not implement the kind's contract.
    """
    contract = _load(KINDS[kind][1])
    address = ELSEWHERE.get((kind, name), name)
    if ":" in address:
        try:
            if address.startswith((":", ".")):
                raise ImportError("the module has no full name")
            found = _load(address)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{path}.name is '{name}', which cannot be imported ({error}); expected package.module:Class on the Python path; "
                "set PYTHONPATH to the folder that holds it"
            ) from None
    else:
        known = component_names(kind)
        if address not in known:
            raise ConfigError(
                f"{path}.name is '{name}', which is no {kind}{did_you_mean(address, known)}; expected one of {', '.join(known)}, "
                "or package.module:Class for your own"
            )
        module = importlib.import_module(f"{KINDS[kind][0]}.{address}")
        classes = [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if member.__module__ == module.__name__ and issubclass(member, contract) and not member.__name__.startswith("_")
        ]
        if len(classes) != 1:
            raise TypeError(f"{module.__name__} holds {len(classes)} classes of {contract.__name__}; a component file holds one")
        found = classes[0]
    if not (inspect.isclass(found) and issubclass(found, contract)):
        raise ConfigError(f"{path}.name is '{name}', which is no {contract.__name__}; expected a subclass of {KINDS[kind][1]}")
    return found


def _load(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def check_component(spec: ComponentSpec, runtime: Collection[str] = ()) -> type:
    """Hold a component's settings against its constructor without building it, and return its class.

    Args:
        spec: the component as the config names it.
        runtime: names of constructor arguments that are not settings: the program gives them when it builds.

    Raises:
        ConfigError: unknown name or key, wrong type, or a missing value.
    """
    found = component_class(spec.kind, spec.name, spec.path)
    convert_arguments(found, spec.params, spec.path, runtime)
    return found


def build_component(spec: ComponentSpec, **runtime: Any) -> Any:
    """Build a component from its settings and from what is known only at run time.

    Raises:
        ConfigError: as check_component; also when the constructor itself refuses a value.
    """
    found = component_class(spec.kind, spec.name, spec.path)
    arguments = convert_arguments(found, spec.params, spec.path, runtime.keys())
    try:
        return found(**arguments, **runtime)
    except ValueError as error:
        raise ConfigError(f"{spec.path}: {error}") from None


def build_settings(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """Build a dataclass of settings from a section of the config.

    Raises:
        ConfigError: unknown key, wrong type, or a missing value; also when the dataclass itself refuses a value.
    """
    arguments = convert_arguments(cls, values, path)
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def convert_arguments(cls: type, values: Mapping[str, Any], path: str, runtime: Collection[str] = ()) -> dict[str, Any]:
    """Hold values of the config against a constructor's signature.

    Args:
        cls: the class to be built.
        values: settings by name.
        path: where they stand in the config, for error texts.
        runtime: constructor arguments that the config must not set.

    Returns:
        Arguments converted to the annotated types: int to float, lists to tuples, mappings to dataclasses.

    Raises:
        ConfigError: unknown key, wrong type, or a missing value; each with its path.
    """
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]  # this very class is meant, not one below it
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in runtime and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for key in values:
        if key not in parameters:
            listed = ", ".join(parameters) or "none"
            raise ConfigError(
                f"unknown key {path}.{key}{did_you_mean(key, parameters)}; {cls.__name__} takes: {listed}; correct or remove it"
            )
    for name, parameter in parameters.items():
        if values.get(name, "???") == "???" and (parameter.default is parameter.empty or values.get(name) == "???"):
            wanted = describe_type(hints.get(name, Any))
            raise ConfigError(f"missing value {path}.{name}; expected {wanted}; set it in the config or give {path}.{name}=VALUE")
    return {key: convert(value, hints.get(key, Any), f"{path}.{key}") for key, value in values.items()}


def convert(value: Any, wanted: Any, path: str) -> Any:
    """Convert one value of the config to an annotated type.

    Raises:
        ConfigError: the value does not fit; the text gives path, value and what was expected.
    """
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any or isinstance(wanted, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, inner, wanted, path)
    if origin is Literal:
        # By type too, because True == 1 == 1.0.
        if any(value == option and type(value) is type(option) for option in inner):
            return value
        hint = did_you_mean(value, map(str, inner)) if isinstance(value, str) else ""
        raise ConfigError(f"{path} is {value!r}{hint}; expected one of {', '.join(map(repr, inner))}; correct it")
    if wanted is None or wanted is type(None):
        if value is None:
            return None
    elif origin is not None:
        converted = _convert_container(value, origin, inner, path)
        if converted is not None:
            return converted
    elif dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        if isinstance(value, wanted):
            return value
        if isinstance(value, Mapping):
            return build_settings(wanted, value, path)
    elif wanted is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # A whole number too large for a float is refused below like any other misfit.
            with contextlib.suppress(OverflowError):
                return float(value)
    elif wanted is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(wanted, type) and isinstance(value, wanted):
        return value
    raise ConfigError(f"{path} is {value!r} ({type(value).__name__}); expected {describe_type(wanted)}; correct it")


def _convert_union(value: Any, options: tuple[Any, ...], wanted: Any, path: str) -> Any:
    settings = [option for option in options if dataclasses.is_dataclass(option) and isinstance(option, type)]
    if len(settings) == 1 and isinstance(value, Mapping):
        # Only one option can be meant, so its error text names the key inside.
        return build_settings(settings[0], value, path)
    for option in options:
        try:
            return convert(value, option, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path} is {value!r} ({type(value).__name__}); expected {describe_type(wanted)}; correct it")


def _convert_container(value: Any, origin: Any, inner: tuple[Any, ...], path: str) -> Any:
    """Convert a list, tuple or mapping; None where the value is not of that kind."""
    if issubclass(origin, Mapping) and isinstance(value, Mapping):
        of_value = inner[1] if len(inner) == 2 else Any
        return {str(key): convert(item, of_value, f"{path}.{key}") for key, item in value.items()}
    if issubclass(origin, (list, tuple, Sequence)) and isinstance(value, (list, tuple)):
        if issubclass(origin, tuple) and inner and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                raise ConfigError(f"{path} has {len(value)} values; expected {len(inner)}; correct it")
            return tuple(convert(item, kind, f"{path}[{i}]") for i, (item, kind) in enumerate(zip(value, inner, strict=True)))
        items = [convert(item, inner[0] if inner else Any, f"{path}[{i}]") for i, item in enumerate(value)]
        return items if issubclass(origin, list) else tuple(items)
    return None


def describe_type(wanted: Any) -> str:
    """Name an annotated type in words a config writer knows."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(option) for option in inner)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if wanted is None or wanted is type(None):
        return "null"
    if origin is not None:
        if issubclass(origin, Mapping):
            return "a mapping"
        return f"a list of {describe_type(inner[0])}" if inner else "a list"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Any: "a value"}
    if dataclasses.is_dataclass(wanted):
        return "a mapping"
    return words.get(wanted, getattr(wanted, "__name__", str(wanted)))
