"""Sample queries of a run, gathered so that the policies' answers to one query stand under each other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmcl_ray.report.detail_tables import task_name
from cmcl_ray.report.runs import Run
from cmcl_ray.report.words import DIRECTION_NAMES

# Only pictures that travel inside the page: anything else could reach for the network.
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+")


@dataclass(frozen=True)
class Item:
    """A query or a hit as it is shown: a picture (a data URI) or a text, and what is known of it."""

    picture: str
    text: str
    task: str
    facts: tuple[str, ...] = ()
    is_right: bool = False


@dataclass(frozen=True)
class Question:
    """One query and, a row a policy, its hits."""

    direction: str
    after: str
    query: Item
    answers: tuple[tuple[str, tuple[Item, ...]], ...]


def questions(run: Run) -> list[Question]:
    """Return the sample queries of a run in their order; answers of several policies to one query are gathered."""
    gathered: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for sample in run.samples:
        key = (str(sample["direction"]), str(sample["query"].get("id", "")), int(sample["after_task"]))
        gathered.setdefault(key, []).append(sample)
    return [
        Question(
            DIRECTION_NAMES.get(direction, direction),
            task_name(run, after),
            _item(of_query[0]["query"]),
            tuple((str(sample["policy"]), tuple(_item(hit) for hit in sample.get("hits", ()))) for sample in of_query),
        )
        for (direction, _, after), of_query in gathered.items()
    ]


def _item(entry: Mapping[str, Any]) -> Item:
    picture = str(entry.get("image") or "")
    facts = []
    if entry.get("version"):
        facts.append(f"model {str(entry['version'])[:8]}")
    if isinstance(entry.get("score"), (int, float)):
        facts.append(f"score {entry['score']:.3f}")
    return Item(
        picture=picture if _PICTURE.fullmatch(picture) else "",
        text=str(entry.get("text") or ("" if _PICTURE.fullmatch(picture) else "no picture kept")),
        task=str(entry.get("task") or ""),
        facts=tuple(facts),
        is_right=bool(entry.get("relevant")),
    )
