"""Which scenes are drawn: one or two things on a ground, no description twice in a stream."""

from typing import NamedTuple

from cmcl_ray.data.scenes.draws import Draws
from cmcl_ray.data.scenes.words import COLOURS, GROUNDS, PLACES, SHAPES, SIZES
from cmcl_ray.errors import DataError

# At 99 % of a space used up, a free scene is missed in 1,000 tries with probability 4e-5.
TRIES = 1000
ATTRIBUTES = (len(SHAPES), len(COLOURS), len(SIZES), len(PLACES))
PLACE = 3


class Thing(NamedTuple):
    """One object of a scene; each field is a position in the word tables."""

    shape: int
    colour: int
    size: int
    place: int


class Scene(NamedTuple):
    """A full description: things in order of place (so that equal scenes are equal values) and the kind of ground."""

    things: tuple[Thing, ...]
    ground: int


def plan_scenes(draws: Draws, count: int, taken: set[Scene], pair_share: int, near_share: int) -> list[Scene]:
    """Choose scenes that differ from each other and from those already taken.

    Args:
        draws: where the choices come from.
        count: number of scenes.
        taken: scenes used so far; the new ones are added to it.
        pair_share: of 256 scenes, how many hold two things.
        near_share: of 256 scenes, how many copy an earlier one of this call but for a single attribute.

    Raises:
        DataError: no free scene is found: the space of descriptions is used up.
    """
    scenes: list[Scene] = []
    while len(scenes) < count:
        for _ in range(TRIES):
            near = bool(scenes) and draws.chance(near_share)
            scene = _near_miss(draws, scenes[draws.below(len(scenes))]) if near else _any_scene(draws, pair_share)
            if scene not in taken:
                break
        else:
            raise DataError(
                f"the synthetic stream has no unused scene left after {len(taken)} images; expected every image to have a "
                "description of its own; lower images_per_group or groups, or raise two_objects"
            )
        taken.add(scene)
        scenes.append(scene)
    return scenes


def _any_scene(draws: Draws, pair_share: int) -> Scene:
    things = [_any_thing(draws, draws.below(len(PLACES)))]
    if draws.chance(pair_share):
        things.append(_any_thing(draws, _another(draws, things[0].place, len(PLACES))))
    return _scene(things, draws.below(len(GROUNDS)))


def _any_thing(draws: Draws, place: int) -> Thing:
    return Thing(draws.below(len(SHAPES)), draws.below(len(COLOURS)), draws.below(len(SIZES)), place)


def _near_miss(draws: Draws, scene: Scene) -> Scene:
    things = list(scene.things)
    at, field = draws.below(len(things)), draws.below(len(ATTRIBUTES) + 1)
    if field == len(ATTRIBUTES):
        return _scene(things, _another(draws, scene.ground, len(GROUNDS)))
    changed = list(things[at])
    changed[field] = _another(draws, changed[field], ATTRIBUTES[field])
    if changed[PLACE] in [thing.place for i, thing in enumerate(things) if i != at]:
        # Two things never share a place: the move becomes a change of shape.
        changed[PLACE] = things[at].place
        changed[0] = _another(draws, changed[0], ATTRIBUTES[0])
    things[at] = Thing(*changed)
    return _scene(things, scene.ground)


def _scene(things: list[Thing], ground: int) -> Scene:
    return Scene(tuple(sorted(things, key=lambda thing: thing.place)), ground)


def _another(draws: Draws, value: int, limit: int) -> int:
    return (value + 1 + draws.below(limit - 1)) % limit
