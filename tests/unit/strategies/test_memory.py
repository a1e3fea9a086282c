"""Bottom-k: the same choice for any order and any cut, mergeable, uniform."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmcl_ray.strategies.mathematics.memory import key_of, smallest_keys

ids = st.lists(st.text(max_size=6), max_size=30)


@given(ids, ids, st.integers(1, 12), st.integers(0, 5))
def test_the_choice_over_a_union_is_the_choice_over_the_choices(one: list[str], other: list[str], count: int, salt: int) -> None:
    whole = smallest_keys(one + other, count, (salt,))
    merged = smallest_keys(smallest_keys(one, count, (salt,)) + smallest_keys(other, count, (salt,)), count, (salt,))
    assert merged == whole
    assert smallest_keys(reversed(one + other), count, (salt,)) == whole


@given(ids, st.integers(1, 12), st.integers(0, 5))
def test_a_choice_is_a_set_of_ids_and_a_smaller_one_is_its_beginning(names: list[str], count: int, salt: int) -> None:
    found = smallest_keys(names, count, (salt,))
    assert len(set(found)) == len(found) == min(count, len(set(names)))
    assert set(found) <= set(names)
    assert smallest_keys(names, count - 1, (salt,)) == found[: count - 1]
    keys = [key_of(name, (salt,)) for name in found]
    assert keys == sorted(keys)
    assert all(key_of(name, (salt,)) >= keys[-1] for name in set(names) - set(found))


def test_every_id_is_chosen_equally_often_over_salts() -> None:
    names, salts = [f"image-{i:03d}" for i in range(50)], 2000
    counts = dict.fromkeys(names, 0)
    for salt in range(salts):
        for name in smallest_keys(names, 5, (0, salt)):
            counts[name] += 1
    assert sum(counts.values()) == 5 * salts
    # Four standard deviations of a share of 0.1 over 2000 draws.
    assert all(abs(count / salts - 0.1) < 0.027 for count in counts.values())


def test_keys_do_not_move() -> None:
    assert key_of("image-000", (0, 0)) == 3458307752480679723
    assert len({key_of(name, salt) for name in ("a", "b") for salt in ((0,), (1,), (0, 0), (0, 1), (1, 0))}) == 10


@pytest.mark.parametrize("count", [0, 1, 9])
def test_nothing_gives_nothing(count: int) -> None:
    assert smallest_keys([], count, (0,)) == []
