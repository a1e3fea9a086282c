"""The one training loop: a task from its first step, or from where a kill left it, to its checkpoint.

Whatever happens to a step follows from (seed, task, step, rank) and the checkpoint, so a killed and resumed task ends in the
same bits as an undisturbed one.
"""

import contextlib
import logging
import math
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.data.feed import Batch, Decode, Feed, LocalDecode
from cmcl_ray.data.images import facts_of
from cmcl_ray.data.order import check_batch
from cmcl_ray.data.pairs import Rows
from cmcl_ray.errors import CmclError, ConfigError
from cmcl_ray.models.base import DualEncoder, ModelVersion, Outputs, build_model, weights_id
from cmcl_ray.models.losses.base import Loss, match
from cmcl_ray.strategies.base import Step, Strategy, StrategyContext
from cmcl_ray.train.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from cmcl_ray.train.job import FitJob, plan_task, row_facts
from cmcl_ray.train.optimizer import make_optimizer, rate_at, set_rate
from cmcl_ray.train.world import World

logger = logging.getLogger(__name__)

# (steps done, steps in all, figures shown beside them)
Progress = Callable[[int, int, Mapping[str, float]], None]
# Keeps the seeds of dropout apart from those of the order.
_STEP = 21


def fit_task(
    job: FitJob, task: int, world: World, decode: Decode | None = None, progress: Progress = lambda done, total, facts: None
) -> ModelVersion:
    """Train one task, or finish what a kill left of it, and write its checkpoint.

    Args:
        job: what to train.
        task: index of the task; the one before must be finished.
        world: where this process stands; every rank calls this.
        decode: how rows become arrays; in this process unless given.
        progress: told of the steps done.

    Returns:
        The version the task ended with; the same on every rank.

    Raises:
        IntegrityError: a checkpoint this task starts from is missing or damaged.
        ConfigError: the global batch does not divide over the workers, or best weights are wanted of a task without validation
            pairs.
        CmclError: a loss is not finite.
    """
    if job.is_done(task):
        if world.is_leader:
            # A kill may have come between the checkpoint and this.
            storage.remove(job.progress(task))
    else:
        if job.train.threads:
            torch.set_num_threads(job.train.threads)
        fit = _TaskFit(job, task, world, decode, progress)
        fit.restore()
        fit.train()
        fit.finish()
    world.barrier()
    return job.version(task)


