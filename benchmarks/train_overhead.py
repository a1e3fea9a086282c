"""What training under Ray costs: our loop in a worker of the Ray engine against a plain PyTorch loop, in pairs a second.

Both start from the same weights and go over the same decoded batches with the same number of torch threads; the plain loop has
them ready as tensors, and its process keeps freed memory as our workers do (on_ray/memory.py): what is compared is the loop. The
first window of steps is left out on both sides, and with it the start of processes and the decoding.
"""

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import measure
import torch
from torch.nn import functional

from cmcl_ray.components import build_component
from cmcl_ray.data.feed import Batch, Feed, LocalDecode
from cmcl_ray.data.images import facts_of
from cmcl_ray.index.backends.base import Backend
from cmcl_ray.logs import Silent
from cmcl_ray.models.base import build_model
from cmcl_ray.on_ray.memory import keep_freed_memory
from cmcl_ray.run.beginning import read_stream
from cmcl_ray.run.engine import RunContext
from cmcl_ray.run.settings import RunSettings, settings_from
from cmcl_ray.train.checkpoints import read_checkpoint
from cmcl_ray.train.job import FitJob, plan_task, row_facts
from cmcl_ray.train.optimizer import EPS

NAME = "train_overhead"
TARGET = 0.95
LOG_EVERY = 10
CHECKED_STEPS = 20
TOLERANCE = 1e-5


def settings_of(threads: int, epochs: int, log_every: int, out: str = "unused") -> RunSettings:
    """Return the settings of a run of one synthetic task: 3,000 pairs, tiny at its defaults."""
    source = {"name": "synthetic", "groups": 1, "images_per_group": 1000, "val_images_per_group": 0, "test_images_per_group": 50}
    return settings_from(
        {
            "out": out,
            "stream": {"source": source, "splits": {"column": "split"}},
            "model": {"name": "tiny"},
            "loss": {"name": "info_nce"},
            "train": {"epochs": epochs, "threads": threads, "log_every": log_every, "device": "cpu"},
            "index": {"backend": {"name": "exact"}},
            "policies": {"keep": {"name": "keep"}},
            # More logical CPUs than are reserved; nothing but the worker computes during a fit.
            "engine": {"name": "ray", "num_cpus": 4, "address": "local"},
        }
    )


# -- the plain side --------------------------------------------------------------------------------------------------------


