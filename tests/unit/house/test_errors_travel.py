"""Every error class survives pickling with its type and its text: errors cross from workers to the driver that way."""

import importlib.util
import inspect
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest

ERRORS = Path(__file__).resolve().parents[3] / "cmcl_ray" / "errors.py"
TEXT = "shard sky/image has dim 256, queries have dim 512: they come from different models; embed the queries again"


def load_file(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a file under a name of its own, which pickle can find."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def errors_lost_in_pickling(module: ModuleType) -> list[str]:
    """Error classes of a module that come back from two picklings changed, or not at all."""
    lost = []
    for name, kind in inspect.getmembers(module, inspect.isclass):
        if not issubclass(kind, BaseException) or kind.__module__ != module.__name__:
            continue
        try:
            error = kind(TEXT)
            back = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
        except Exception as problem:
            lost.append(f"{name}: {problem}")
            continue
        if type(back) is not kind or str(back) != str(error) or str(error) != TEXT:
            lost.append(f"{name}: {type(back).__name__}({back})")
    return lost


def test_every_error_class_survives_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_file(ERRORS, "errors_of_the_package", monkeypatch)
    assert errors_lost_in_pickling(module) == []
    assert len(inspect.getmembers(module, inspect.isclass)) >= 7


def test_an_error_that_is_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "errors.py").write_text(
        "class Good(Exception):\n    pass\n"
        "class Longer(Exception):\n    def __init__(self, text):\n        super().__init__(text + '; change it')\n"
        "class TwoArguments(Exception):\n    def __init__(self, path, value):\n        super().__init__(path)\n"
    )
    found = errors_lost_in_pickling(load_file(tmp_path / "errors.py", "seeded_errors", monkeypatch))
    assert [text.split(":")[0] for text in found] == ["Longer", "TwoArguments"]
