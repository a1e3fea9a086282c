"""Importing a module changes nothing around it, and the core imports without Ray, faiss and OmegaConf."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / "cmcl_ray"
CORE = (
    *("errors", "logs", "storage", "components"),
    *("data", "models", "strategies", "train", "index", "policies", "evaluate", "report"),
)
# Files that are the home of a blocked library; nothing else of the core may need them.
HOMES = ("index.backends.flat",)

# One process imports all modules, because importing torch anew for each would take minutes. Outside libraries are imported
# first: what they change is not ours.
EFFECTS = """
import ast, importlib, logging, os, random, sys
from pathlib import Path
root = Path(sys.argv[1])
sys.path.insert(0, str(root.parent))
outside = set()
for path in root.rglob("*.py"):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            outside |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
for name in sorted(outside):
    if name.split(".")[0] != root.name:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
def state():
    return {
        "root logger": (list(logging.getLogger().handlers), logging.getLogger().level),
        "package logger": (list(logging.getLogger(root.name).handlers), logging.getLogger(root.name).level),
        "cwd": os.getcwd(), "environment": dict(os.environ), "sys.path": list(sys.path), "random state": random.getstate(),
    }
for name in sys.argv[2:]:
    before = state()
    importlib.import_module(name)
    for what, now in state().items():
        if now != before[what]:
            print(f"importing {name} changes {what}")
"""

BLOCKED = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "faiss", "omegaconf"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name} does not import: {error}")
"""


def modules_of(root: Path) -> list[str]:
    """The dotted names of all modules below a package folder, without the package's name."""
    names = []
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith("__main__")]


def _run(script: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def import_effects(root: Path) -> list[str]:
    """What importing the modules of a package changes in the process, or prints."""
    return _run(EFFECTS, str(root), *(f"{root.name}.{name}".rstrip(".") for name in modules_of(root)))


def core_needs_extras(root: Path) -> list[str]:
    """Modules of the core that do not import where Ray, faiss and OmegaConf are missing."""
    core = [name for name in modules_of(root) if name.split(".")[0] in CORE and name not in HOMES]
    return _run(BLOCKED, str(root.parent), *(f"{root.name}.{name}" for name in core))


def package_with(folder: Path, text: str) -> Path:
    root = folder / "seeded"
    (root / "data").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "data" / "__init__.py").write_text("")
    (root / "data" / "pairs.py").write_text(text)
    return root


def test_importing_changes_nothing() -> None:
    assert import_effects(PACKAGE) == []


def test_the_core_imports_without_ray_faiss_and_omegaconf() -> None:
    assert core_needs_extras(PACKAGE) == []


def test_each_effect_is_found(tmp_path: Path) -> None:
    text = """
import logging, os, random, sys
logging.basicConfig()
logging.getLogger("seeded").setLevel(10)
os.environ["SEEDED"] = "1"
os.chdir("/")
sys.path.append("/seeded")
random.seed(3)
"""
    found = import_effects(package_with(tmp_path, text))
    kinds = ["root logger", "package logger", "cwd", "environment", "sys.path", "random state"]
    assert found == [f"importing seeded.data.pairs changes {kind}" for kind in kinds]


def test_a_module_without_effects_passes(tmp_path: Path) -> None:
    assert import_effects(package_with(tmp_path, "import logging\nlogger = logging.getLogger(__name__)\n")) == []


def test_a_core_module_that_needs_ray_is_found(tmp_path: Path) -> None:
    found = core_needs_extras(package_with(tmp_path, "def late():\n    import faiss\n\nfrom ray import data\n"))
    assert found == ["seeded.data.pairs does not import: ray is blocked"]
