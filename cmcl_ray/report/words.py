"""What the report says in words: names, definitions, the opening paragraph and the verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmcl_ray.report.runs import Run

DIRECTION_NAMES = {"t2i": "text to image", "i2t": "image to text"}
SCOPE_NAMES = {"all": "all tasks", "known": "known task"}

DEFINITIONS = {
    "R@k": "Recall at k: the share of queries, in percent, with a right answer among the first k hits. A hit is right when it "
    "belongs to the query's image; with several captions an image any of them counts. Wrong hits with the same score count as "
    "if they came first.",
    "MedR": "Median rank of the best right answer, from 1, lower is better: floor(median of the 0-based ranks) + 1.",
    "MRR": "Mean reciprocal rank: the mean over queries of 1 / rank of the best right answer, from 0 to 1.",
    "All tasks": "The gallery holds the items of all tasks seen so far, in one ranking. It grows with each task, so "
    "later figures face more candidates.",
    "Known task": "The candidates are the items of the query's own task only, as if the task were known.",
    "Mean over tasks": "Every figure of a policy table is taken after the last task and averaged over tasks, each task counting "
    "the same.",
    "Forgetting": "Of R@1: the mean over all tasks but the last of the best score at an earlier time (from the task's own "
    "time on) minus the score after the last task, in points. Lower is better; below 0 a task has gained.",
    "Backward transfer": "Of R@1: the mean over all tasks but the last of the score after the last task minus the score right "
    "after the task itself, in points. Higher is better; below 0 means forgetting.",
    "Update passes": "Items put through an encoder to bring the gallery up to date, with the pairs that maps and calibrations "
    "are fitted on, over all updates after the first task.",
    "Update time": "Seconds spent to bring the gallery up to date, over all updates after the first task; queries are not in it.",
    "Drift": "Mean squared distance between the vectors of the same items made by the task's own model version and by the newer "
    "one: 0 did not move, 4 turned round. On held-out pairs of the task.",
    "Common, differential, residual": "Shares of the drift: explained by one rigid map for both branches; explained only by a "
    "map of each branch's own; explained by no rigid map. A high differential share favours keeping the old gallery or routing.",
}

POLICY_NOTES = {
    "keep": "the old gallery is left as it is, queries come from the newest model",
    "bridge": "the old gallery is left as it is, queries are mapped into the space of each shard",
    "route": "the old gallery is left as it is, each shard is asked by the model version that made it",
    "transport": "old vectors are mapped into the new space",
    "backfill": "the most valuable share of the gallery is embedded again, within a budget",
    "reindex": "the whole gallery is embedded again by the newest model",
}


def component_name(config: Mapping[str, Any], *keys: str) -> str:
    """Return the name of a component in a config: the value at the keys, or its ``name``; empty where there is none."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = value.get("name")
    return str(value) if isinstance(value, (str, int, float)) else ""


def strategy_name(run: Run) -> str:
    """Return what a run calls its strategy, or its label."""
    strategy = run.facts.get("strategy")
    if isinstance(strategy, Mapping):
        return component_name(strategy, "name") or " + ".join(map(str, strategy)) or run.label
    if isinstance(strategy, (list, tuple)):
        return " + ".join(map(str, strategy)) or run.label
    return str(strategy or run.label)


def policy_note(run: Run, policy: str) -> str:
    """Say what a policy of a run does, with the settings it was given; its bare name where nothing is known of it."""
    config = run.facts.get("config") or {}
    name = component_name(config, "policies", policy) or policy
    entry = (config.get("policies") or {}).get(policy)
    settings = {key: value for key, value in entry.items() if key != "name"} if isinstance(entry, Mapping) else {}
    listed = f" ({', '.join(f'{key} {value}' for key, value in settings.items())})" if settings else ""
    return f"{POLICY_NOTES.get(name, name)}{listed}"


