"""Scenes: words, plans, captions, pixels, files."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmcl_ray.data.scenes import words
from cmcl_ray.data.scenes.captions import compose_captions
from cmcl_ray.data.scenes.draw import SHAPE_MASKS, draw_scene
from cmcl_ray.data.scenes.draws import Draws
from cmcl_ray.data.scenes.plan import Scene, Thing, plan_scenes
from cmcl_ray.data.scenes.png import encode_png
from cmcl_ray.data.scenes.styles import STYLES, WHEEL, shifted, wheel_colour
from cmcl_ray.errors import DataError

things = st.builds(Thing, st.integers(0, 9), st.integers(0, 7), st.integers(0, 1), st.integers(0, 8))
scenes = st.builds(
    lambda found, ground: Scene(tuple(sorted(found, key=lambda thing: thing.place)), ground),
    st.lists(things, min_size=1, max_size=2, unique_by=lambda thing: thing.place),
    st.integers(0, 4),
)


def test_draws_belong_to_their_position_alone() -> None:
    one, other = Draws("a", 1), Draws("a", 1)
    other.raw(7)
    assert [one.below(10) for _ in range(200)] == [other.below(10) for _ in range(200)]
    assert [Draws("a", 2).below(1000) for _ in range(3)] != [Draws("a", 1).below(1000) for _ in range(3)]


def test_draws_are_uniform() -> None:
    draws = Draws("uniform")
    counts = np.bincount([draws.below(7) for _ in range(7000)], minlength=7)
    assert counts.min() > 880
    assert counts.max() < 1120


def test_every_concept_has_a_word_a_group_and_no_word_has_two_concepts() -> None:
    rows = [row for kind in words.KINDS.values() for row in kind]
    assert {len(row) for row in rows} == {words.MAX_GROUPS} == {len(STYLES)}
    flat = [word for row in rows for word in row]
    assert len(flat) == len(set(flat))
    assert len(words.SHAPES) == len(SHAPE_MASKS) >= 8
    assert len(words.COLOURS) == len(WHEEL) >= 8


def test_a_lexicon_replaces_the_share_of_words_asked_for() -> None:
    common = words.lexicon(0, 256)
    assert words.lexicon(2, 0) == common == {kind: [row[0] for row in rows] for kind, rows in words.KINDS.items()}
    for kind, found in words.lexicon(2, 128).items():
        changed = sum(a != b for a, b in zip(found, common[kind], strict=True))
        assert changed == (len(found) + 1) // 2
    assert all(a != b for kind, found in words.lexicon(3, 256).items() for a, b in zip(found, common[kind], strict=True))


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(0, 5), st.integers(0, 256), st.integers(0, 1000))
def test_captions_of_an_image_differ_and_the_first_says_everything(scene: Scene, group: int, partial: int, seed: int) -> None:
    found = compose_captions(scene, Draws(seed), words.lexicon(group, 128), 6, partial)
    assert len(set(found)) == 6
    used = words.lexicon(group, 128)
    for thing in scene.things:
        for kind, value in zip(("shape", "colour", "size", "place"), thing, strict=True):
            assert used[kind][value] in found[0]
    assert used["ground"][scene.ground] in found[0]


def test_partial_captions_leave_a_part_out() -> None:
    scene = Scene((Thing(0, 0, 0, 0), Thing(1, 1, 1, 4)), 2)
    full = compose_captions(scene, Draws(3), words.lexicon(0, 0), 6, 0)
    partial = compose_captions(scene, Draws(3), words.lexicon(0, 0), 6, 256)
    assert full[0] == partial[0]
    assert all(len(a) > len(b) for a, b in zip(full[1:], partial[1:], strict=True))


def test_captions_say_an_before_a_vowel() -> None:
    scene = Scene((Thing(9, 1, 0, 0),), 0)
    texts = " | ".join(compose_captions(scene, Draws(1), words.lexicon(0, 0), 6, 0))
    assert "an hourglass" in texts
    assert "a hourglass" not in texts


@pytest.mark.parametrize("near", [0, 128])
def test_planned_scenes_are_all_different(near: int) -> None:
    taken: set[Scene] = set()
    first = plan_scenes(Draws("a"), 300, taken, 128, near)
    second = plan_scenes(Draws("b"), 200, taken, 128, near)
    assert len({*first, *second}) == 500 == len(taken)
    assert {len(scene.things) for scene in first} == {1, 2}
    assert all(len({thing.place for thing in scene.things}) == len(scene.things) for scene in first)


def test_a_used_up_space_of_scenes_is_refused() -> None:
    everything = 10 * 8 * 2 * 9 * 5
    taken: set[Scene] = set()
    plan_scenes(Draws("all"), everything - 150, taken, 0, 0)
    with pytest.raises(DataError, match=r"no unused scene left after 7\d\d\d images.*lower images_per_group"):
        plan_scenes(Draws("more"), 151, taken, 0, 0)


@pytest.mark.parametrize("shape", [(5, 7), (150, 170)])
def test_a_png_written_by_hand_decodes_to_its_pixels(shape: tuple[int, int]) -> None:
    pixels = np.frombuffer(Draws("pixels").raw(shape[0] * shape[1] * 3), dtype=np.uint8).reshape(*shape, 3)
    data = encode_png(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    assert len(zlib.decompress(data[start + 4 : start + 4 + length])) == shape[0] * (1 + 3 * shape[1])


def test_shapes_differ_from_each_other_at_the_small_size() -> None:
    style = STYLES[0]
    drawn = [draw_scene(Scene((Thing(shape, 0, 0, 4),), 0), style, 32, Draws("same"), 0) for shape in range(len(SHAPE_MASKS))]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one != other).any(axis=2).sum() >= 4


def test_shift_moves_a_style_from_plain_to_its_own() -> None:
    for style in STYLES:
        assert shifted(style, 0)._replace(name="") == STYLES[0]._replace(
            name="", edge=(style.edge[0], 0), core=(style.core[0], 0), tint=(style.tint[0], 0)
        )
        assert shifted(style, 256) == style
        for shift in range(0, 257, 32):
            mixed = shifted(style, shift)
            assert sum(mixed.paper) - sum(mixed.ink) >= 75


def test_turning_the_wheel_by_a_step_gives_the_neighbour() -> None:
    assert wheel_colour(7, 256) == WHEEL[0]
    assert wheel_colour(2, 0) == WHEEL[2]
    assert all(min(a, b) <= c <= max(a, b) for a, b, c in zip(WHEEL[0], WHEEL[1], wheel_colour(0, 100), strict=True))


@settings(max_examples=30, deadline=None)
@given(scenes, st.integers(0, 5), st.sampled_from([16, 33, 48]), st.integers(0, 256))
def test_any_scene_is_drawn(scene: Scene, group: int, size: int, difficulty: int) -> None:
    pixels = draw_scene(scene, STYLES[group], size, Draws("one"), difficulty)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, draw_scene(scene, STYLES[group], size, Draws("one"), difficulty))
