"""The README's map names every room of the package and every file beside them."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
README = REPOSITORY / "README.md"


def entries(package: Path) -> list[str]:
    """The rooms of a package as "data/" and its top-level files as "cli.py"."""
    rooms = [f"{path.name}/" for path in package.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    return sorted(rooms + [path.name for path in package.glob("*.py") if not path.name.startswith("__")])


def names_in_map(text: str) -> set[str]:
    """Names of files and folders that open a line, alone or several in a row, as in a drawn tree, a list or a table."""
    names = set()
    for line in text.splitlines():
        for word in line.lstrip(" |`*+-\\\u2500\u2502\u251c\u2514").split():
            name = word.strip("`|,*[]").removeprefix("cmcl_ray/")
            if not re.fullmatch(r"[\w./-]*(/|\.py)", name):
                break
            names.add(name)
    return names


@pytest.mark.parametrize("name", entries(REPOSITORY / "cmcl_ray"))
def test_the_map_names(name: str) -> None:
    if not README.is_file():
        pytest.skip("README.md is not there")
    assert name in names_in_map(README.read_text(encoding="utf-8"))


def test_a_room_missing_from_the_map_is_found(tmp_path: Path) -> None:
    for name in ("data", "train", "index", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "one.py").write_text("")
    for name in ("__init__.py", "cli.py", "errors.py", "storage.py"):
        (tmp_path / name).write_text("")
    drawn = "cmcl_ray/\n  errors.py storage.py   of everything\n  data/    pairs\n"
    text = drawn + "| `cmcl_ray/index/` | search |\nsee train/ and cli.py\n"
    assert sorted(set(entries(tmp_path)) - names_in_map(text)) == ["cli.py", "train/"]
