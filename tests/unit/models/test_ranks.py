"""Several processes see one loss and one gradient: those of the whole batch in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from cmcl_ray.models.distributed import gather, gather_constant, world
from tests.unit.models.ranks import CASES, CODES, TASKS, run_rank, train_once

SIZES = (2, 4)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Return what every rank of every world found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, args=(str(folder), SIZES), nprocs=max(SIZES))
    return {size: [torch.load(Path(folder) / f"found-{size}-{rank}.pt") for rank in range(size)] for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("model", "loss", "cross"), CASES)
def test_loss_and_gradients_are_those_of_one_process(
    found: dict[int, list[dict[str, Any]]], size: int, model: str, loss: str, cross: bool
) -> None:
    expected = train_once(model, loss, cross)
    assert expected["loss"] > 0.1
    largest = max(float(value.abs().max()) for name, value in expected.items() if name != "loss")
    for rank in range(size):
        got = found[size][rank][f"{model}/{loss}/{cross}"]
        assert got.keys() == expected.keys()
        torch.testing.assert_close(got["loss"], expected["loss"], rtol=1e-6, atol=0)
        for name, value in expected.items():
            # Float32 sums in another order: 1e-6 of the largest gradient of the model.
            torch.testing.assert_close(
                got[name], value, rtol=1e-5, atol=1e-6 * max(1.0, largest), msg=lambda text, name=name: name + text
            )


@pytest.mark.parametrize("size", SIZES)
def test_equal_codes_are_no_negatives_across_ranks_and_targets_are_the_own_partners(
    found: dict[int, list[dict[str, Any]]], size: int
) -> None:
    seen = []
    for rank in range(size):
        codes = found[size][rank]["codes"]
        rows, columns = codes["rows"].tolist(), codes["columns"].tolist()
        seen += rows
        assert sorted(columns) == list(range(len(CODES)))
        assert [columns[target] for target in codes["target"]] == rows
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                assert bool(codes["negative"][i, j]) == (CODES[row] != CODES[column])
                assert float(codes["scores"][i, j]) == (row == column)
        # Rows that every rank goes through are scored against each other alone.
        alone = codes["alone"]
        assert alone["target"].tolist() == list(range(len(rows)))
        assert torch.equal(alone["image_to_text"], torch.eye(len(rows)))
        assert alone["negative"].tolist() == [[CODES[row] != CODES[column] for column in rows] for row in rows]
    assert sorted(seen) == list(range(len(CODES)))
    assert len(set(CODES)) < len(CODES)
    assert len(set(TASKS)) == 2


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_a_gather_is_the_sum_over_ranks(found: dict[int, list[dict[str, Any]]], size: int) -> None:
    parts = [found[size][rank]["gather"] for rank in range(size)]
    whole = torch.cat([part["rows"] for part in parts])
    for rank, part in enumerate(parts):
        assert torch.equal(part["gathered"], whole)
        expected = sum(range(1, size + 1)) + size * whole[rank : rank + 1]
        torch.testing.assert_close(part["row_grad"], expected)
        torch.testing.assert_close(part["shift_grad"], expected)


def test_a_single_process_gathers_its_own_rows() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert world() == (0, 1)
    assert gather(rows) is rows
    assert gather_constant(rows) is rows
