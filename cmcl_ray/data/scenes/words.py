"""The words of the scenes: for each concept one word a group, and sentences made of them.

The first word of a row is the common one, used by the first group and, as far as ``vocabulary_shift`` leaves it, by all.
No word stands for two concepts.
"""

from collections.abc import Mapping, Sequence

from cmcl_ray.data.scenes.draws import Draws

SHAPES = (
    ("circle", "disc", "ball", "dot", "orb", "roundel"),
    ("square", "box", "block", "quad", "cube", "tetragon"),
    ("triangle", "wedge", "pyramid", "delta", "cone", "spike"),
    ("diamond", "rhombus", "lozenge", "kite", "gem", "pip"),
    ("cross", "plus", "crux", "crosshair", "rood", "saltire"),
    ("ring", "hoop", "loop", "annulus", "band", "circlet"),
    ("heart", "valentine", "love", "cardioid", "sweetheart", "darling"),
    ("star", "asterisk", "sparkle", "hexagram", "twinkle", "starlet"),
    ("moon", "crescent", "sickle", "lune", "horn", "banana"),
    ("hourglass", "bowtie", "spool", "sandglass", "timer", "butterfly"),
)
COLOURS = (
    ("red", "crimson", "scarlet", "brick", "ruby", "cherry"),
    ("orange", "amber", "tangerine", "copper", "carrot", "apricot"),
    ("yellow", "golden", "lemon", "straw", "canary", "mustard"),
    ("green", "emerald", "lime", "olive", "jade", "mossy"),
    ("cyan", "teal", "turquoise", "verdigris", "aqua", "mint"),
    ("blue", "azure", "sapphire", "denim", "cobalt", "navy"),
    ("purple", "violet", "plum", "grape", "indigo", "lilac"),
    ("pink", "rose", "fuchsia", "salmon", "magenta", "blush"),
)
SIZES = (("small", "tiny", "little", "mini", "wee", "petite"), ("large", "big", "huge", "giant", "grand", "bulky"))
PLACES = (
    ("at the top left", "to the northwest", "up and leftward", "at half past ten", "in cell one", "in a1"),
    ("at the top", "to the north", "upward", "at twelve", "in cell two", "in b1"),
    ("at the top right", "to the northeast", "up and rightward", "at half past one", "in cell three", "in c1"),
    ("at the left", "to the west", "leftward", "at nine", "in cell four", "in a2"),
    ("in the centre", "amid everything", "at the core", "at the hub", "in cell five", "in b2"),
    ("at the right", "to the east", "rightward", "at three", "in cell six", "in c2"),
    ("at the bottom left", "to the southwest", "down and leftward", "at half past seven", "in cell seven", "in a3"),
    ("at the bottom", "to the south", "downward", "at six", "in cell eight", "in b3"),
    ("at the bottom right", "to the southeast", "down and rightward", "at half past four", "in cell nine", "in c3"),
)
GROUNDS = (
    ("plain", "blank", "bare", "clear", "empty", "smooth"),
    ("striped", "lined", "barred", "ruled", "banded", "streaked"),
    ("checked", "chequered", "gridded", "tiled", "quilted", "latticed"),
    ("dotted", "spotted", "speckled", "freckled", "pocked", "studded"),
    ("framed", "bordered", "rimmed", "edged", "boxed", "enclosed"),
)
# The words that hold a sentence together shift with the others.
SENTENCE = (
    ("background", "board", "backdrop", "paper", "field", "canvas"),
    ("picture", "sketch", "sign", "print", "drawing", "card"),
    ("with", "bearing", "showing", "having", "holding", "carrying"),
    ("and", "beside", "near", "alongside", "next to", "besides"),
)
KINDS: Mapping[str, Sequence[Sequence[str]]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "place": PLACES,
    "ground": GROUNDS,
    "sentence": SENTENCE,
}
MAX_GROUPS = 6

# How a thing is told, the sentence around the things, and the sentence without the ground. Each form starts in its own way, so
# captions of one image that use different forms differ.
FORMS = (
    ("a {size} {colour} {shape} {place}", "{things} on a {ground} {background}", "{things}"),
    ("{place} a {size} {colour} {shape}", "{ground} {background} {with} {things}", "{background} {with} {things}"),
    (
        "one {colour} {shape} which is {size} {place}",
        "a {picture} of {things} over a {ground} {background}",
        "a {picture} of {things}",
    ),
    ("a {shape} {place} in {size} {colour}", "here is {things} in front of a {ground} {background}", "here is {things}"),
    (
        "a {size} {shape} {place} coloured {colour}",
        "this {picture} has {things} and its {background} is {ground}",
        "this {picture} has {things}",
    ),
    ("{place} one {size} {shape} in {colour}", "look for {things} where the {background} is {ground}", "look for {things}"),
)

Lexicon = Mapping[str, Sequence[str]]


def lexicon(group: int, shift: int) -> Lexicon:
    """Return the words one group uses, by kind.

    Args:
        group: position of the group, below MAX_GROUPS; the first one always uses the common words.
        shift: of 256 words of each kind, how many the group replaces by its own.
    """
    words: dict[str, Sequence[str]] = {}
    for kind, rows in KINDS.items():
        order = sorted(range(len(rows)), key=lambda row: Draws("words", group, rows[row][0]).raw(8))
        own = set(order[: (len(rows) * shift + 128) >> 8])
        words[kind] = [row[group] if i in own else row[0] for i, row in enumerate(rows)]
    return words
