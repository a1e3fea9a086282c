"""Fabricated runs: three tasks, five policies, both directions and scopes, with drift, costs and samples."""

import base64
import struct
import zlib

import numpy as np

from cmcl_ray.evaluate.scores import CostRow, ScoreRow, write_table
from cmcl_ray.storage import join, write_json

TASKS = ("animals & nature", "food <drink>", "travel | places")
POLICIES = ("keep", "bridge", "route", "transport", "reindex")
# Loss of R@1 for each later task, by policy.
LOSS = {"keep": 17.0, "bridge": 12.0, "route": 3.0, "transport": 14.0, "reindex": 19.0}
PASSES = {"keep": 300, "bridge": 300, "route": 300, "transport": 300, "reindex": 900}


def picture(seed, size=24):
    """A small PNG: a coloured square on a ground."""
    rng = np.random.default_rng([seed])
    pixels = np.tile(rng.integers(150, 256, 3, dtype=np.uint8), (size, size, 1))
    top, left = rng.integers(2, size // 2, 2)
    pixels[top : top + size // 3, left : left + size // 3] = rng.integers(0, 200, 3, dtype=np.uint8)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def score_rows(label, seed, lift):
    rng = np.random.default_rng([seed, len(label)])
    rows = []
    for policy in POLICIES:
        for scope, direction in ((scope, direction) for scope in ("all", "known") for direction in ("t2i", "i2t")):
            for after in range(3):
                for task in range(after + 1):
                    first = 68 - 3 * task - LOSS[policy] * (1 - lift) * (after - task) + 7 * (scope == "known") + rng.normal(0, 1)
                    first = round(first - 2 * (direction == "i2t"), 2)
                    gallery = (1 if scope == "known" else after + 1) * (300 if direction == "t2i" else 900)
                    values = {
                        "recall@1": first,
                        "recall@5": min(first + 20, 99.0),
                        "recall@10": min(first + 28, 99.5),
                        "median_rank": float(1 + (first < 50)),
                        "mrr": first / 100 + 0.08,
                    }
                    rows.extend(
                        ScoreRow(
                            run_id=f"id-{label}-{seed}",
                            label=label,
                            seed=seed,
                            strategy=label,
                            policy=policy,
                            scope=scope,
                            direction=direction,
                            task=TASKS[task],
                            task_index=task,
                            after_task=after,
                            metric=metric,
                            value=value,
                            num_queries=900 if direction == "t2i" else 300,
                            num_gallery=gallery,
                        )
                        for metric, value in values.items()
                    )
    return rows


def cost_rows(label, seed):
    rows = []
    for task, name in enumerate(TASKS):
        start = (f"id-{label}-{seed}", label, seed)
        rows.append(CostRow(*start, "train", "", name, task, 21.5 + task, 90_000, 90_000, 5_000_000, 1_200_000, 900_000_000))
        for policy in POLICIES:
            passes = PASSES[policy] if task else 300
            rows.append(CostRow(*start, "update", policy, name, task, passes / 400, passes, passes, 0, passes * 256, 0))
            rows.append(CostRow(*start, "query", policy, name, task, 0.8, 900, 900, 0, 0, 0))
    return rows


def drift_entries():
    entries = []
    for task in range(2):
        for after in range(task + 1, 3):
            moved = 0.3 * (after - task)
            entries.append(
                {"task": TASKS[task], "task_index": task, "after_task": after, "image": moved, "text": 0.7 * moved}
                | {"cosine_image": 1 - moved / 2, "cosine_text": 1 - 0.35 * moved}
                | (
                    {"common": 0.41, "differential": 0.37, "residual": 0.22}
                    if task == 0
                    else dict.fromkeys(("common", "differential", "residual"))
                )
            )
    return entries


def sample_entries():
    samples = []
    for number, direction in enumerate(("t2i", "i2t", "t2i")):
        for policy in ("keep", "route", "reindex"):
            query = {"task": TASKS[number % 3], "id": f"q{number}"}
            query |= {"text": "a red <b>square</b> on a field"} if direction == "t2i" else {"image": picture(100)}
            hits = []
            for place in range(5):
                shown = (
                    {"image": picture(10 * number + place)}
                    if direction == "t2i"
                    else {"text": f"a small square, number {place}, on green ground"}
                )
                right = place == (0 if policy == "route" else 2)
                hits.append(
                    shown
                    | {
                        "task": TASKS[place % 3],
                        "version": f"v{place % 3}a91c07bb2",
                        "score": 0.9 - place / 20,
                        "relevant": right,
                        "id": place,
                    }
                )
            samples.append({"direction": direction, "policy": policy, "after_task": 2, "query": query, "hits": hits})
    return samples


def make_run(folder, label="finetune", seed=0, lift=0.0):
    """Write the folder of a run that gives ``lift`` (0 to 1) of the forgetting back."""
    folder = str(folder)
    config = {"stream": {"source": {"name": "synthetic", "root": "<data>"}}, "model": {"name": "tiny"}, "strategies": {label: {}}}
    facts = {"run_id": f"id-{label}-{seed}", "label": label, "seed": seed, "config": config, "engine": "local", "strategy": label}
    versions = {"cmcl_ray": "0.1.0", "torch": "2.13", "ray": "2.60"}
    write_json(
        join(folder, "run.json"), {**facts, "versions": versions, "started": "2025-01-31T12:00:00Z", "policies": list(POLICIES)}
    )
    splits = {"train": (1000, 3000), "val": (100, 300), "test": (300, 900)}
    tasks = [
        {
            "index": place,
            "name": name,
            "splits": {split: {"images": i, "pairs": p, "fingerprint": "ab"} for split, (i, p) in splits.items()},
        }
        for place, name in enumerate(TASKS)
    ]
    stream = {"tasks": tasks, "fingerprint": "f" * 64, "rejected": {"the image does not decode": 3}, "left_out": {"Flags": 12}}
    write_json(join(folder, "stream.json"), stream)
    write_table(join(folder, "scores.parquet"), score_rows(label, seed, lift))
    write_table(join(folder, "costs.parquet"), cost_rows(label, seed))
    write_json(join(folder, "drift.json"), drift_entries())
    write_json(join(folder, "samples.json"), sample_entries())
    return folder
