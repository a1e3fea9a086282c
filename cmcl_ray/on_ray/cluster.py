"""Joining a Ray cluster or starting one, and asking it what it can ever give.

Facts behind the choices (Ray 2.60): a dead address makes ``ray.init`` wait two minutes, so it is probed first; the dashboard
stays on, because without it stopped trainers leak placement groups; usage statistics are off.
"""

import contextlib
import logging
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import ray

from cmcl_ray.errors import ResourceError

logger = logging.getLogger(__name__)

# Set before Ray starts and only where the user said nothing. Train's controller takes one report a health check, 2 s by default;
# the rest keeps Ray's own lines and bars out of a run's output.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_PROBE_S = 3.0


@dataclass(frozen=True)
class Capacity:
    """What all nodes of a cluster have together, and the largest node's share.

    Args:
        cpus: logical CPUs of the cluster.
        gpus: GPUs of the cluster.
        node_cpus: logical CPUs of the largest node.
        node_gpus: GPUs of the node with most of them.
    """

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float


def ensure_ray(address: str | None, num_cpus: int | None, verbose: bool) -> bool:
    """Join the cluster at an address, or the one a job runs in, or start one on this machine.

    Args:
        address: ``host:port``, ``auto``, ``local``, or None: RAY_ADDRESS where it is set, else local.
        num_cpus: logical CPUs of a local cluster; None for the machine's.
        verbose: print the lines of workers.

    Returns:
        Whether this call started or joined it, and the caller may therefore shut it down; an open session is left alone.

    Raises:
        ResourceError: nothing answers at the address.
    """
    if ray.is_initialized():
        return False
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    level = logging.INFO if verbose else logging.ERROR
    if address == "local":
        provide_token()
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=verbose,
            logging_level=level,
        )
    else:
        if address != "auto":
            probe(address)
        ray.init(address=address, log_to_driver=verbose, logging_level=level)
    quiet_data()
    return True


def provide_token() -> None:
    """Give a cluster started here a token of its own where Ray could not write one: it would die without a word of help."""
    if (
        any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        or os.environ.get("RAY_AUTH_MODE") == "disabled"
    ):
        return
    folder = Path(os.path.expanduser("~"))
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    # Ray writes the token as readable as the umask allows; a secret is its owner's alone.
    token = folder / ".ray" / "auth_token"
    if not token.exists():
        token.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(32))


def probe(address: str) -> None:
    """Check that something listens at ``host:port``.

    Raises:
        ResourceError: nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host or "127.0.0.1", int(port)), timeout=_PROBE_S):
            return
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster answers at {address} ({error}); expected host:port of a running head; start one with ray start "
            "--head, or set engine.address=local"
        ) from None


def quiet_data() -> None:
    """Keep Ray Data from printing plans and bars into a run's output; in whatever process it is used."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def capacity() -> Capacity:
    """Return what the nodes that are alive have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def of(name: str) -> list[float]:
        return [float(node.get(name, 0.0)) for node in nodes] or [0.0]

    return Capacity(sum(of("CPU")), sum(of("GPU")), max(of("CPU")), max(of("GPU")))


def check_capacity(
    found: Capacity, workers: int, worker_cpus: float, worker_gpus: float, embedders: int, embedder_cpus: float
) -> None:
    """Refuse a request the cluster can never satisfy, with numbers.

    Args:
        found: what the cluster has.
        workers: training processes.
        worker_cpus: CPUs of each.
        worker_gpus: GPUs of each.
        embedders: embedding actors.
        embedder_cpus: CPUs of each.

    Raises:
        ResourceError: training, embedding and decoding do not fit beside each other, or one worker fits on no node.
    """
    # One CPU is left to Ray Data: workers that reserve them all would wait for rows for ever.
    wanted = workers * worker_cpus + embedders * embedder_cpus + 1
    if wanted > found.cpus:
        raise ResourceError(
            f"the cluster has {found.cpus:g} CPUs, but {workers} workers x {worker_cpus:g} + {embedders} embedders x "
            f"{embedder_cpus:g} + 1 for decoding ask for {wanted:g}; expected a request that fits; lower engine.num_workers, "
            "engine.worker_cpus or engine.embedders, or add nodes"
        )
    if workers * worker_gpus > found.gpus or worker_gpus > found.node_gpus or worker_cpus > found.node_cpus:
        raise ResourceError(
            f"the cluster has {found.gpus:g} GPUs ({found.node_gpus:g} on one node, {found.node_cpus:g} CPUs on one node), but "
            f"{workers} workers ask for {worker_gpus:g} GPUs and {worker_cpus:g} CPUs each; expected a request that fits; lower "
            "engine.num_workers, engine.worker_gpus or engine.worker_cpus"
        )
