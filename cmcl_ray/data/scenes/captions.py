"""Captions composed from a scene: several forms, and at higher difficulty some that leave a part out."""

from cmcl_ray.data.scenes.draws import Draws
from cmcl_ray.data.scenes.plan import Scene, Thing
from cmcl_ray.data.scenes.words import FORMS, Lexicon

PARTS = ("size", "place", "ground", "thing")


def compose_captions(scene: Scene, draws: Draws, words: Lexicon, count: int, partial_share: int) -> list[str]:
    """Tell a scene in several different ways.

    Args:
        scene: what is in the image.
        draws: where the choices come from.
        words: the words of the image's group.
        count: number of captions, at most ``len(FORMS)``; each uses a form of its own, so all differ.
        partial_share: of 256 captions after the first, how many leave one part out; the first always says everything.
    """
    start = draws.below(len(FORMS))
    captions = []
    for i in range(count):
        backwards = draws.chance(128)
        without = PARTS[draws.below(len(PARTS))] if i and draws.chance(partial_share) else ""
        captions.append(_caption(scene, (start + i) % len(FORMS), words, backwards, without))
    return captions


def _caption(scene: Scene, form: int, words: Lexicon, backwards: bool, without: str) -> str:
    thing_form, whole, bare = FORMS[form]
    background, picture, with_word, and_word = words["sentence"]
    things = list(scene.things[::-1] if backwards else scene.things)
    if without == "thing" and len(things) > 1:
        things = things[:1]
    told = f" {and_word} ".join(_tell(thing, thing_form, words, without) for thing in things)
    sentence = bare if without == "ground" else whole
    ground = words["ground"][scene.ground]
    return _tidy(sentence.format(things=told, ground=ground, background=background, picture=picture, **{"with": with_word}))


def _tell(thing: Thing, form: str, words: Lexicon, without: str) -> str:
    return form.format(
        shape=words["shape"][thing.shape],
        colour=words["colour"][thing.colour],
        size="" if without == "size" else words["size"][thing.size],
        place="" if without == "place" else words["place"][thing.place],
    )


def _tidy(text: str) -> str:
    """Close the gaps of parts left out and set "an" before a vowel."""
    found = text.split()
    following = [*found[1:], ""]
    return " ".join(
        "an" if word == "a" and after.startswith(("a", "e", "i", "o", "hour")) else word
        for word, after in zip(found, following, strict=True)
    )