class _TaskFit:
    """One task on one rank: what is built for it, and where it stands."""

    def __init__(self, job: FitJob, task: int, world: World, decode: Decode | None, progress: Progress) -> None:
        pairs = job.stream.pairs
        if job.train.keep == "best" and not len(job.stream.tasks[task].val):
            raise ConfigError(
                f"train.keep is best, but task {job.stream.tasks[task].name} has no validation pairs; expected some; give the "
                "stream a val split (stream.splits.val_share) or set train.keep=last"
            )
        self.job, self.world, self.progress, self.settings = job, world, progress, job.train
        self.task = job.stream.tasks[task]
        self.model: DualEncoder = build_model(job.model, facts_of(pairs), job.seed).to(world.device)
        self.loss: Loss = build_component(job.loss)
        self.strategies: dict[str, Strategy] = {label: build_component(spec) for label, spec in job.strategies.items()}
        inputs = self.model.inputs()
        row_bytes = inputs.image.read(pairs, pairs.image_row[:1]).nbytes + inputs.text.read(pairs, self.task.train[:1]).nbytes
        self.feed = Feed(decode or LocalDecode(pairs, inputs), row_facts(job.stream), row_bytes, job.train.cache_bytes)
        self.context = StrategyContext(job.stream, self.task, self.model, self.loss, self._read, world.rank, world.size, job.seed)
        self.parent: str | None = None
        self.step = 0
        self.wall_s = 0.0
        self.best_loss = float("inf")
        self.best: dict[str, torch.Tensor] = {}
        self.metrics: list[dict[str, Any]] = []

    def _read(self, rows: Rows) -> Batch:
        return self.feed.read(rows).to(self.world.device)

    # -- beginning ---------------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take the weights and states the task starts from, or those a progress checkpoint holds."""
        if self.task.index:
            before = read_checkpoint(self.job.checkpoint(self.task.index - 1))
            self.parent = before.position["version"]
            for label, strategy in self.strategies.items():
                strategy.load_state_dict(self._on_device(before.strategies[label]))
            if all(strategy.first_weights() == "previous" for strategy in self.strategies.values()):
                self.model.load_state_dict(before.model)
        requests = [request for strategy in self.strategies.values() if (request := strategy.rows(self.job.stream, self.task))]
        self.cross_task = all(request.cross_task_negatives for request in requests)
        self.plan = plan_task(self.job.stream, self.task, requests, self.settings, self.job.seed)
        check_batch(self.plan, self.world.size)
        self.optimizer = make_optimizer(self.model, self.settings)
        self.begun = time.monotonic()
        # Before a resume: a strategy sees the weights the task starts from, also where it goes on in the middle.
        for strategy in self.strategies.values():
            strategy.start(self.context)
        folder = self._latest_progress()
        if folder is not None:
            self._resume(read_checkpoint(folder))

    def _on_device(self, state: Any) -> Any:
        """Return a strategy's state with its tensors where the model is."""
        if isinstance(state, torch.Tensor):
            return state.to(self.world.device)
        if isinstance(state, Mapping):
            return {key: self._on_device(value) for key, value in state.items()}
        return [self._on_device(value) for value in state] if isinstance(state, list) else state

    def _latest_progress(self) -> str | None:
        folder = self.job.progress(self.task.index)
        whole = [name for name in storage.list_names(folder) if storage.has_manifest(storage.join(folder, name))]
        # All ranks must start at one step, also where a file system shows a new folder to some of them first.
        name = self.world.from_leader(whole[-1] if whole else None)
        return storage.join(folder, name) if name else None

    def _resume(self, left: Checkpoint) -> None:
        self.model.load_state_dict(left.model)
        self.optimizer.load_state_dict(_optimizer_state(left.optimizer, self.optimizer))
        for label, strategy in self.strategies.items():
            strategy.load_state_dict(self._on_device(left.strategies[label]))
        self.step = left.position["step"]
        self.wall_s = left.position["wall_s"]
        self.best = left.best
        if self.best:
            self.best_loss = left.position["best_loss"]
        self.metrics = left.metrics
        logger.info("task %s goes on at step %d of %d", self.task.name, self.step, self.plan.steps)

    # -- steps -------------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Go through the steps that are left."""
        self.model.train()
        # Buffers are equal on all ranks by construction: sending them at every step would be for nothing.
        forward = DistributedDataParallel(self.model, broadcast_buffers=False) if self.world.size > 1 else self.model
        self.saved = self.logged = time.monotonic()
        self.logged_step = self.step
        for batch in self.feed.batches(self.plan, self.world.rank, self.world.size, self.step):
            self._one_step(forward, batch.to(self.world.device))
            if self.settings.keep == "best" and self.step % self.plan.steps_per_epoch == 0:
                self._keep_best()
            if self._is_save_due():
                self._save_progress()
        if self.best:
            self.model.load_state_dict(self.best)

    def _one_step(self, forward: torch.nn.Module, batch: Batch) -> None:
        # Dropout reads the global generator: seeded by position, it needs no place in the checkpoint.
        self._seed(_mix(self.job.seed, _STEP, self.task.index, self.step, self.world.rank))
        set_rate(self.optimizer, rate_at(self.step, self.plan.steps, self.settings))
        with self._autocast():
            outputs = Outputs(*forward(batch.image, batch.text))
        terms = {"train/loss": self._task_loss(batch, outputs)}
        for label, strategy in self.strategies.items():
            found = strategy.terms(self.context, Step(batch, outputs))
            terms.update({f"strategy/{label}/{name}": term for name, term in found.items()})
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self._change_gradients()
        if self.settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.step += 1
        for strategy in self.strategies.values():
            strategy.after_step(self.context)
        if self.step % self.settings.log_every == 0 or self.step == self.plan.steps:
            self._log(terms)

    def _seed(self, seed: int) -> None:
        if self.world.device.type == "cpu":
            # torch.manual_seed writes down the call stack for GPUs that may come later: 0.3 ms a step.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _task_loss(self, batch: Batch, outputs: Outputs, over_ranks: bool = True) -> torch.Tensor:
        matched = match(outputs.image_raw, outputs.text_raw, batch.image_id, batch.task, self.cross_task, over_ranks)
        return self.loss(matched, outputs.logit_scale)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        on_gpu = self.world.device.type == "cuda"
        if self.settings.precision == "bf16" or (self.settings.precision == "auto" and on_gpu):
            return torch.autocast(self.world.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _change_gradients(self) -> None:
        changing = [each for each in self.strategies.values() if type(each).after_backward is not Strategy.after_backward]
        for strategy in changing:
            gradients = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
            changed = strategy.after_backward(self.context, gradients)
            for name, weight in self.model.named_parameters():
                if changed is not None and name in changed:
                    weight.grad = changed[name]

    def _log(self, terms: Mapping[str, torch.Tensor]) -> None:
        values = self.world.mean(torch.stack([term.detach().float() for term in terms.values()])).tolist()
        now = time.monotonic()
        steps = self.step - self.logged_step
        step_s = (now - self.logged) / max(1, steps)
        self.logged, self.logged_step = now, self.step
        line = dict(zip(terms, values, strict=True))
        self._refuse_not_finite(line)
        line |= {
            "task": self.task.index,
            "step": self.step,
            "train/lr": self.optimizer.param_groups[0]["lr"],
            "time/step_s": step_s,
        }
        self.metrics.append(line)
        self.progress(self.step, self.plan.steps, {"loss": values[0], "pairs/s": self.plan.global_batch / max(step_s, 1e-9)})

    def _refuse_not_finite(self, losses: Mapping[str, float]) -> None:
        if not all(math.isfinite(value) for value in losses.values()):
            raise CmclError(
                f"the loss of task {self.task.name} is not finite at step {self.step}: {dict(losses)}; expected finite terms; "
                "lower train.lr or the strength of the strategy whose term broke"
            )

    @torch.no_grad()
    def _keep_best(self) -> None:
        """Keep the weights if they are the best on the task's validation pairs so far."""
        self.model.eval()
        losses, counts = [], []
        # Every rank goes through the same rows, so the loss is that of one process.
        for start in range(0, len(self.task.val), self.settings.batch_size):
            rows = self.task.val[start : start + self.settings.batch_size]
            batch = self._read(rows)
            losses.append(self._task_loss(batch, self.model(batch.image, batch.text), over_ranks=False) * len(rows))
            counts.append(len(rows))
        self.model.train()
        loss = self.world.from_leader(float(torch.stack(losses).sum()) / sum(counts))
        self._refuse_not_finite({"val/loss": loss})
        self.metrics.append({"task": self.task.index, "step": self.step, "val/loss": loss})
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    # -- saving and ending -------------------------------------------------------------------------------------------------

    def _is_save_due(self) -> bool:
        if self.step == self.plan.steps:
            return True  # before finish: a kill inside an importance pass then costs that pass alone
        every = self.settings.checkpoint_every_steps
        if every and self.step % every == 0:
            return True
        minutes = self.settings.checkpoint_every_minutes
        if not minutes or self.step % self.settings.log_every:
            return False
        return bool(self.world.from_leader(time.monotonic() - self.saved >= 60 * minutes))

    def _state(self) -> Checkpoint:
        wall_s = self.wall_s + time.monotonic() - self.begun
        best_loss = self.best_loss if self.best else None
        return Checkpoint(
            model=self.model.state_dict(),
            position={
                "task": self.task.index,
                "task_name": self.task.name,
                "step": self.step,
                "steps": self.plan.steps,
                "parent": self.parent,
                "best_loss": best_loss,
                "wall_s": wall_s,
                "samples": self.step * self.plan.global_batch,
                "memory_rows": len(self.plan.memory),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            },
            optimizer=_named_state(self.optimizer),
            strategies={label: strategy.state_dict() for label, strategy in self.strategies.items()},
            best=self.best,
            metrics=self.metrics,
        )

    def _save_progress(self) -> None:
        folder = self.job.progress(self.task.index)
        name = f"step-{self.step:09d}"
        if self.world.is_leader:
            write_checkpoint(storage.join(folder, name), self._state())
            for old in storage.list_names(folder):
                if old != name:
                    storage.remove(storage.join(folder, old))
        self.world.barrier()
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Let the strategies end the task, write its checkpoint, and remove what only a resume would need."""
        self.model.eval()
        for strategy in self.strategies.values():
            weights = strategy.finish(self.context)
            if weights is not None:
                self.model.load_state_dict(dict(weights), strict=False)
        state = self._state()
        state.position["version"] = weights_id(state.model)
        state.best = {}
        if self.world.is_leader:
            write_checkpoint(self.job.checkpoint(self.task.index), state)
            storage.remove(self.job.progress(self.task.index))


def _mix(*position: int) -> int:
    """Mix a position to a 63-bit seed: neighbours in any word give unrelated streams."""
    value = 0x9E3779B97F4A7C15
    for word in position:
        value = ((value ^ word) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 29
    return value >> 1


def _named_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the per-parameter state of an optimizer; its settings come from the config."""
    return {str(number): state for number, state in optimizer.state_dict()["state"].items()}


def _optimizer_state(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "state": {int(number): state for number, state in saved.items()},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
