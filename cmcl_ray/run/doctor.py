"""What this machine has, and what to do about what it lacks."""

import importlib.util
import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from cmcl_ray import storage


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what.
        state: ok, warn (works, but worth knowing) or fail (runs will not work).
        found: what was found.
        advice: what to do; empty where there is nothing to do.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""

    def line(self) -> str:
        """Return the finding as one line."""
        return f"{self.state:<4}  {self.name:<10}  {self.found}{'  ->  ' + self.advice if self.advice else ''}"


def diagnose(path: str | None) -> list[Finding]:
    """Look at Python, packages, Ray, GPU, faiss, memory, and a folder runs may be written to (the current one unless given)."""
    return [_python(), *_packages(), _faiss(), _gpu(), _ray(), _memory(), _folder(path or os.getcwd())]


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", version)
    return Finding("python", "fail", version, "install Python 3.11 to 3.13")


def _packages() -> list[Finding]:
    findings = []
    for name in ("torch", "ray", "pyarrow", "omegaconf", "safetensors", "pillow"):
        try:
            findings.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "fail", "not installed", "pip install cmcl-ray"))
    return findings


def _faiss() -> Finding:
    """Tell which build of faiss is there: the CPU and the GPU package install one module of the same name."""
    builds = [
        f"{dist.metadata['Name']} {dist.version}"
        for dist in metadata.distributions()
        if (dist.metadata["Name"] or "").lower().startswith("faiss")
    ]
    if len(builds) > 1:
        return Finding(
            "faiss", "fail", " and ".join(sorted(builds)), "uninstall all of them, then install cmcl-ray[cpu] or [gpu]"
        )
    if not builds or importlib.util.find_spec("faiss") is None:
        return Finding(
            "faiss", "warn", "not installed; backend exact works without", "pip install cmcl-ray[cpu] for backend flat"
        )
    return Finding("faiss", "ok", builds[0])


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "warn", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        return Finding("gpu", "ok", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    built = "a build for GPUs" if torch.version.cuda else "a build for CPUs"
    return Finding("gpu", "ok", f"none; torch is {built}")


def _ray() -> Finding:
    """Tell whether an address Ray would join answers; a stale one makes it wait for minutes."""
    address = os.environ.get("RAY_ADDRESS")
    if not address or address in ("auto", "local"):
        return Finding("cluster", "ok", "no RAY_ADDRESS: runs start Ray on this machine")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host or "127.0.0.1", int(port)), timeout=3):
            return Finding("cluster", "ok", f"{address} answers")
    except (OSError, ValueError) as error:
        return Finding(
            "cluster", "fail", f"RAY_ADDRESS {address} does not answer ({error})", "start the head or unset RAY_ADDRESS"
        )


def _memory() -> Finding:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    found = f"{os.cpu_count()} CPUs, {free:.1f} GiB free memory, {shared:.1f} GiB shared memory"
    if shared < 1:
        return Finding(
            "machine", "warn", found, "give the container more shared memory (--shm-size), or Ray's object store is slow"
        )
    return Finding("machine", "ok", found)


def _folder(path: str) -> Finding:
    """Write, read and remove a small file."""
    name = storage.join(storage.absolute(path), f".cmcl-doctor-{os.getpid()}")
    try:
        storage.write_bytes(name, b"cmcl")
        same = storage.read_bytes(name) == b"cmcl"
        storage.remove(name)
    except Exception as error:  # any storage error is a finding here, whatever library raised it
        return Finding("storage", "fail", f"{path} cannot be written ({error})", "choose another folder, or check credentials")
    if not same:
        return Finding("storage", "fail", f"{path} gave back other bytes than were written", "choose another folder")
    if storage.is_remote(path):
        return Finding("storage", "ok", path)
    return Finding(
        "storage", "ok", f"{storage.absolute(path)}, {shutil.disk_usage(storage.absolute(path)).free / 2**30:.1f} GiB free"
    )
