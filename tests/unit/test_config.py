"""YAML files, named sections, labels and overrides become one plain mapping; each mistake is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmcl_ray.config import config_root, load_config, with_changes
from cmcl_ray.errors import ConfigError

FILES = {
    "base.yaml": 'seed: 0\nmodel: tiny\ntrain: {lr: 0.1, steps: 7}\ndata: {root: "???"}\nstrategies: {finetune: {}}\n',
    "model/tiny.yaml": "name: tiny\nwidth: 3\nseed: ${seed}\n",
    "model/two_branch.yaml": "name: two_branch\nshared: true\n",
    "strategy/ewc.yaml": "strength: 5\ndecay: 1\n",
    "run/plain.yaml": "out: runs/plain\n",
    "run/full.yaml": "out: ${data.root}/out\nmodel: {use: tiny, width: 9}\ntrain: {lr: 0.2}\nstrategies: [ewc]\n",
}

Load = Callable[..., dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def load(root: Path) -> Load:
    """Load a run's file with data.root set, and overrides; the file's text may be given."""

    def loaded(name: str, *overrides: str, text: str | None = None) -> dict[str, Any]:
        path = root / "run" / f"{name}.yaml"
        if text is not None:
            path.write_text(text)
        return load_config(str(path), ["data.root=/data", *overrides])

    return loaded


def test_the_file_goes_over_the_base(load: Load) -> None:
    assert load("full") == {
        "seed": 0,
        "model": {"name": "tiny", "width": 9, "seed": 0},
        "train": {"lr": 0.2, "steps": 7},
        "data": {"root": "/data"},
        "strategies": {"ewc": {"name": "ewc", "strength": 5, "decay": 1}},
        "policies": {},
        "out": "/data/out",
    }


def test_what_comes_out_is_plain(load: Load) -> None:
    config = load("full", "when=2020-01-01")
    assert json.loads(json.dumps(config)) == config
    assert {type(value) for value in (config, config["model"], config["strategies"])} == {dict}


@pytest.mark.parametrize(
    ("override", "section", "expected"),
    [
        ("train.lr=1e-3", "train", {"lr": 0.001, "steps": 7}),
        ("train.note=a=b", "train", {"lr": 0.2, "steps": 7, "note": "a=b"}),
        ("train.betas=[1, 2]", "train", {"lr": 0.2, "steps": 7, "betas": [1, 2]}),
        ("train.lr=null", "train", {"lr": None, "steps": 7}),
        ("train.lr=", "train", {"lr": None, "steps": 7}),
        ("train.eager=false", "train", {"lr": 0.2, "steps": 7, "eager": False}),
        ("seed=4", "model", {"name": "tiny", "width": 9, "seed": 4}),
        ("model.width=11", "model", {"name": "tiny", "width": 11, "seed": 0}),
        ("model=tiny", "model", {"name": "tiny", "width": 3, "seed": 0}),
        ("model=two_branch", "model", {"name": "two_branch", "shared": True}),
        ("model.use=two_branch", "model", {"name": "two_branch", "shared": True}),
        ("model={use: two_branch, shared: false}", "model", {"name": "two_branch", "shared": False}),
        ("strategies=[finetune]", "strategies", {"finetune": {"name": "finetune"}}),
        ("strategies.ewc.strength=9", "strategies", {"ewc": {"name": "ewc", "strength": 9, "decay": 1}}),
        (
            "strategies.weak={name: ewc, strength: 1}",
            "strategies",
            {"ewc": {"name": "ewc", "strength": 5, "decay": 1}, "weak": {"name": "ewc", "strength": 1, "decay": 1}},
        ),
    ],
)
def test_overrides_go_over_both(load: Load, override: str, section: str, expected: Any) -> None:
    assert load("full", override)[section] == expected


@pytest.mark.parametrize("choice", ["model=two_branch", "model.use=two_branch"])
def test_keys_inside_a_section_outlive_its_choice_in_any_order(load: Load, choice: str) -> None:
    expected = {"name": "two_branch", "shared": False}
    assert load("full", choice, "model.shared=false")["model"] == expected
    assert load("full", "model.shared=false", choice)["model"] == expected


def test_the_last_override_wins(load: Load) -> None:
    assert load("full", "train.lr=1", "train.lr=2", "model=two_branch", "model=tiny")["train"]["lr"] == 2
    assert load("full", "model=two_branch", "model=tiny")["model"]["name"] == "tiny"


def test_an_override_reaches_into_a_list_of_names_and_keeps_the_others(load: Load) -> None:
    text = "strategies: [finetune, ewc]\n"
    assert load("list", "strategies.ewc.strength=9", text=text)["strategies"] == {
        "finetune": {"name": "finetune"},
        "ewc": {"name": "ewc", "strength": 9, "decay": 1},
    }
    assert list(load("list", "strategies=[ewc, joint]", "strategies.ewc.decay=2", text=text)["strategies"]) == ["ewc", "joint"]


def test_labels_name_one_component_several_times(load: Load) -> None:
    config = load("labels", text="strategies:\n  weak: {name: ewc, strength: 1}\n  ewc:\n  own: {name: 'garden:Plum'}\n")
    assert config["strategies"] == {
        "finetune": {"name": "finetune"},
        "weak": {"name": "ewc", "strength": 1, "decay": 1},
        "ewc": {"name": "ewc", "strength": 5, "decay": 1},
        "own": {"name": "garden:Plum"},
    }
    assert list(config["strategies"]) == ["finetune", "weak", "ewc", "own"]


def test_values_still_missing_stay_question_marks(root: Path) -> None:
    config = load_config(str(root / "run" / "plain.yaml"), ["train.lr=???", "model=???"])
    assert config["data"]["root"] == "???"
    assert config["train"]["lr"] == "???"
    assert config["model"] == "???"


def test_a_value_made_of_a_missing_one_is_named(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config .*full\.yaml: out cannot be resolved \(.*data\.root\); set the value it refers"
    ):
        load_config(str(root / "run" / "full.yaml"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("out: ${nowhere.root}/x\n", r"config .*bad\.yaml: out cannot be resolved \(.*'nowhere\.root' not found\)"),
        ("train: {lr: '${train.lr}'}\n", r"bad\.yaml: .*lr cannot be resolved \(Recursive interpolation"),
        ("a: [\n", r"config file .*bad\.yaml is not YAML \(.* line 2, column 1\); correct the line named"),
        ("a: 1\na: 2\n", r"bad\.yaml is not YAML \(.*duplicate key a"),
        ("a: ${\n", r"config file .*bad\.yaml cannot be read \(.*\); expected YAML"),
        ("- a\n- b\n", r"config file .*bad\.yaml holds a list; expected a mapping of keys to values"),
        ("model: tinny\n", r"model is 'tinny', but .*tinny\.yaml is missing; expected one of tiny, two_branch"),
        ("model: {use: tinny}\n", r"model is 'tinny', but .*tinny\.yaml is missing"),
        ("stream: synthetic\n", r"stream is 'synthetic', but .* is missing; expected one of no file yet"),
        ("strategies: 5\n", r"strategies is 5; expected a mapping of labels to settings, or a list of names"),
        ("strategies: {ewc: 5}\n", r"strategies\.ewc is 5; expected a mapping of settings"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(load: Load, text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load("bad", text=text)


def test_bytes_that_are_no_text_are_named(root: Path) -> None:
    (root / "run" / "bad.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match=r"bad\.yaml cannot be read \('utf-8' codec"):
        load_config(str(root / "run" / "bad.yaml"))


@pytest.mark.parametrize("path", ["nowhere.yaml", "configs/run/nowhere.yaml", "nowhere"])
def test_a_missing_file_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"config file .*nowhere\.yaml is missing; expected a YAML file; check the path"):
        load_config(path)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("train.lr", r"override 'train\.lr' has no key and value; expected key=value, for example train\.lr=0\.001"),
        ("=3", r"override '=3' has no key and value"),
        (" =3", r"override ' =3' has no key and value"),
        ("train.lr=[", r"override 'train\.lr=\[' cannot be read \(.*\); expected key=value with a YAML value"),
        ("model=tinny", r"model is 'tinny', but .*tinny\.yaml is missing"),
    ],
)
def test_an_override_that_cannot_be_used_is_named(load: Load, override: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load("full", override)


def test_an_empty_file_leaves_the_base(load: Load) -> None:
    assert load("empty", text="")["train"] == {"lr": 0.1, "steps": 7}


def test_the_folder_of_configs_is_found_above_the_file(root: Path, tmp_path: Path) -> None:
    assert config_root(str(root / "run" / "full.yaml")) == root
    assert (config_root(str(tmp_path / "alone.yaml")) / "base.yaml").is_file()


def test_a_bare_name_is_a_run_beside_the_base(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "inner").mkdir()
    monkeypatch.chdir(root / "inner")
    assert load_config("plain")["out"] == "runs/plain"


def test_changes_go_over_a_config_and_leave_it_alone(load: Load, root: Path) -> None:
    config = load("full", "seed=4")
    before = json.dumps(config)
    changed = with_changes(config, {"train": {"lr": 3}, "strategies": ["finetune"], "policies": {"keep": None}}, root)
    assert changed["train"] == {"lr": 3, "steps": 7}
    assert changed["strategies"] == {"finetune": {"name": "finetune"}}
    assert changed["policies"] == {"keep": {"name": "keep"}}
    assert changed["model"] == config["model"]
    assert json.dumps(config) == before


def test_a_section_changed_by_name_is_resolved_too(load: Load, root: Path) -> None:
    config = load("full", "seed=4", "model=two_branch")
    assert with_changes(config, {"model": "tiny"}, root)["model"] == {"name": "tiny", "width": 3, "seed": 4}
    assert with_changes(config, {"model": {"use": "tiny", "width": 8}}, root)["model"]["width"] == 8
    assert with_changes(config, {"model": {"shared": False}}, root)["model"] == {"name": "two_branch", "shared": False}


def test_a_change_that_names_no_file_is_refused(load: Load, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"model is 'tinny', but .*tinny\.yaml is missing; expected one of tiny, two_branch"):
        with_changes(load("full"), {"model": "tinny"}, root)
