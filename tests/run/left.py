"""What a run leaves behind, as values that can be compared."""

import hashlib
import re
from pathlib import Path

# Files with times in them: costs, manifests that say how long a stage took, metrics with seconds a step, and the report of them.
TIMED = re.compile(
    r"report\.(html|md)|.*costs\.parquet|metrics\.jsonl|.*/metrics\.json|.*/(checkpoint|scores)/manifest\.json|"
    r"gallery/embeddings/.*/manifest\.json"
)


def paths_of(run: Path) -> set[str]:
    """All files of a run."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def contents_of(run: Path) -> dict[str, str]:
    """Digests of the files of a run that hold no times; the set of all its files under an empty name."""
    names = paths_of(run)
    digests = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names if not TIMED.fullmatch(name)}
    return {**digests, "": "\n".join(sorted(names))}


def differing(run: Path, other: Path) -> set[str]:
    """Names of files that two runs do not have in common."""
    one, two = contents_of(run), contents_of(other)
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def times_of(run: Path) -> dict[str, int]:
    """When each file was written."""
    return {name: (run / name).stat().st_mtime_ns for name in paths_of(run)}
