"""Training on Ray: one worker group for all tasks of a run.

Starting a group costs seconds, a further task inside a living one almost nothing, and training never waits for scoring: so the
group goes through the tasks by itself while the driver waits for each checkpoint and scores it. A single worker is an actor
with our own loop; two or more are a Ray Train worker group.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from cmcl_ray import storage
from cmcl_ray.components import ComponentSpec
from cmcl_ray.data.images import facts_of
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.errors import CmclError
from cmcl_ray.models.base import build_model
from cmcl_ray.on_ray.decode import RayDecode
from cmcl_ray.on_ray.memory import keep_freed_memory
from cmcl_ray.train.job import FitJob
from cmcl_ray.train.loop import fit_task
from cmcl_ray.train.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """What training may use.

    Args:
        count: training processes.
        cpus: CPUs of each.
        gpus: GPUs of each.
        block_rows: rows a decoding task takes.
        decoders: decoding tasks at a time.
        max_failures: lost workers a run survives before it stops.
    """

    count: int
    cpus: float
    gpus: float
    block_rows: int
    decoders: int
    max_failures: int


@dataclass(frozen=True)
class RemoteJob:
    """A FitJob whose stream lies in the object store.

    Args:
        job: the job, its stream left out.
        stream: a list with the reference to the stream; inside a list Ray hands on the reference and not the tables.
        workers: what training may use.
        monitor: takes figures for the display.
    """

    job: dict[str, Any]
    stream: list[Any]
    workers: Workers
    monitor: Any

    @classmethod
    def of(cls, job: FitJob, stream: list[Any], workers: Workers, monitor: Any) -> "RemoteJob":
        """Take the stream out of a job."""
        fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job) if field.name != "stream"}
        return cls(fields, stream, workers, monitor)

    def restore(self) -> FitJob:
        """Put the stream back."""
        stream: TaskStream = ray.get(self.stream[0])
        return FitJob(stream=stream, **self.job)


def fit_all(remote: RemoteJob) -> None:
    """Train all tasks that are not done, on the rank this process has."""
    job = remote.restore()
    world = World.current(job.train.device)
    spec: ComponentSpec = job.model
    inputs = build_model(spec, facts_of(job.stream.pairs), job.seed).inputs()
    decode = RayDecode(remote.stream, inputs, remote.workers.block_rows, remote.workers.decoders)
    for task in job.stream.tasks:
        stage = f"train {task.name}"

        def tell(done: int, total: int, facts: Any, stage: str = stage) -> None:
            if world.is_leader:
                remote.monitor.tell.remote(stage, done, total, dict(facts))

        fit_task(job, task.index, world, decode, tell)


def _fit_and_tell(remote: RemoteJob) -> None:
    """Train all tasks; the text of an error a user can put right reaches the driver before the error does."""
    keep_freed_memory()
    try:
        fit_all(remote)
    except CmclError as error:
        ray.get(remote.monitor.fail.remote(str(error)))
        raise


class _Trainer:
    """One worker: our own loop in an actor."""

    def run(self, remote: RemoteJob) -> None:
        """Train all tasks."""
        _fit_and_tell(remote)


class Fitting:
    """The training of a run under way.

    Args:
        remote: what to train.
    """

    def __init__(self, remote: RemoteJob) -> None:
        self._remote = remote
        self._failure: BaseException | None = None
        self._stop: Callable[[], None] = lambda: None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="cmcl-fit", daemon=True)
        self._thread.start()

    def wait(self, task: int, heartbeat: Callable[[], None]) -> None:
        """Wait until a task's checkpoint is whole.

        Args:
            task: index of the task.
            heartbeat: called a few times a second.

        Raises:
            Exception: what ended training.
        """
        folder = storage.join(self._remote.job["out"], "tasks")
        while True:
            alive = self._thread.is_alive()
            if self._is_done(folder, task):
                return
            if not alive:
                raise self._failure or RuntimeError(f"training ended without the checkpoint of task {task} under {folder}")
            heartbeat()
            self._thread.join(timeout=0.2)

    @staticmethod
    def _is_done(folder: str, task: int) -> bool:
        names = [name for name in storage.list_names(folder) if name.startswith(f"{task:02d}_")]
        return any(storage.has_manifest(storage.join(folder, name, "checkpoint")) for name in names)

    def _run(self) -> None:
        try:
            if self._remote.workers.count == 1:
                self._run_actor()
            else:
                self._run_group()
        except BaseException as error:  # handed to the thread that waits
            self._failure = error

    def _run_actor(self) -> None:
        workers = self._remote.workers
        options = {"num_cpus": workers.cpus, "num_gpus": workers.gpus, "max_restarts": 0}
        lost = 0
        while True:
            actor = ray.remote(_Trainer).options(**options).remote()
            self._stop = lambda actor=actor: ray.kill(actor)
            if self._stopped:
                ray.kill(actor)
                return
            try:
                ray.get(actor.run.remote(self._remote))
            except ray.exceptions.RayActorError as error:
                if self._stopped:
                    return
                lost += 1
                if lost > workers.max_failures:
                    raise CmclError(
                        f"the training worker was lost {lost} times ({str(error).splitlines()[0]}); expected at most "
                        f"{workers.max_failures}; look for memory limits, or raise engine.max_failures; the same command goes on "
                        "from the last checkpoint"
                    ) from None
                logger.warning("the training worker was lost; another goes on from the last checkpoint")
                continue
            ray.kill(actor)
            return

    def _run_group(self) -> None:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        workers = self._remote.workers
        name = f"cmcl-{storage.digest_of(self._remote.job['out'], 8)}"
        trainer = TorchTrainer(
            _group_member,
            train_loop_config={"remote": self._remote},
            torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.count,
                use_gpu=bool(workers.gpus),
                resources_per_worker={"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage.join(self._remote.job["out"], "ray"),
                failure_config=ray.train.FailureConfig(max_failures=workers.max_failures, controller_failure_limit=3),
            ),
        )
        trainer.fit()

    def stop(self) -> None:
        """Stop training; what is not in a checkpoint is lost."""
        if self._thread.is_alive():
            # Said first, or the worker killed here would be taken for a lost one and started anew.
            self._stopped = True
            self._stop()
            self._thread.join(timeout=10)


def _group_member(config: dict[str, Any]) -> None:
    _fit_and_tell(config["remote"])
