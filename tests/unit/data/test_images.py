"""From stored images, features and captions to arrays."""

import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cmcl_ray.data.images import Captions, DataFacts, Features, Inputs, Pixels, decode, describe_inputs, facts_of
from cmcl_ray.data.pairs import Pairs, make_pairs
from cmcl_ray.data.tokens import HashTokenizer
from cmcl_ray.errors import DataError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def flat(mode: str, colour: object, size: tuple[int, int] = (7, 9)) -> Image.Image:
    return Image.new(mode, size, colour)


def half_red() -> Image.Image:
    """Left half red, right half see-through."""
    image = flat("RGBA", (0, 0, 255, 0), (8, 8))
    image.paste((*RED, 255), (0, 0, 4, 8))
    return image


def pairs_of(images: dict[str, list[object]], **pair_columns: pa.Array) -> Pairs:
    count = len(next(iter(images.values())))
    names = [f"i{i}" for i in range(count)]
    pairs = pa.table({"pair_id": [f"p{i}" for i in range(count)], "image_id": names, "caption": names, **pair_columns})
    return make_pairs(pairs, pa.table({"image_id": names, **images}))


def colour_at(pixels: np.ndarray, row: int, column: int) -> tuple[int, ...]:
    return tuple(int(value) for value in pixels[:, row, column])


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (flat("RGB", RED), RED),
        (flat("RGBA", (*GREEN, 255)), GREEN),
        (flat("L", 77), (77, 77, 77)),
        (flat("LA", (77, 255)), (77, 77, 77)),
        (flat("1", 1), WHITE),
        (flat("RGB", RED).convert("P"), RED),
        (Image.fromarray(np.full((9, 7), 40000, dtype=np.uint16)), (156, 156, 156)),
    ],
    ids=["rgb", "rgba", "grey", "grey and alpha", "one bit", "palette", "16-bit grey"],
)
def test_every_kind_of_png_becomes_rgb(image: Image.Image, colour: tuple[int, ...]) -> None:
    pixels = decode(encoded(image), 5)
    assert pixels.shape == (3, 5, 5)
    assert pixels.dtype == np.uint8
    assert all(colour_at(pixels, row, column) == colour for row in range(5) for column in range(5))


@pytest.mark.parametrize("form", ["PNG", "palette", "WEBP"])
def test_transparent_parts_are_white(form: str) -> None:
    image = half_red()
    if form == "palette":
        indexed = Image.new("P", (8, 8), 1)
        indexed.putpalette([*RED, 0, 0, 255])
        indexed.paste(0, (0, 0, 4, 8))
        data = encoded(indexed, "PNG", transparency=1)
    else:
        data = encoded(image, form, **({"lossless": True} if form == "WEBP" else {}))
    pixels = decode(data, 8)
    assert colour_at(pixels, 3, 0) == RED
    assert colour_at(pixels, 3, 7) == WHITE


def test_half_transparent_is_half_white() -> None:
    assert colour_at(decode(encoded(flat("RGBA", (0, 0, 0, 51))), 4), 1, 2) == (204, 204, 204)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_near_its_colours(mode: str) -> None:
    image = flat("RGB", (200, 100, 50), (640, 400))
    image.paste((20, 40, 160), (320, 0, 640, 400))
    pixels = decode(encoded(image.convert(mode), "JPEG", quality=95), 16)
    expected = np.asarray(image.convert("L").convert("RGB") if mode == "L" else image)
    for column, at in ((2, 10), (13, 630)):
        assert np.abs(pixels[:, 8, column].astype(int) - expected[200, at].astype(int)).max() <= 6


def test_an_image_of_the_size_asked_for_is_not_touched() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(values)), 6), values.transpose(2, 0, 1))


def test_an_image_is_squashed_to_the_square_and_keeps_its_sides() -> None:
    image = flat("RGB", RED, (40, 10))
    image.paste(GREEN, (20, 0, 40, 10))
    pixels = decode(encoded(image), 8)
    assert colour_at(pixels, 4, 0) == RED
    assert colour_at(pixels, 4, 7) == GREEN
    enlarged = decode(encoded(image), 80)
    assert enlarged.shape == (3, 80, 80)
    assert colour_at(enlarged, 40, 5) == RED


def test_pixels_come_in_the_order_asked_for_from_bytes_and_files(tmp_path: Path) -> None:
    place = tmp_path / "green.png"
    place.write_bytes(encoded(flat("RGB", GREEN)))
    images = {
        "image": [encoded(flat("RGB", RED)), None, encoded(flat("RGB", WHITE))],
        "image_uri": [None, str(place), "/lost.png"],
    }
    pixels = Pixels(4).read(pairs_of(images), np.array([2, 0, 1, 0]))
    assert pixels.shape == (4, 3, 4, 4)
    assert [colour_at(one, 1, 2) for one in pixels] == [WHITE, RED, GREEN, RED]
    assert Pixels(4).read(pairs_of(images), np.empty(0, dtype=np.int64)).shape == (0, 3, 4, 4)


