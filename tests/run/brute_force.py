"""Every row of a run's score table, computed again from the files of its folder and by nothing but numpy.

    python tests/run/brute_force.py RUN

Reads gallery/items.parquet (which rows are asked and found, and what is relevant to what), the galleries each stage names
(gallery/versions), embeddings, shards and maps. Imports nothing of the package, so an error there is not repeated here: every
query meets every item of every shard one by one, and a rank is a count.

A score is the inner product in float64, rounded to float32: vectors that are equal tie.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Key = tuple[str, int, int, str, str, str]
Array = npt.NDArray[Any]

SIDES = {"t2i": ("text", "image"), "i2t": ("image", "text")}


class Files:
    """The files of a run, each read once."""

    def __init__(self, run: Path) -> None:
        self.run = run
        items = pq.read_table(run / "gallery" / "items.parquet").to_pylist()
        self.relevance = {(item["side"], item["row"]): item["relevance"] for item in items}
        self.rows: dict[tuple[int, str], list[int]] = {}
        for item in items:
            self.rows.setdefault((item["task_index"], item["side"]), []).append(item["row"])
        self.embeddings: dict[tuple[str, str], list[dict[int, Array]]] = {}
        for folder in sorted((run / "gallery" / "embeddings").iterdir()):
            key = json.loads((folder / "manifest.json").read_text())["key"]
            self.embeddings.setdefault((key["version"], key["side"]), []).append(self.vectors(folder))

    @staticmethod
    def vectors(folder: Path) -> dict[int, Array]:
        """Vectors by row."""
        return dict(zip(np.load(folder / "ids.npy").tolist(), np.load(folder / "vectors.npy"), strict=True))

    def galleries(self) -> list[dict[str, Any]]:
        """The gallery every stage scored, by policy."""
        found = []
        for stage in sorted((self.run / "tasks").iterdir()):
            named = json.loads((stage / "scores" / "manifest.json").read_text())["galleries"]
            for policy, version in named.items():
                gallery = json.loads((self.run / "gallery" / "versions" / f"{version}.json").read_text())
                assert gallery["policy"] == policy
                assert gallery["after_task"] == int(stage.name[:2])
                found.append(gallery)
        return found

    def queries(self, route: Mapping[str, Any], task: int, side: str) -> list[Array]:
        """The test queries of a task as a route asks them, in float64."""
        rows = self.rows[task, side]
        (held,) = [part for part in self.embeddings[route["version"], side] if list(part) == rows]
        vectors = [held[row].astype(np.float64) for row in rows]
        for name in route["maps"]:
            stored = np.load(self.run / "gallery" / name)
            matrix, shift, mean = (stored[part].astype(np.float64) for part in ("matrix", "shift", "mean"))
            vectors = [(vector - mean) @ matrix + shift for vector in vectors]
            vectors = [vector / np.sqrt((vector * vector).sum()) for vector in vectors]
        return vectors

    def shard(self, shard: Mapping[str, Any]) -> dict[int, Array]:
        """The vectors a shard is searched in, which are those that were embedded."""
        vectors = self.vectors(self.run / "gallery" / shard["folder"])
        embedded = self.vectors(self.run / "gallery" / "embeddings" / shard["embeddings"])
        assert vectors.keys() == embedded.keys() == set(self.rows[shard["task"], shard["side"]])
        assert all((vectors[row] == embedded[row]).all() for row in vectors)
        return vectors


def score(query: Array, vector: Array, route: Mapping[str, Any]) -> np.float32:
    """One calibrated score."""
    raw = np.float32((query * vector.astype(np.float64)).sum())
    return np.float32((np.float64(raw) - route["mean"]) / route["sd"])


def ranks(files: Files, gallery: Mapping[str, Any], direction: str, task: int, scope: str) -> tuple[list[int], int]:
    """Rank of every test query of a task, and the number of items it was looked for among."""
    side, other = SIDES[direction]
    shards = [shard for shard in gallery["shards"] if shard["side"] == other and (scope == "all" or shard["task"] == task)]
    count = len(files.rows[task, side])
    best, rivals, size = [np.float32(-np.inf)] * count, [[] for _ in range(count)], 0
    for shard in shards:
        # The folder is named by the digest that names the shard.
        route = gallery["facts"]["routes"][shard["folder"].split("/")[-1]]
        queries, items = files.queries(route, task, side), files.shard(shard)
        size += len(items)
        for number, (row, query) in enumerate(zip(files.rows[task, side], queries, strict=True)):
            for item, vector in items.items():
                value = score(query, vector, route)
                if files.relevance[other, item] == files.relevance[side, row]:
                    best[number] = max(best[number], value)
                else:
                    rivals[number].append(value)
    return [1 + sum(value >= best[number] for value in rivals[number]) for number in range(count)], size


def figures(found: Sequence[int]) -> dict[str, float]:
    """Every metric of the score table."""
    ordered = sorted(rank - 1 for rank in found)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    recalls = {f"recall@{k}": 100.0 * (sum(rank <= k for rank in found) / len(found)) for k in (1, 5, 10)}
    return {**recalls, "median_rank": float(middle // 1 + 1), "mrr": sum(1 / rank for rank in found) / len(found)}


def recompute(run: Path) -> dict[Key, tuple[float, int, int]]:
    """(value, queries, items) by (policy, after_task, task, scope, direction, metric)."""
    files = Files(run)
    table: dict[Key, tuple[float, int, int]] = {}
    for gallery in files.galleries():
        directions = [name for name, (_, other) in SIDES.items() if any(shard["side"] == other for shard in gallery["shards"])]
        for direction in directions:
            for task in range(gallery["after_task"] + 1):
                for scope in ("known", "all"):
                    found, size = ranks(files, gallery, direction, task, scope)
                    for metric, value in figures(found).items():
                        key = gallery["policy"], gallery["after_task"], task, scope, direction, metric
                        table[key] = value, len(found), size
    return table


def differences(run: Path) -> list[str]:
    """What the score table says otherwise: recall exactly, the other metrics within 1e-9."""
    expected, wrong, seen = recompute(run), [], set()
    for row in pq.read_table(run / "scores.parquet").to_pylist():
        key = row["policy"], row["after_task"], row["task_index"], row["scope"], row["direction"], row["metric"]
        if key in seen or key not in expected:
            wrong.append(f"{key} is there {'twice' if key in seen else 'but not expected'}")
            continue
        seen.add(key)
        value, queries, size = expected[key]
        close = row["value"] == value if key[-1].startswith("recall") else abs(row["value"] - value) <= 1e-9
        if not close or (row["num_queries"], row["num_gallery"]) != (queries, size):
            wrong.append(f"{key} is {row['value']} of {row['num_queries']} in {row['num_gallery']}, not {value, queries, size}")
    return wrong + [f"{key} is missing" for key in expected if key not in seen]


if __name__ == "__main__":
    lines = differences(Path(sys.argv[1]))
    print("\n".join(lines) or "every row agrees")
    sys.exit(bool(lines))
