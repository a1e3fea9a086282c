"""One tiny run with stored figures: what a run computes changes only on purpose (see golden.py)."""

import json
from pathlib import Path

import pytest

from tests.golden.golden import KEPT, figures


def test_the_tiny_run_computes_what_it_did(tmp_path: Path) -> None:
    """Losses and scores within 1e-4 of those kept.

    Not to the last bit: another CPU or release of torch adds in another order, and what that does to a loss grows over the 72
    steps to some 1e-6. A rank moves by so little only where two scores stand that close; where one does, look at it before new
    figures are kept.
    """
    kept, found = json.loads(KEPT.read_text()), figures(tmp_path)
    for kind in ("losses", "scores"):
        assert found[kind].keys() == kept[kind].keys()
        moved = {name: (value, kept[kind][name]) for name, value in found[kind].items() if abs(value - kept[kind][name]) > 1e-4}
        assert moved == {}
    assert len(kept["losses"]) == 3 * 24 + 2 * 24
    assert len(kept["scores"]) == 5 * 6 * 2 * 2 * 5


def test_the_figures_kept_are_of_a_run_that_learns() -> None:
    """A golden run at chance would notice little."""
    kept = json.loads(KEPT.read_text())
    losses = [value for name, value in kept["losses"].items() if name.startswith("task 0 ")]
    assert losses[-1] < losses[0] - 1
    own = [kept["scores"][f"reindex known t2i {task} {task} mrr"] for task in range(3)]
    # Guessing among 12 images gives a mean reciprocal rank of 0.259.
    assert sum(own) / 3 > 0.3


@pytest.mark.parametrize("figure", ["reindex all t2i 2 0 recall@10", "keep known i2t 1 0 mrr"])
def test_the_figures_have_readable_names(figure: str) -> None:
    assert figure in json.loads(KEPT.read_text())["scores"]
