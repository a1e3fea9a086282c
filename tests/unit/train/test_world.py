"""One process as a world of its own, and devices by name."""

import pytest
import torch

from cmcl_ray.errors import ConfigError, ResourceError
from cmcl_ray.train.world import World, choose_device


def test_a_single_process_is_rank_0_of_1() -> None:
    world = World.current("cpu")
    assert (world.rank, world.size, world.is_leader, world.device) == (0, 1, True, torch.device("cpu"))
    assert World() == world
    assert not World(rank=1, size=2).is_leader


def test_what_needs_no_others_comes_back_as_it_was() -> None:
    value = torch.tensor([1.0, 2.0])
    world = World()
    world.barrier()
    assert world.mean(value) is value
    assert world.from_leader("here") == "here"


def test_a_device_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="device is 'gpu'; expected auto, cpu or cuda; correct it"):
        choose_device("gpu")


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ResourceError, match="device is 'cuda:1', but this process sees no GPU"):
        choose_device("cuda:1")
