"""A dataset of picture files and a CSV, as a user would have it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "white", "black", "grey")


def write_pictures(folder: Path, relevance: bool = False, broken: int = 0, **columns: list[str]) -> dict[str, Any]:
    """Write a dataset and return the stream section that reads it.

    Two groups of 24 pictures of 12 x 10 pixels, one caption each, every third one for testing.

    Args:
        folder: where images/ and pairs.csv go.
        relevance: a column by which pictures of one colour are right for each other.
        broken: so many of the first training pictures are no images.
        columns: further columns, or other values for one.
    """
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(48):
        colour, group = COLOURS[number % len(COLOURS)], ("day", "night")[number // 24]
        name = f"images/{number:02d}.png"
        split = "test" if number % 24 % 3 == 0 else "train"
        trained = sum(row["split"] == "train" for row in rows)
        if split == "train" and trained < broken:
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
        else:
            Image.fromarray(rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)).save(folder / name)
        row = {"caption": f"a {colour} thing number {number} at {group}", "image_uri": name, "group": group, "split": split}
        rows.append({**row, "relevance": f"{group} {colour}"} if relevance else row)
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = {"name": "table", "pairs": "pairs.csv", "root": str(folder), "max_rejected_share": 0.2}
    return {"source": source, "tasks": {"by": "group"}, "splits": {"column": "split"}}
