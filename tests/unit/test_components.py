"""Settings are held against constructors: each mistake is named with its path, and names lead to classes."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmcl_ray import components
from cmcl_ray.components import (
    ComponentSpec,
    build_component,
    build_settings,
    check_component,
    component_class,
    component_names,
    convert,
    describe_type,
)
from cmcl_ray.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Schedule:
    kind: Literal["cosine", "flat"]
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if self.warmup > 1:
            raise ValueError(f"warmup is {self.warmup}; expected a share in [0, 1]; lower it")


@dataclasses.dataclass(frozen=True)
class Settings:
    lr: float
    schedule: Schedule
    steps: int = 3
    betas: tuple[float, float] = (0.9, 0.99)
    names: tuple[str, ...] = ()
    seed: int | None = None
    final: Schedule | None = None
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


GIVEN: dict[str, Any] = {"lr": 1, "schedule": {"kind": "flat"}}

FILES = {
    "fruits/__init__.py": "",
    "fruits/base.py": "class Fruit:\n    pass\n",
    "fruits/apple.py": (
        "from fruits.base import Fruit\n\nclass _Core(Fruit):\n    pass\n\n"
        "class Apple(Fruit):\n    def __init__(self, width: int, shape: tuple[int, ...] = (2, 3), *, seed: int):\n"
        "        self.width, self.shape, self.seed = width, shape, seed\n"
    ),
    "fruits/pear.py": "from fruits.base import Fruit\n\nclass Pear(Fruit):\n    pass\n",
    "fruits/twins.py": "from fruits.base import Fruit\n\nclass One(Fruit):\n    pass\n\nclass Two(Fruit):\n    pass\n",
    "fruits/helpers/__init__.py": "",
    "garden.py": "from fruits.base import Fruit\n\nclass Plum(Fruit):\n    pass\n\nclass Stone:\n    pass\n\nplum = Plum()\n",
}


@pytest.fixture
def fruits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of components of its own, in a package beside ours."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(components.KINDS, "fruit", ("fruits", "fruits.base:Fruit"))
    monkeypatch.setitem(components.ELSEWHERE, ("fruit", "plum"), "garden:Plum")
    for name in list(sys.modules):
        if name.split(".")[0] in ("fruits", "garden"):
            monkeypatch.delitem(sys.modules, name)


def spec(name: str, **params: Any) -> ComponentSpec:
    return ComponentSpec("fruit", name, params, "basket.first")


@pytest.mark.usefixtures("fruits")
def test_names_are_the_files_of_the_folder_and_those_elsewhere() -> None:
    assert component_names("fruit") == ["apple", "pear", "plum", "twins"]


@pytest.mark.usefixtures("fruits")
@pytest.mark.parametrize(("name", "found"), [("apple", "Apple"), ("plum", "Plum"), ("garden:Plum", "Plum")])
def test_a_name_leads_to_its_class(name: str, found: str) -> None:
    assert component_class("fruit", name, "basket.first").__name__ == found


@pytest.mark.usefixtures("fruits")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "aple",
            r"basket\.first\.name is 'aple', which is no fruit; did you mean 'apple'\?; expected one of apple, pear, plum, tw",
        ),
        ("zzz", r"is 'zzz', which is no fruit; expected one of apple, pear, plum, twins, or package\.module:Class for your own"),
        ("base", r"is 'base', which is no fruit"),
        ("nowhere:Plum", r"is 'nowhere:Plum', which cannot be imported \(No module named 'nowhere'\); expected package\.module:"),
        ("garden:Plumm", r"cannot be imported \(module 'garden' has no attribute 'Plumm'\)"),
        (":Plum", r"is ':Plum', which cannot be imported \(the module has no full name\)"),
        (".garden:Plum", r"is '\.garden:Plum', which cannot be imported"),
        ("garden:Stone", r"is 'garden:Stone', which is no Fruit; expected a subclass of fruits\.base:Fruit"),
        ("garden:plum", r"is 'garden:plum', which is no Fruit"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        component_class("fruit", name, "basket.first")


@pytest.mark.usefixtures("fruits")
def test_two_classes_in_a_component_file_are_a_programmers_fault() -> None:
    with pytest.raises(TypeError, match="holds 2 classes of Fruit; a component file holds one"):
        component_class("fruit", "twins", "basket.first")


@pytest.mark.usefixtures("fruits")
def test_a_component_is_built_from_settings_and_what_the_program_knows() -> None:
    built = build_component(spec("apple", width=4, shape=[5, 6, 7]), seed=9)
    assert (built.width, built.shape, built.seed) == (4, (5, 6, 7), 9)
    assert check_component(spec("apple", width=4), runtime=["seed"]) is type(built)
    assert type(build_component(spec("pear"))).__name__ == "Pear"


@pytest.mark.usefixtures("fruits")
def test_the_config_must_not_set_what_the_program_knows() -> None:
    with pytest.raises(ConfigError, match=r"unknown key basket\.first\.seed; Apple takes: width, shape; correct or remove it"):
        check_component(spec("apple", width=4, seed=3), runtime=["seed"])


@pytest.mark.usefixtures("fruits")
def test_a_class_without_settings_says_so() -> None:
    with pytest.raises(ConfigError, match=r"unknown key basket\.first\.width; Pear takes: none"):
        check_component(spec("pear", width=4))


def test_settings_are_converted_to_their_types() -> None:
    built = build_settings(
        Settings,
        {**GIVEN, "betas": [1, 0.5], "names": ["a", "b", "c"], "final": {"kind": "cosine", "warmup": 1}, "weights": {3: 2}},
        "train",
    )
    assert built == Settings(1.0, Schedule("flat"), 3, (1.0, 0.5), ("a", "b", "c"), None, Schedule("cosine", 1.0), {"3": 2.0})
    assert isinstance(built.lr, float)
    assert isinstance(built.betas, tuple)
    assert build_settings(Settings, {"lr": 0.5, "schedule": Schedule("flat")}, "train").schedule == Schedule("flat")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stpes": 3}, r"unknown key train\.stpes; did you mean 'steps'\?; Settings takes: lr, schedule, steps, "),
        ({"zzz": 3}, r"unknown key train\.zzz; Settings takes: lr"),
        ({"lr": "fast"}, r"train\.lr is 'fast' \(str\); expected a number; correct it"),
        ({"lr": True}, r"train\.lr is True \(bool\); expected a number"),
        ({"lr": None}, r"train\.lr is None \(NoneType\); expected a number"),
        ({"steps": 2.0}, r"train\.steps is 2\.0 \(float\); expected a whole number"),
        ({"steps": True}, r"train\.steps is True \(bool\); expected a whole number"),
        ({"lr": "???"}, r"missing value train\.lr; expected a number; set it in the config or give train\.lr=VALUE"),
        ({"steps": "???"}, r"missing value train\.steps; expected a whole number"),
        ({"schedule": "???"}, r"missing value train\.schedule; expected a mapping"),
        ({"schedule": {}}, r"missing value train\.schedule\.kind; expected one of 'cosine', 'flat'"),
        ({"schedule": 3}, r"train\.schedule is 3 \(int\); expected a mapping"),
        (
            {"schedule": {"kind": "cosin"}},
            r"train\.schedule\.kind is 'cosin'; did you mean 'cosine'\?; expected one of 'cosine',",
        ),
        ({"schedule": {"kind": 3}}, r"train\.schedule\.kind is 3; expected one of 'cosine', 'flat'; correct it"),
        ({"schedule": {"kind": "flat", "warm": 1}}, r"unknown key train\.schedule\.warm; did you mean 'warmup'\?"),
        ({"schedule": {"kind": "flat", "warmup": 3}}, r"train\.schedule: warmup is 3\.0; expected a share in \[0, 1\]; lower it"),
        ({"final": {"kid": "flat"}}, r"unknown key train\.final\.kid; did you mean 'kind'\?"),
        ({"final": {"kind": "flat", "warmup": "x"}}, r"train\.final\.warmup is 'x' \(str\); expected a number"),
        ({"final": 3}, r"train\.final is 3 \(int\); expected a mapping or null"),
        ({"seed": "x"}, r"train\.seed is 'x' \(str\); expected a whole number or null"),
        ({"betas": [0.1]}, r"train\.betas has 1 values; expected 2"),
        ({"betas": 0.1}, r"train\.betas is 0\.1 \(float\); expected a list of a number"),
        ({"names": "abc"}, r"train\.names is 'abc' \(str\); expected a list of a text"),
        ({"names": ["a", 3]}, r"train\.names\[1\] is 3 \(int\); expected a text"),
        ({"weights": [1]}, r"train\.weights is \[1\] \(list\); expected a mapping"),
        ({"weights": {"old": "x"}}, r"train\.weights\.old is 'x' \(str\); expected a number"),
    ],
)
def test_each_mistake_is_named_with_its_path(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_settings(Settings, {**GIVEN, **changes}, "train")


def test_a_value_without_default_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"missing value train\.lr; expected a number"):
        build_settings(Settings, {"schedule": {"kind": "flat"}}, "train")


@pytest.mark.parametrize(
    ("value", "wanted", "converted"),
    [
        (3, float | str, 3.0),
        ("3", float | str, "3"),
        (None, int | None, None),
        (3, Any, 3),
        ([], tuple[int, ...], ()),
        ([], list[int], []),
        ([1, 2], list[float], [1.0, 2.0]),
        ([[1, 2], [3]], tuple[tuple[int, ...], ...], ((1, 2), (3,))),
        ((1, 2), Sequence[int], (1, 2)),
        (["a"], str | tuple[str, ...], ("a",)),
        ({"a": {"b": 1}}, dict[str, Any], {"a": {"b": 1}}),
        (1, Literal[0, 1], 1),
        (True, Literal[True], True),
        (False, bool, False),
    ],
)
def test_values_are_converted_to_annotated_types(value: Any, wanted: Any, converted: Any) -> None:
    found = convert(value, wanted, "x")
    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("value", "wanted"), [(True, Literal[0, 1]), (1, Literal[True]), (1.0, Literal[1, 2]), ([1], Literal[1]), (0, bool), (1, str)]
)
def test_true_one_and_one_point_zero_are_three_things(value: Any, wanted: Any) -> None:
    with pytest.raises(ConfigError, match=r"^x is .*; expected .*; correct it$"):
        convert(value, wanted, "x")


@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.lists(st.integers()))
)
def test_a_plain_value_fits_its_own_type_alone(value: Any) -> None:
    kinds: dict[Any, Callable[[Any], bool]] = {
        type(None): lambda v: v is None,
        bool: lambda v: isinstance(v, bool),
        int: lambda v: isinstance(v, int) and not isinstance(v, bool),
        float: lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
        str: lambda v: isinstance(v, str),
        list[int]: lambda v: isinstance(v, list),
    }
    for wanted, fits in kinds.items():
        if fits(value):
            # Beyond 2^53 the nearest float is not the whole number itself.
            assert convert(value, wanted, "x") == (float(value) if wanted is float else value)
        else:
            with pytest.raises(ConfigError, match="x is "):
                convert(value, wanted, "x")


def test_a_whole_number_beyond_all_floats_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.lr is 1000.*expected a number"):
        convert(10**400, float, "train.lr")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (int | None, "a whole number or null"),
        (bool, "true or false"),
        (tuple[float, ...], "a list of a number"),
        (Mapping[str, int], "a mapping"),
        (Schedule, "a mapping"),
        (Literal["a", 2], "one of 'a', 2"),
        (Path, "Path"),
        (Any, "a value"),
    ],
)
def test_types_are_named_in_words_of_a_config(wanted: Any, words: str) -> None:
    assert describe_type(wanted) == words
