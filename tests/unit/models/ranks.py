"""What each process of test_ranks.py does: kept apart so that the processes import little."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from cmcl_ray.data.feed import Batch
from cmcl_ray.data.order import rank_rows
from cmcl_ray.models.base import Outputs
from cmcl_ray.models.distributed import gather, gather_constant, world
from cmcl_ray.models.losses.base import Loss, match
from cmcl_ray.models.losses.info_nce import InfoNCE
from cmcl_ray.models.losses.triplet import Triplet
from tests.unit.models.toys import batch_of, model_of

COUNT = 12
# Captions of one image stand on different ranks; tasks are mixed over the ranks, too.
CODES = [0, 1, 2, 0, 4, 5, 6, 4, 8, 9, 0, 11]
TASKS = [0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1]
LOSSES: dict[str, Loss] = {"info_nce": InfoNCE(), "sum": Triplet(0.2), "hardest": Triplet(0.2, "hardest")}
CASES = [("tiny", "info_nce", True), *(("shared_1", loss, cross) for loss in LOSSES for cross in (True, False))]


def whole_batch(model: str) -> Batch:
    return batch_of(model, COUNT, seed=3, codes=CODES, tasks=TASKS)


def part_of(batch: Batch, rank: int, size: int) -> Batch:
    rows = torch.from_numpy(rank_rows(batch.pair_id.numpy(), rank, size).copy())
    return Batch(batch.image[rows], batch.text[rows], rows, batch.image_id[rows], batch.task[rows])


def train_once(name: str, loss: str, cross: bool) -> dict[str, torch.Tensor]:
    """Return loss and gradients as the training loop makes them, on this rank."""
    rank, size = world()
    model = model_of(name, learn_temperature=loss == "info_nce")
    forward = DistributedDataParallel(copy.deepcopy(model)) if size > 1 else model
    batch = part_of(whole_batch(name), rank, size)
    outputs = Outputs(*forward(batch.image, batch.text))
    matched = match(outputs.image_raw, outputs.text_raw, batch.image_id, batch.task, cross)
    value = LOSSES[loss](matched, outputs.logit_scale)
    value.backward()
    mean = value.detach().clone()
    if size > 1:
        distributed.all_reduce(mean)
    trained = forward.module if size > 1 else model
    found = {key: weight.grad for key, weight in trained.named_parameters() if weight.grad is not None}
    return {"loss": mean / size, **found}


def match_codes() -> dict[str, Any]:
    """Return this rank's mask and targets beside the pair rows of rows and columns."""
    rank, size = world()
    batch = part_of(whole_batch("shared_1"), rank, size)
    image, text = torch.eye(COUNT)[batch.pair_id], torch.eye(COUNT)[batch.pair_id]
    matched = match(image, text, batch.image_id, batch.task, True)
    return {
        "rows": batch.pair_id,
        "columns": gather_constant(batch.pair_id),
        "negative": matched.negative,
        "target": matched.target,
        "scores": matched.image_to_text,
        "alone": match(image, text, batch.image_id, batch.task, True, over_ranks=False).__dict__,
    }


def gather_twice() -> dict[str, torch.Tensor]:
    """Use one gathered tensor in several places, and one gradient for two gathers, with weights known on every rank."""
    rank, _ = world()
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(4, 3, generator=generator, dtype=torch.float64)[rank].unsqueeze(0).requires_grad_()
    shift = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    # Both gathers of this sum get one and the same gradient tensor from autograd.
    gathered = gather(rows) + gather(shift)
    loss = (gathered * (rank + 1)).sum() + gathered.square().sum() / 2
    loss.backward()
    return {"gathered": gathered.detach(), "rows": rows.detach(), "row_grad": rows.grad, "shift_grad": shift.grad}


def run_rank(rank: int, folder: str, sizes: tuple[int, ...]) -> None:
    """Do all checks in worlds of some sizes, one after the other, and leave what was found in the folder."""
    torch.set_num_threads(1)
    for size in sizes:
        if rank >= size:
            continue
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store-{size}", rank=rank, world_size=size)
        found: dict[str, Any] = {f"{model}/{loss}/{cross}": train_once(model, loss, cross) for model, loss, cross in CASES}
        found["codes"] = match_codes()
        found["gather"] = gather_twice()
        torch.save(found, Path(folder) / f"found-{size}-{rank}.pt")
        distributed.destroy_process_group()
