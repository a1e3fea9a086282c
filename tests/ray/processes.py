"""Running the command in a process of its own and killing parts of it, as an operator or a kernel would."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``cmcl run`` in a session of its own, its output in a file."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "cmcl_ray.cli", "run", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    """Wait until a condition holds while the process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended with {process.returncode} too early:\n{log.read_text()}"
        assert time.monotonic() < end, f"waited {seconds} s in vain:\n{log.read_text()}"
        time.sleep(0.02)


def descendants(pid: int) -> dict[int, str]:
    """Return pid -> command line of all processes below one."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
            names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    below: set[int] = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in below} - below
        if not more:
            return {child: names[child] for child in below - {pid}}
        below |= more


def kill_below(pid: int, title: str) -> int:
    """Kill one process below another whose command line holds a title; return its pid."""
    found = [child for child, name in descendants(pid).items() if title in name]
    assert found, f"no process with '{title}' below {pid}"
    os.kill(max(found), signal.SIGKILL)
    return max(found)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it; Ray's own daemons notice a lost driver only after a while."""
    below = descendants(process.pid) if process.poll() is None else {}
    process.kill()
    process.wait()
    for child in below:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
