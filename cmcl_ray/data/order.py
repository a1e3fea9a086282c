"""Who gets which row at which step: pure functions of seed, task, epoch, step and world size.

An epoch is a permutation of the task's rows cut into global batches; memory rows are drawn from a second, endless sequence of
permutations and join every batch; a rank takes every W-th row of the global batch. So the global batch does not depend on the
number of workers, any step can be asked for without those before it, and resuming needs the step alone.
Price: one permutation of the task in memory (8 bytes a pair).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cmcl_ray.data.pairs import Rows
from cmcl_ray.errors import ConfigError

# Streams of random numbers that must not meet: the first word of every seed says what it is for.
_EPOCH, _MEMORY, _INTERLEAVE = 1, 2, 3


def permutation(length: int, *position: int) -> Rows:
    """Return a permutation of 0..length-1 that depends on the position alone, such as (seed, task, epoch)."""
    return np.random.default_rng([int(word) for word in position]).permutation(length).astype(np.int64)


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of one task.

    Args:
        rows: (n,) pair rows that make an epoch.
        memory: (m,) pair rows of earlier tasks that join every batch; may be empty.
        batch_size: rows of ``rows`` in a global batch.
        memory_batch: rows of ``memory`` in a global batch, 0 where memory is empty.
        epochs: passes over ``rows``.
        seed: of the run.
        task: index of the task.
        groups: for single-task batches, the pair rows of each task in ``rows``; empty where batches mix tasks.
    """

    rows: Rows
    memory: Rows
    batch_size: int
    memory_batch: int
    epochs: int
    seed: int
    task: int
    groups: tuple[Rows, ...] = ()
    _epochs: dict[int, Rows] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch; the rows left over are other ones in each epoch."""
        if self.groups:
            return sum(max(1, len(group) // self.batch_size) for group in self.groups)
        return max(1, len(self.rows) // self.batch_size)

    @property
    def steps(self) -> int:
        """Global batches in the whole task."""
        return self.steps_per_epoch * self.epochs

    @property
    def global_batch(self) -> int:
        """Rows in a global batch, memory included."""
        return self.batch_size + self.memory_batch

    def batch(self, step: int) -> Rows:
        """Return the pair rows of a global batch, new rows first, then memory rows.

        Args:
            step: 0 <= step < steps.

        Returns:
            (global_batch,) pair rows. Where a task has fewer rows than a batch the permutation is gone through again, so that
            every batch has the same size; repeated rows are no negatives of each other.

        Raises:
            IndexError: the step is outside of the plan.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside of the plan; expected 0 to {self.steps - 1}; ask for a step of this task")
        epoch, within = divmod(step, self.steps_per_epoch)
        new = self._epoch(epoch)[within]
        return np.concatenate([new, self._memory_rows(step)]) if self.memory_batch else new

    def _epoch(self, epoch: int) -> Rows:
        """Return the batches of an epoch, (steps_per_epoch, batch_size); only the last one asked for is kept."""
        batches = self._epochs.get(epoch)
        if batches is None:
            batches = self._shuffled(epoch)
            # A feed asks from a thread of its own: what is returned must not depend on what others do to this box.
            self._epochs.clear()
            self._epochs[epoch] = batches
        return batches

    def _shuffled(self, epoch: int) -> Rows:
        if not self.groups:
            return _cut(self.rows, self.batch_size, (self.seed, _EPOCH, self.task, epoch))
        position = (self.seed, _EPOCH, self.task, epoch)
        batches = np.concatenate([_cut(group, self.batch_size, (*position, i)) for i, group in enumerate(self.groups)])
        return batches[permutation(len(batches), self.seed, _INTERLEAVE, self.task, epoch)]

    def _memory_rows(self, step: int) -> Rows:
        positions = np.arange(step * self.memory_batch, (step + 1) * self.memory_batch)
        rounds = positions // len(self.memory)
        picked = np.empty(len(positions), dtype=np.int64)
        for number in np.unique(rounds):
            here = rounds == number
            order = permutation(len(self.memory), self.seed, _MEMORY, self.task, int(number))
            picked[here] = self.memory[order[positions[here] % len(self.memory)]]
        return picked


def _cut(rows: Rows, batch_size: int, position: Sequence[int]) -> Rows:
    shuffled = rows[permutation(len(rows), *position)]
    steps = max(1, len(rows) // batch_size)
    return (
        np.resize(shuffled, (steps, batch_size))
        if len(rows) < batch_size
        else shuffled[: steps * batch_size].reshape(steps, batch_size)
    )


def rank_rows(batch: Rows, rank: int, size: int) -> Rows:
    """Return the rows of a global batch that a rank works on: every size-th one, so each rank gets its share of memory rows."""
    return batch[rank::size]


def check_batch(plan: BatchPlan, size: int) -> None:
    """Check that a global batch divides over the workers.

    Raises:
        ConfigError: it does not; the text gives the numbers.
    """
    if plan.global_batch % size:
        raise ConfigError(
            f"a global batch has {plan.global_batch} rows ({plan.batch_size} new, {plan.memory_batch} from memory), which "
            f"{size} workers cannot share equally; expected a multiple of {size}; change train.batch_size or the memory share"
        )
