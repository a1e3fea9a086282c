"""What every source file keeps to: ASCII, no unfinished work, a docstring in each package, YAML that loads."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cmcl_ray.config import load_config

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "cmcl_ray"
FOLDERS = ("benchmarks", "cluster", "cmcl_ray", "configs", "jobs", "tests")
SUFFIXES = (".py", ".yaml", ".yml", ".j2", ".css", ".js", ".toml", ".sh")
# In two halves, so that this file passes its own check.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|NotImplemented" + r"Error)\b")


def sources(root: Path) -> Iterator[Path]:
    """The source files of a repository: the folders that hold code, and the files beside them."""
    candidates = [*root.iterdir(), *(path for folder in FOLDERS for path in (root / folder).rglob("*"))]
    yield from sorted(path for path in candidates if path.is_file() and (path.suffix in SUFFIXES or path.name == "Makefile"))


def non_ascii(root: Path) -> list[str]:
    """Lines of source files with a character outside ASCII."""
    return [
        f"{path.relative_to(root).as_posix()}:{number} holds {re.findall(rb'[^ -~]+', line)[0].decode(errors='replace')!r}"
        for path in sources(root)
        for number, line in enumerate(path.read_bytes().replace(b"\t", b" ").splitlines(), start=1)
        if not line.isascii()
    ]


def unfinished(root: Path) -> list[str]:
    """Lines that announce work to be done."""
    return [
        f"{path.relative_to(root).as_posix()}:{number} holds {found[0]}"
        for path in sources(root)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if (found := UNFINISHED.search(line))
    ]


def packages_without_docstring(root: Path) -> list[str]:
    """Folders with Python files, at any depth, that have no __init__.py with a docstring."""
    folders = {parent for path in root.rglob("*.py") for parent in path.parents if parent.is_relative_to(root)}
    wrong = []
    for folder in sorted(folders):
        file = folder / "__init__.py"
        if not file.is_file():
            wrong.append(f"{folder.name} has no __init__.py")
        elif not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))):
            wrong.append(f"{folder.name}/__init__.py has no docstring")
    return wrong


def component_files(configs: Path) -> list[Path]:
    """YAML files of components: those below a folder other than run/ and search/."""
    return sorted(
        path for path in configs.rglob("*.yaml") if path.parent != configs and path.parent.name not in ("run", "search")
    )


def unreadable_configs(configs: Path) -> list[str]:
    """YAML files that do not load: a run's with all it refers to, a component's by itself."""
    components = component_files(configs)
    wrong = []
    for path in sorted(configs.rglob("*.yaml")):
        try:
            if path in components:
                loaded = OmegaConf.to_container(OmegaConf.load(path))
            else:
                # Where a dataset lies is for the user to say.
                loaded = load_config(str(path), ["data.root=/data"])
        except Exception as error:
            wrong.append(f"{path.relative_to(configs).as_posix()}: {error}")
            continue
        if not isinstance(loaded, dict):
            wrong.append(f"{path.relative_to(configs).as_posix()} holds a {type(loaded).__name__}, not a mapping")
    return wrong


def test_sources_are_ascii() -> None:
    assert non_ascii(REPOSITORY) == []


def test_no_work_is_left_open() -> None:
    assert unfinished(REPOSITORY) == []


def test_every_package_folder_says_what_it_is() -> None:
    assert packages_without_docstring(PACKAGE) == []


def test_every_yaml_loads() -> None:
    assert unreadable_configs(REPOSITORY / "configs") == []


def test_a_character_outside_ascii_is_found(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "run.py").write_text("width = 3\n# 3 \u00b5m\n", encoding="utf-8")
    (tmp_path / "jobs" / "notes.txt").write_text("\u00b5", encoding="utf-8")
    assert non_ascii(tmp_path) == ["jobs/run.py:2 holds '\u00b5'"]


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error"])
@pytest.mark.parametrize("file", ["cmcl_ray/data/pairs.py", "configs/base.yaml", "setup.py"])
def test_open_work_is_found(tmp_path: Path, word: str, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"lr: 1\nraise {word}('later')\n")
    assert unfinished(tmp_path) == [f"{file}:2 holds {word}"]


def test_a_package_folder_without_docstring_is_found(tmp_path: Path) -> None:
    for name in ("", "data", "data/deep", "models"):
        (tmp_path / "cmcl_ray" / name).mkdir(exist_ok=True)
    for name, text in (("__init__.py", '"""The package."""'), ("data/__init__.py", "width = 3"), ("data/deep/one.py", "")):
        (tmp_path / "cmcl_ray" / name).write_text(text)
    assert packages_without_docstring(tmp_path / "cmcl_ray") == ["data/__init__.py has no docstring", "deep has no __init__.py"]


def test_yaml_that_does_not_load_is_found(tmp_path: Path) -> None:
    files = {
        "base.yaml": "seed: 0\n",
        "run/good.yaml": "out: runs/x\n",
        "run/bad.yaml": "out: [\n",
        "run/lost.yaml": "out: ${nowhere.root}\n",
        "model/good.yaml": "name: tiny\nroot: ${data.root}\n",
        "model/bad.yaml": "name: tiny\n  width: 3\n",
        "model/list.yaml": "- tiny\n",
    }
    for name, text in files.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = unreadable_configs(tmp_path / "configs")
    assert [text.split(":")[0].split(" ")[0] for text in found] == [
        *("model/bad.yaml", "model/list.yaml", "run/bad.yaml", "run/lost.yaml")
    ]