def enumerate_words(words: Sequence[str], last: str = "and") -> str:
    """Join words as in a sentence: ``a, b and c``."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def count_words(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 task``, ``1,200 tasks``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def split_count(run: Run, split: str, what: str) -> int:
    """Return the number of images or pairs of a split over all tasks by stream.json; 0 where it does not say."""
    counts = (task.get("splits", {}).get(split, {}).get(what, 0) for task in run.stream.get("tasks", ()))
    return sum(int(count) for count in counts)


def opening(run: Run) -> str:
    """Say in a paragraph what was run."""
    config = run.facts.get("config") or {}
    stream = component_name(config, "stream", "source") or component_name(config, "stream")
    named = f"the stream '{stream}'" if stream else "its stream"
    listed = f" ({', '.join(run.tasks)})" if len(run.tasks) <= 12 else ""
    at_once = len(run.tasks) > 1 and len(set(run.scores["after_task"].to_pylist())) == 1
    order = "all at once" if at_once else "one after the other"
    sentences = [f"The strategy {strategy_name(run)} learned {count_words(len(run.tasks), 'task')} of {named}{listed}, {order}."]
    images = split_count(run, "train", "images")
    if images:
        captions = count_words(split_count(run, "train", "pairs"), "caption")
        sentences.append(f"The training split holds {count_words(images, 'image')} with {captions}.")
    named_parts = (
        ("model", component_name(config, "model")),
        ("engine", str(run.facts.get("engine") or "")),
        ("seed", str(run.seed)),
    )
    parts = [f"the {part} {value}" for part, value in named_parts if value]
    sentences.append(f"It ran with {enumerate_words(parts)}.")
    asked = []
    for direction in dict.fromkeys(direction for _, direction in run.sides):
        queries, gallery = run.final_sizes(direction)
        kinds = ("text", "images") if direction == "t2i" else ("image", "texts")
        held = f" against {gallery:,} {kinds[1]}" if gallery else ""
        asked.append(f"{count_words(queries, f'{kinds[0]} query', f'{kinds[0]} queries')}{held}")
    sentences.append(f"After the last task the test splits asked {enumerate_words(asked)}.")
    return " ".join(sentences)


def first_hits(run: Run, policy: str, scope: str = "all") -> dict[str, float]:
    """Return the final R@1 in percent by direction, averaged over tasks."""
    matrices = {direction: run.matrix(policy, scope, direction) for _, direction in run.sides}
    return {direction: float(matrix[-1].mean()) for direction, matrix in matrices.items() if matrix is not None}


def best_policy(run: Run) -> str | None:
    """Return the policy with the highest final R@1 over all tasks, mean of the directions; the earlier one of equals."""
    means = {policy: float(np.mean(list(values.values()))) for policy in run.policies if (values := first_hits(run, policy))}
    return max(means, key=lambda policy: means[policy]) if means else None


def verdict(run: Run) -> str:
    """Say which policy answered best on this data, and what keeping and embedding again gave; empty without such scores."""
    best = best_policy(run)
    if best is None:
        return ""
    asked = {"t2i": "text queries", "i2t": "image queries"}

    def shares(policy: str) -> str:
        return enumerate_words([f"{value:.1f} %" for value in first_hits(run, policy).values()])

    questions = enumerate_words(
        [f"{value:.1f} % of the {asked[direction]}" for direction, value in first_hits(run, best).items()]
    )
    text = f"Over all tasks, {best} put a right answer first most often: for {questions}."
    others = {"reindex": "embedding the whole gallery again", "keep": "leaving the gallery as it is"}
    others = {policy: words for policy, words in others.items() if policy in run.policies and policy != best}
    if others:
        given = enumerate_words([f"{words} ({policy}) gave {shares(policy)}" for policy, words in others.items()])
        text += f" {given[0].upper()}{given[1:]}."
    return f"{text} One seed is one draw: compare several before deciding."


def opening_of_several(runs: Sequence[Run]) -> str:
    """Say in a paragraph what several compared runs are."""
    seeds = {label: [str(run.seed) for run in runs if run.label == label] for label in dict.fromkeys(run.label for run in runs)}
    listed = [
        f"{label} ({'seed' if len(of_label) == 1 else 'seeds'} {enumerate_words(of_label)})" for label, of_label in seeds.items()
    ]
    stream = component_name(runs[0].facts.get("config") or {}, "stream", "source")
    named = f" of the stream '{stream}'" if stream else ""
    text = f"{count_words(len(runs), 'run')} over {count_words(len(runs[0].tasks), 'task')}{named}: {enumerate_words(listed)}."
    means: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for policy in run.policies:
            means.setdefault((run.label, policy), []).extend(first_hits(run, policy).values())
    best = max((pair for pair, values in means.items() if values), key=lambda pair: float(np.mean(means[pair])), default=None)
    if best is None:
        return text
    value = float(np.mean(means[best]))
    return f"{text} Highest R@1 over all tasks, mean of both directions: {best[0]} with the policy {best[1]}, {value:.1f} %."


def set_aside(run: Run) -> list[str]:
    """Say which rows of the data were not used, and why; one line a reason."""
    rejected = run.stream.get("rejected")
    left_out = run.stream.get("left_out")
    lines = [f"{count_words(int(count), 'row')} set aside: {reason}" for reason, count in _counts(rejected)]
    lines.extend(f"{count_words(int(count), 'pair')} in no task: {value or 'no value'}" for value, count in _counts(left_out))
    if not lines:
        lines = ["No row was set aside." if run.stream else "The run kept no word on its stream."]
    return lines


def _counts(value: object) -> list[tuple[str, int]]:
    return (
        [(str(reason), count) for reason, count in value.items() if isinstance(count, int)] if isinstance(value, Mapping) else []
    )
