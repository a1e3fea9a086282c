"""Imports go one way, and each outside library has one home. Read from the syntax tree, so nothing is run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "cmcl_ray"
ORDER = (
    *("errors", "logs", "storage", "components", "config"),
    *("data", "models", "strategies", "train", "index", "policies", "evaluate", "report", "run", "on_ray", "serve", "cli"),
)
# library -> files and folders that may import it anywhere; files that may import it inside functions only
HOMES = {
    "ray": (("on_ray/", "serve/"), ("cli.py",)),
    "omegaconf": (("config.py",), ()),
    "faiss": (("index/backends/flat.py",), ()),
}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    deferred: bool


def imports_of(root: Path) -> Iterator[Import]:
    """Every import below a package folder, those inside functions and those by a literal name among them."""
    for path in sorted(root.rglob("*.py")):
        file = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))
        deferred = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            for module in _modules(node, [root.name, *Path(file).parent.parts]):
                yield Import(file, getattr(node, "lineno", 0), module, id(node) in deferred)


def _modules(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*start, *([node.module] if node.module else [])])
        # "from cmcl_ray import data" names the room only in its second half.
        return [f"{origin}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__"):
            return [str(node.args[0].value)]
    return []


def upward_imports(root: Path, order: tuple[str, ...] = ORDER) -> list[str]:
    """Imports of a room that comes later in the order, and rooms that have no place in it."""
    rooms = {path.stem if path.suffix == ".py" else path.name for path in root.iterdir() if _is_room(path)}
    wrong = [f"{room} has no place in the order of rooms" for room in sorted(rooms - set(order))]
    for found in imports_of(root):
        home = found.file.split("/")[0].removesuffix(".py")
        parts = found.module.split(".")
        if parts[0] != root.name or len(parts) < 2 or parts[1] not in order:
            continue
        if home not in order:
            if home == "__init__":
                wrong.append(f"{found.file}:{found.line} imports {found.module}; the package itself imports no room")
        elif order.index(parts[1]) > order.index(home):
            wrong.append(f"{found.file}:{found.line} imports {found.module}; {parts[1]} comes after {home}")
    return wrong


def _is_room(path: Path) -> bool:
    if path.suffix == ".py":
        return not path.stem.startswith("__")
    return path.is_dir() and any(path.rglob("*.py"))


def libraries_away_from_home(root: Path) -> list[str]:
    """Imports of a library outside the files that may know it."""
    wrong = []
    for found in imports_of(root):
        anywhere, in_functions = HOMES.get(found.module.split(".")[0], ((found.file,), ()))
        if found.file.startswith(anywhere) or (found.deferred and found.file.startswith(in_functions)):
            continue
        wrong.append(f"{found.file}:{found.line} imports {found.module}; expected only in {', '.join(anywhere)}")
    return wrong


def package_with(folder: Path, **files: str) -> Path:
    """Write a package; "data__pairs" stands for data/pairs.py."""
    root = folder / "cmcl_ray"
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_go_one_way() -> None:
    assert upward_imports(PACKAGE) == []


def test_each_library_has_its_home() -> None:
    assert libraries_away_from_home(PACKAGE) == []


@pytest.mark.parametrize(
    "text",
    [
        "import cmcl_ray.train.loop",
        "from cmcl_ray.train.loop import fit",
        "from cmcl_ray import train",
        "from ..train import loop",
        "from .. import train",
        "def late():\n    from cmcl_ray.train import loop",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cmcl_ray.train",
        "import importlib\nimportlib.import_module('cmcl_ray.train.loop')",
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, text: str) -> None:
    wrong = upward_imports(package_with(tmp_path, data__pairs=text, train__loop=""))
    assert len(wrong) == 1
    assert wrong[0].startswith("data/pairs.py:")
    assert "train comes after data" in wrong[0]


def test_file_modules_are_rooms_too(tmp_path: Path) -> None:
    root = package_with(tmp_path, storage="from cmcl_ray.config import load_config", errors="import cmcl_ray.storage")
    assert [text.split(";")[1] for text in upward_imports(root)] == [" storage comes after errors", " config comes after storage"]


def test_downward_and_inner_imports_are_right(tmp_path: Path) -> None:
    root = package_with(
        tmp_path,
        train__loop="from cmcl_ray.data import pairs\nfrom . import step\nfrom cmcl_ray import __version__",
        train__step="from ..errors import CmclError",
        data__pairs="import cmcl_ray.errors",
        errors="",
    )
    assert upward_imports(root) == []


def test_a_room_outside_the_order_is_found(tmp_path: Path) -> None:
    assert upward_imports(package_with(tmp_path, helpers="")) == ["helpers has no place in the order of rooms"]


@pytest.mark.parametrize(
    ("file", "text", "right"),
    [
        ("on_ray__fit", "import ray.train", True),
        ("cli", "def doctor():\n    import ray", True),
        ("cli", "import ray", False),
        ("run__engine", "def late():\n    from ray import data", False),
        ("config", "from omegaconf import OmegaConf", True),
        ("components", "import omegaconf", False),
        ("index__backends__flat", "import faiss", True),
        ("index__backends__exact", "import faiss", False),
        ("index__search", "from importlib.util import find_spec\nfind_spec('faiss')", True),
        ("index__search", "import rayon, raytrace", True),
    ],
)
def test_a_library_away_from_home_is_found(tmp_path: Path, file: str, text: str, right: bool) -> None:
    assert (libraries_away_from_home(package_with(tmp_path, **{file: text})) == []) is right
