"""Scenes drawn into pixels with whole numbers only: no rounding that a compiler or a library version could change.

Things are drawn in their own coordinates, where +-256 is the radius, on a grid of two by two points a pixel; the share of
points inside a shape gives soft rims. Lengths on the image are in 1/16 pixel.
"""

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cmcl_ray.data.scenes.draws import Draws
from cmcl_ray.data.scenes.plan import Scene, Thing
from cmcl_ray.data.scenes.styles import WHEEL, Colour, Style, mix, wheel_colour

# H, W: height and width of the image; h, w: of the window around one thing, in points.
Plane = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def _triangle(u: Plane, v: Plane) -> Mask:
    return (v <= 216) & (2 * abs(u) <= v + 256)


def _star(u: Plane, v: Plane) -> Mask:
    # Two triangles, one of them upside down.
    return ((v <= 128) & (7 * abs(u) <= 4 * (v + 256))) | ((v >= -128) & (7 * abs(u) <= 4 * (256 - v)))


def _heart(u: Plane, v: Plane) -> Mask:
    # Two lobes and a tip.
    lobes = (abs(u) - 120) ** 2 + (v + 90) ** 2 <= 136**2
    return lobes | ((v >= -70) & (10 * abs(u) <= 8 * (250 - v)))


def _moon(u: Plane, v: Plane) -> Mask:
    return (u * u + v * v <= 256**2) & ((u - 120) ** 2 + v * v > 216**2)


def _ring(u: Plane, v: Plane) -> Mask:
    squared = u * u + v * v
    return (squared <= 256**2) & (squared >= 140**2)


# In the order of words.SHAPES; v grows downwards.
SHAPE_MASKS: tuple[Callable[[Plane, Plane], Mask], ...] = (
    lambda u, v: u * u + v * v <= 256**2,
    lambda u, v: np.maximum(abs(u), abs(v)) <= 216,
    _triangle,
    lambda u, v: abs(u) * 4 + abs(v) * 3 <= 256 * 3,
    lambda u, v: (np.minimum(abs(u), abs(v)) <= 80) & (np.maximum(abs(u), abs(v)) <= 250),
    _ring,
    _heart,
    _star,
    _moon,
    lambda u, v: (abs(v) <= 236) & (abs(u) <= abs(v)),
)
_PLACES = (3, 8, 13)


def draw_scene(scene: Scene, style: Style, size: int, draws: Draws, difficulty: int) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: what to draw.
        style: how it looks.
        size: height and width in pixels.
        draws: choices of this image alone: exact places, brightness, noise.
        difficulty: strength of noise and clutter, in 1/256.

    Returns:
        Pixels (size, size, 3).
    """
    image_HW3 = _ground(scene.ground, style, size, draws)
    for _ in range(difficulty * 8 >> 8):
        _speck(image_HW3, size, draws)
    for thing in scene.things:
        _draw_thing(image_HW3, thing, style, size, draws)
    tint, share = style.tint
    image_HW3 += (np.array(tint) - image_HW3) * share >> 8
    image_HW3 += draws.below(25) - 12
    if difficulty:
        noise = np.frombuffer(draws.raw(image_HW3.size), dtype=np.uint8).astype(np.int64).reshape(image_HW3.shape)
        image_HW3 += (noise - 128) * difficulty >> 9
    return image_HW3.clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _pixels(size: int) -> tuple[Plane, Plane]:
    y, x = np.mgrid[0:size, 0:size]
    return y.astype(np.int64), x.astype(np.int64)


def _ground(kind: int, style: Style, size: int, draws: Draws) -> Plane:
    y, x = _pixels(size)
    cell = max(size // 8, 2)
    down, right = draws.below(cell), draws.below(cell)
    rows, columns = (y + down) // cell, (x + right) // cell
    rim = max(size // 16, 1)
    if kind == 0:
        inked = np.zeros((size, size), dtype=np.bool_)
    elif kind == 1:
        inked = rows % 2 == 0
    elif kind == 2:
        inked = (rows + columns) % 2 == 0
    elif kind == 3:
        inked = ((y + down) % cell < cell // 2) & ((x + right) % cell < cell // 2)
    else:
        inked = (np.minimum(y, x) < rim) | (np.maximum(y, x) >= size - rim)
    return np.where(inked[:, :, None], np.array(style.ink), np.array(style.paper)).astype(np.int64)


def _speck(image_HW3: Plane, size: int, draws: Draws) -> None:
    side = max(size // 16, 1)
    top, left = draws.below(size - side), draws.below(size - side)
    image_HW3[top : top + side, left : left + side] = WHEEL[draws.below(len(WHEEL))]


def _draw_thing(image_HW3: Plane, thing: Thing, style: Style, size: int, draws: Draws) -> None:
    radius = size * 3 if thing.size else size * 7 // 4
    slack = size * 16 // 40
    middle_y = size * _PLACES[thing.place // 3] + draws.below(2 * slack + 1) - slack
    middle_x = size * _PLACES[thing.place % 3] + draws.below(2 * slack + 1) - slack
    # A sheared or turned shape reaches past its radius.
    reach = radius * 3 // 2
    top, bottom = max((middle_y - reach) // 16, 0), min((middle_y + reach) // 16 + 1, size)
    left, right = max((middle_x - reach) // 16, 0), min((middle_x + reach) // 16 + 1, size)
    y_h1 = ((np.arange(2 * top, 2 * bottom) * 8 + 4 - middle_y) * 256 // radius)[:, None]
    x_1w = ((np.arange(2 * left, 2 * right) * 8 + 4 - middle_x) * 256 // radius)[None, :]
    a, b, c, d = style.matrix
    u_hw, v_hw = (a * x_1w + b * y_h1) >> 8, (c * x_1w + d * y_h1) >> 8
    shape = SHAPE_MASKS[thing.shape]
    outer_hw = shape(u_hw, v_hw)
    window = image_HW3[top:bottom, left:right]
    colour = wheel_colour(thing.colour, style.hue)
    _paint(window, outer_hw, mix(colour, *style.edge))
    _paint(window, outer_hw & shape(u_hw * 3 // 2, v_hw * 3 // 2), mix(colour, *style.core))


def _paint(window_HW3: Plane, mask_hw: Mask, colour: Colour) -> None:
    height, width = window_HW3.shape[:2]
    share_HW = mask_hw.reshape(height, 2, width, 2).sum(axis=(1, 3), dtype=np.int64)
    window_HW3 += (np.array(colour) - window_HW3) * share_HW[:, :, None] // 4
