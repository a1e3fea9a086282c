"""Freed memory stays with a worker process, so that taking it again costs no page faults."""

import platform
import subprocess
import sys

import pytest

from cmcl_ray.on_ray.memory import keep_freed_memory

# Takes and frees 20 MiB again and again; prints the page faults of the last rounds.
FAULTS = """
import resource, sys
sys.path[:0] = {path!r}
from cmcl_ray.on_ray.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
import torch
def rounds():
    for _ in range(10):
        blocks = [torch.empty(5 * 2**18).fill_(1.0) for _ in range(4)]
rounds()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    done = subprocess.run([sys.executable, "-c", FAULTS.format(path=sys.path, keep=keep)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_taken_again_costs_no_page_faults():
    # 4 blocks of 5 MiB are 5,120 pages a round.
    assert faults(keep=True) < 1000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