def plain_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the symmetric contrastive loss in which captions of one image are no negatives of each other."""
    image = functional.normalize(model.project_image(batch.image), dim=-1)
    text = functional.normalize(model.project_text(batch.text), dim=-1)
    scores = image @ text.T / 0.07
    same = batch.image_id[:, None] == batch.image_id[None, :]
    scores = scores.masked_fill(same.fill_diagonal_(False), -torch.inf)
    target = torch.arange(len(scores))
    return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2


def plain_loop(model: Any, batches: Sequence[Batch], lr: float, log_every: int) -> tuple[list[float], float]:
    """Train over the batches and return the losses logged, and the seconds from the first log to the last step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, eps=EPS, weight_decay=0.0)
    warmup = int(0.05 * len(batches))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (len(batches) - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    losses: list[float] = []
    begun = 0.0
    for step, batch in enumerate(batches, start=1):
        loss = plain_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % log_every == 0 or step == len(batches):
            losses.append(loss.item())
            begun = begun or time.monotonic()
    return losses, time.monotonic() - begun


def plain_run(request: dict[str, Any]) -> dict[str, Any]:
    """Decode the batches of a run, then train on them."""
    settings = settings_of(**request)
    torch.set_num_threads(settings.train.threads)
    stream = read_stream(settings)
    plan = plan_task(stream, stream.tasks[0], [], settings.train, settings.seed)
    model = build_model(settings.model, facts_of(stream.pairs), settings.seed)
    feed = Feed(LocalDecode(stream.pairs, model.inputs()), row_facts(stream), 1, settings.train.cache_bytes)
    batches = list(feed.batches(plan, rank=0, size=1))
    losses, seconds = plain_loop(model, batches, settings.train.lr, settings.train.log_every)
    first = min(settings.train.log_every, plan.steps)
    return {"losses": losses, "pairs_per_s": (plan.steps - first) * plan.global_batch / seconds}


# -- our side --------------------------------------------------------------------------------------------------------------


class RayFit:
    """Fits a task in a worker of the Ray engine, as a run does; Ray and the pool stay up between fits."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        settings = settings_of(threads, 1, 1)
        self._stream = read_stream(settings)
        self._backend: Backend = build_component(settings.backend)
        measure.equal_priority()
        self._engine = build_component(settings.engine)
        self._engine.check(settings)

    def run(self, epochs: int, log_every: int) -> dict[str, Any]:
        """Train, and return the losses logged and the pairs a second after the first window."""
        with tempfile.TemporaryDirectory(prefix="cmcl-bench-") as out:
            context = RunContext(settings_of(self._threads, epochs, log_every, out), self._stream, self._backend, Silent())
            self._engine.open(context)
            self._engine.fit(0)
            # Training may still write when its checkpoint is there; the folder must be left alone before it goes.
            self._engine.close()
            return read_run(context.job)

    def close(self) -> None:
        """Stop the pool and Ray."""
        self._engine.shutdown()


def read_run(job: FitJob) -> dict[str, Any]:
    """Return losses and pairs a second of a finished task from the lines of metrics in its checkpoint."""
    lines = read_checkpoint(job.checkpoint(0)).metrics
    steps = [line["step"] for line in lines]
    seconds = sum((step - before) * line["time/step_s"] for before, step, line in zip(steps, steps[1:], lines[1:], strict=False))
    pairs = (steps[-1] - steps[0]) * job.train.batch_size
    return {"losses": [line["train/loss"] for line in lines], "pairs_per_s": pairs / seconds}


# -- the comparison --------------------------------------------------------------------------------------------------------


def largest_difference(ours: Sequence[float], plain: Sequence[float]) -> float:
    """Return the largest difference of the first losses; infinite where there are too few of them."""
    if min(len(ours), len(plain)) < CHECKED_STEPS:
        return math.inf
    return max(abs(one - other) for one, other in zip(ours[:CHECKED_STEPS], plain[:CHECKED_STEPS], strict=True))


def compare(threads: int, epochs: int, rounds: int) -> measure.Result:
    """Check that both sides do the same, then time them in turns."""
    plain = measure.PlainProcess(__file__, {})
    ours = RayFit(threads)
    try:
        check = {"threads": threads, "epochs": 1, "log_every": 1}
        plain.send(check)
        difference = largest_difference(ours.run(1, 1)["losses"], plain.receive()["losses"])
        checked = difference <= TOLERANCE
        timed = {"threads": threads, "epochs": epochs, "log_every": LOG_EVERY}
        runs = measure.interleave(
            {
                "ours": lambda: float(ours.run(epochs, LOG_EVERY)["pairs_per_s"]),
                "plain": lambda: float(plain.ask(timed)["pairs_per_s"]),
            },
            rounds if checked else 0,
        )
    finally:
        plain.close()
        ours.close()
    settings = measure.environment(
        threads=threads, epochs=epochs, batch_size=128, pairs=3000, model="tiny", loss_difference=difference,
        ours_pairs_per_s=[round(run) for run in runs["ours"]], plain_pairs_per_s=[round(run) for run in runs["plain"]],
    )  # fmt: skip
    case = f"1 worker / plain torch, {threads} thread{'s' * (threads > 1)}"
    each = measure.ratios(runs["ours"], runs["plain"])
    return measure.Result.of((NAME, case), each, "ratio of pairs/s", "higher", TARGET, checked, settings)


def main() -> int:
    """Run the benchmark."""
    wanted = measure.arguments(__doc__.splitlines()[0])
    if wanted.plain:
        keep_freed_memory()
        return measure.answer_requests(plain_run)
    # Each fit starts a worker anew, which is most of the time of a quick run: one pair.
    results = [compare(1, 6, 1)] if wanted.quick else [compare(threads, 20, 5) for threads in (1, 2)]
    return measure.conclude(results, wanted)


if __name__ == "__main__":
    sys.exit(main())
