"""A finished run as the report reads it from its folder.

Only ``run.json`` and ``scores.parquet`` must be there; what else is missing is left out of the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa

from cmcl_ray.errors import IntegrityError, StageError
from cmcl_ray.evaluate.continual import Matrix, matrix_from_scores
from cmcl_ray.evaluate.scores import DIRECTIONS, SCOPES, read_costs, read_scores
from cmcl_ray.storage import exists, join, read_json

FIRST = "recall@1"
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left behind.

    Args:
        folder: where it was read from.
        facts: run.json.
        scores: the score table.
        costs: the cost table, or None.
        stream: stream.json, empty where missing.
        drift: entries of drift.json.
        samples: entries of samples.json.
    """

    folder: str
    facts: Mapping[str, Any]
    scores: pa.Table
    costs: pa.Table | None
    stream: Mapping[str, Any]
    drift: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]

    @property
    def run_id(self) -> str:
        """The digest of the run's config."""
        return str(self.facts["run_id"])

    @property
    def label(self) -> str:
        """The name of the compared method."""
        return str(self.facts["label"])

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.facts["seed"])

    @cached_property
    def policies(self) -> list[str]:
        """The policies with scores, in the order of run.json, then of the score table."""
        scored = dict.fromkeys(self.scores["policy"].to_pylist())
        listed = [str(policy) for policy in self.facts.get("policies") or () if str(policy) in scored]
        return list(dict.fromkeys([*listed, *scored]))

    @cached_property
    def sides(self) -> list[tuple[str, str]]:
        """The (scope, direction) pairs with scores, all tasks first, text to image first."""
        return [(scope, direction) for scope in SCOPES for direction in DIRECTIONS if self._has(scope=scope, direction=direction)]

    @cached_property
    def tasks(self) -> list[str]:
        """The names of the scored tasks in order of the stream."""
        names = dict(zip(self.scores["task_index"].to_pylist(), self.scores["task"].to_pylist(), strict=True))
        return [names.get(index, f"task {index}") for index in range(max(names) + 1)]

    @cached_property
    def _cells(self) -> set[tuple[str, str, str, str]]:
        columns = ("policy", "scope", "direction", "metric")
        return set(zip(*(self.scores[column].to_pylist() for column in columns), strict=True))

    def _has(self, scope: str, direction: str) -> bool:
        return any(cell[1:3] == (scope, direction) for cell in self._cells)

    def matrix(self, policy: str, scope: str, direction: str, metric: str = FIRST) -> Matrix | None:
        """Return a result matrix (T, T), or None where the run has no such scores."""
        if (policy, scope, direction, metric) not in self._cells:
            return None
        return matrix_from_scores(self.scores, policy, scope, direction, metric)[1]

    def final_sizes(self, direction: str) -> tuple[int, int]:
        """Return (queries over all tasks, gallery items over all tasks) of a direction after the last task."""
        last = max(self.scores["after_task"].to_pylist())
        queries: dict[int, int] = {}
        gallery = 0
        columns = ("direction", "scope", "after_task", "task_index", "num_queries", "num_gallery")
        for found, scope, after, task, num_queries, num_gallery in zip(
            *(self.scores[name].to_pylist() for name in columns), strict=True
        ):
            if found == direction and after == last:
                queries[task] = num_queries
                gallery = max(gallery, num_gallery if scope == "all" else 0)
        return sum(queries.values()), gallery


def load_run(folder: str) -> Run:
    """Read the folder of a run.

    Raises:
        IntegrityError: run.json or scores.parquet is missing or damaged, or the score table is empty.
    """
    facts = read_json(join(folder, "run.json"))
    missing = [key for key in ("run_id", "label", "seed") if not isinstance(facts, dict) or key not in facts]
    if missing:
        raise IntegrityError(
            f"file {join(folder, 'run.json')} lacks {', '.join(missing)}; expected an object with run_id, label and seed; "
            "name the folder of a run of this program, or run it again"
        )
    scores = read_scores(join(folder, "scores.parquet"))
    if not scores.num_rows:
        raise IntegrityError(f"score table {join(folder, 'scores.parquet')} has no rows; expected scores; let the run end first")
    costs = join(folder, "costs.parquet")
    return Run(
        folder,
        facts,
        scores,
        read_costs(costs) if exists(costs) else None,
        _optional(folder, "stream.json", {}),
        _optional(folder, "drift.json", []),
        _optional(folder, "samples.json", []),
    )


def load_runs(folders: Sequence[str]) -> list[Run]:
    """Read several runs to be compared, in the order given.

    Raises:
        StageError: there are none, or two are the same label with the same seed.
    """
    if not folders:
        raise StageError("no run was named for the report; expected at least one folder of a run; name one")
    runs = [load_run(folder) for folder in folders]
    seen: dict[tuple[str, int], str] = {}
    for run in runs:
        other = seen.setdefault((run.label, run.seed), run.folder)
        if other != run.folder or folders.count(run.folder) > 1:
            raise StageError(
                f"runs {other} and {run.folder} both are label '{run.label}' with seed {run.seed}; expected one run a label and "
                "seed, since runs of one label are averaged over seeds; leave one out, or give it another label"
            )
    return runs


def _optional(folder: str, name: str, otherwise: _T) -> _T:
    path = join(folder, name)
    value: _T = read_json(path) if exists(path) else otherwise
    if type(value) is not type(otherwise):
        kind = "an object" if isinstance(otherwise, dict) else "a list"
        raise IntegrityError(
            f"file {path} holds {type(value).__name__}; expected {kind}; remove it and run again to make it anew"
        )
    return value
