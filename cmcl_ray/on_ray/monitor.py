"""Figures from worker processes to the driver's display: workers tell, the driver asks; nobody waits."""

from collections.abc import Mapping

import ray

Reading = tuple[str, int, int, dict[str, float]]


@ray.remote(num_cpus=0)
class Monitor:
    """Holds the last figures of each stage."""

    def __init__(self) -> None:
        self._stages: dict[str, Reading] = {}
        self._failure = ""

    def fail(self, text: str) -> None:
        """Take the text of an error the user can put right."""
        self._failure = self._failure or text

    def tell(self, stage: str, done: int, total: int, facts: Mapping[str, float]) -> None:
        """Take the newest figures of a stage."""
        self._stages[stage] = (stage, done, total, dict(facts))

    def ask(self) -> tuple[list[Reading], str]:
        """Return what changed since the last call, and the text of an error or an empty one."""
        readings = list(self._stages.values())
        self._stages.clear()
        return readings, self._failure