def test_an_image_that_does_not_decode_is_named() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)))
    for broken in (b"no image", b"", whole[: len(whole) // 2], whole[:60] + b"\xff" * 40 + whole[100:]):
        pairs = pairs_of({"image": [whole, broken]})
        with pytest.raises(DataError, match=r"image 'i1' does not decode .* expected a PNG, JPEG .* check_images: true"):
            Pixels(8).read(pairs, np.array([0, 1]))


def test_an_image_that_is_nowhere_is_named(tmp_path: Path) -> None:
    lost = str(tmp_path / "lost.png")
    pairs = pairs_of({"image": [None, None], "image_uri": [None, lost]})
    with pytest.raises(DataError, match=r"image 'i0' has neither bytes nor a URI; expected one of them; give the image"):
        Pixels(8).read(pairs, np.array([0]))
    with pytest.raises(DataError, match=rf"image 'i1' cannot be read from {lost}; expected an image file there; bring it back"):
        Pixels(8).read(pairs, np.array([1]))


def vectors(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@pytest.mark.parametrize("chunks", [[7], [2, 5], [3, 0, 4]])
def test_features_of_sliced_tables_are_those_of_their_rows(chunks: list[int]) -> None:
    image_NF = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    text_NF = np.random.default_rng(1).standard_normal((9, 5)).astype(np.float32)
    text_NF[[2, 4]] = 0
    cuts = np.cumsum([1, *chunks])
    sliced = {
        name: pa.chunked_array([vectors(values)[first:last] for first, last in itertools.pairwise(cuts)])
        for name, values in (("image_features", image_NF), ("text_features", text_NF))
    }
    names = [f"i{i}" for i in range(7)]
    pairs = make_pairs(
        pa.table({"pair_id": names, "image_id": names, "caption": names, "text_features": sliced["text_features"]}),
        pa.table({"image_id": names, "image_features": sliced["image_features"]}),
    )
    rows = np.array([6, 0, 3, 3, 1])
    found = Features("image", 3).read(pairs, rows)
    assert found.dtype == np.float32
    assert np.array_equal(found, image_NF[1:8][rows])
    assert np.array_equal(Features("text", 5).read(pairs, rows), text_NF[1:8][rows])
    assert not Features("text", 5).read(pairs, np.array([1, 3])).any()
    assert Features("image", 3).read(pairs, rows[:0]).shape == (0, 3)
    assert facts_of(pairs) == DataFacts(3, 5)


def test_float64_features_become_float32() -> None:
    pairs = pairs_of({"image_features": vectors(np.array([[0.1, 2.0], [3.0, -4.0]]))})
    assert Features("image", 2).read(pairs, np.array([1, 0])).dtype == np.float32


def test_a_row_without_features_is_refused() -> None:
    column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pairs = pairs_of({"image_features": column})
    assert Features("image", 2).read(pairs, np.array([2, 0])).tolist() == [[3, 4], [1, 2]]
    with pytest.raises(DataError, match=r"1 of 2 rows have no image_features; expected a vector in every row; give them one"):
        Features("image", 2).read(pairs, np.array([0, 1]))


def test_facts_are_none_without_features_and_lists_of_any_length_are_refused() -> None:
    assert facts_of(pairs_of({"image": [b"x"]})) == DataFacts(None, None)
    pairs = pairs_of({"image_features": pa.array([[1.0, 2.0]], pa.list_(pa.float32()))})
    with pytest.raises(
        DataError, match=r"column image_features is list<.*>; expected a fixed-size list of float32; write it with"
    ):
        facts_of(pairs)


def test_captions_are_those_of_the_pair_rows() -> None:
    tokenizer = HashTokenizer(buckets=50, length=4)
    pairs = pairs_of({"image": [b"x", b"y", b"z"]})
    assert np.array_equal(Captions(tokenizer).read(pairs, np.array([2, 0])), tokenizer(["i2", "i0"]))


def test_readers_describe_what_makes_their_arrays_differ() -> None:
    readers = [Pixels(8), Pixels(9), Features("image", 8), Features("text", 8), Features("text", 9)]
    readers += [Captions(HashTokenizer(buckets=8)), Captions(HashTokenizer(buckets=9))]
    described = [repr(sorted(reader.describe().items())) for reader in readers]
    assert len(set(described)) == len(readers)
    inputs = Inputs(Pixels(8), Captions(HashTokenizer()))
    assert inputs.reader("image") is inputs.image
    assert inputs.reader("text") is inputs.text
    assert describe_inputs(inputs) == {"image": inputs.image.describe(), "text": inputs.text.describe()}
