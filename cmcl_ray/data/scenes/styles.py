"""How the groups look: one drawing style a group, the first one plain.

All numbers are whole; shares and matrices are in 1/256, hue shifts in 1/256 of a step between two neighbours of the wheel.
"""

from typing import NamedTuple

Colour = tuple[int, int, int]

# Neighbours of the wheel are neighbours in hue; the order is that of words.COLOURS.
WHEEL: tuple[Colour, ...] = (
    (222, 38, 38),
    (240, 128, 20),
    (232, 208, 28),
    (44, 164, 52),
    (40, 196, 204),
    (42, 82, 220),
    (134, 48, 190),
    (244, 112, 180),
)


class Style(NamedTuple):
    """One group's look.

    Args:
        name: the group's name.
        paper: colour of the ground.
        ink: colour of the ground's pattern, darker than the paper in every style, so that no mixture of styles hides it.
        hue: how far colours are turned on the wheel.
        edge: colour mixed into the rim of a thing, and its share.
        core: colour mixed into the inside of a thing, and its share.
        matrix: the linear map on a thing's own coordinates, row by row.
        tint: colour mixed into everything, and its share.
    """

    name: str
    paper: Colour
    ink: Colour
    hue: int
    edge: tuple[Colour, int]
    core: tuple[Colour, int]
    matrix: tuple[int, int, int, int]
    tint: tuple[Colour, int]


_NONE: tuple[Colour, int] = ((0, 0, 0), 0)
_STRAIGHT = (256, 0, 0, 256)

STYLES = (
    Style("poster", (240, 238, 232), (204, 204, 208), 0, _NONE, _NONE, _STRAIGHT, _NONE),
    Style("chalkboard", (44, 76, 66), (8, 24, 18), 512, ((255, 255, 255), 96), ((44, 76, 66), 208), (256, 72, -40, 256), _NONE),
    Style("neon", (44, 22, 74), (20, 8, 34), 1024, _NONE, ((255, 255, 255), 192), (236, -100, 100, 236), ((90, 0, 130), 24)),
    Style("sepia", (206, 176, 132), (160, 126, 84), 256, ((60, 34, 14), 230), _NONE, (320, 0, 0, 224), ((150, 110, 60), 56)),
    Style("blueprint", (30, 74, 150), (8, 34, 92), 1280, ((250, 250, 255), 256), _NONE, (256, 0, 0, -256), ((30, 74, 150), 40)),
    Style(
        "pastel",
        (250, 214, 226),
        (222, 172, 196),
        1536,
        ((255, 255, 255), 150),
        ((255, 255, 255), 110),
        (236, 100, -100, 236),
        _NONE,
    ),
)


def shifted(style: Style, shift: int) -> Style:
    """Return a style that lies between the plain one and the given one.

    Args:
        style: the style at full shift.
        shift: how far, in 1/256; 0 gives the plain style under the given name.
    """
    plain = STYLES[0]
    return Style(
        style.name,
        mix(plain.paper, style.paper, shift),
        mix(plain.ink, style.ink, shift),
        style.hue * shift >> 8,
        (style.edge[0], style.edge[1] * shift >> 8),
        (style.core[0], style.core[1] * shift >> 8),
        _mix_matrix(style.matrix, shift),
        (style.tint[0], style.tint[1] * shift >> 8),
    )


def _mix_matrix(matrix: tuple[int, int, int, int], shift: int) -> tuple[int, int, int, int]:
    a, b, c, d = (start + ((end - start) * shift >> 8) for start, end in zip(_STRAIGHT, matrix, strict=True))
    # Half-way to a mirrored matrix all of it would vanish: such a style is mirrored from the half on, and upright before it.
    return a, b, c, d if matrix[3] > 0 else (-256 if shift >= 128 else 256)


def mix(one: Colour, other: Colour, share: int) -> Colour:
    """Mix two colours; ``share`` of the other one in 1/256."""
    red, green, blue = (a + ((b - a) * share >> 8) for a, b in zip(one, other, strict=True))
    return red, green, blue


def wheel_colour(index: int, hue: int) -> Colour:
    """Return a colour of the wheel after turning it; between two neighbours their mixture."""
    step, rest = divmod(index * 256 + hue, 256)
    return mix(WHEEL[step % len(WHEEL)], WHEEL[(step + 1) % len(WHEEL)], rest)
