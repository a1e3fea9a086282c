"""The synthetic source: the same bytes everywhere, and knobs that do what they say."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.data.pairs import Pairs
from cmcl_ray.data.sources.synthetic import Synthetic
from cmcl_ray.errors import ConfigError, DataError

GOLDEN = "b5c6bf409f4c54f34cb729bc73fd10866cc825d18fb3f525695e3b01bf9f2fea"


def small(**changes: object) -> Pairs:
    settings = {"groups": 3, "images_per_group": 12, "val_images_per_group": 3, "test_images_per_group": 5, **changes}
    source: Synthetic = build_component(ComponentSpec("source", "synthetic", settings, "stream.source"))
    return source.read().pairs


def pixels(pairs: Pairs, prefix: str = "") -> np.ndarray:
    rows = zip(pairs.images.column("image_id").to_pylist(), pairs.images.column("image").to_pylist(), strict=True)
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for name, data in rows if name.startswith(prefix)]).astype(int)


def test_images_and_captions_are_the_same_bytes_on_any_machine() -> None:
    pairs = small(groups=6, difficulty=0.5, imbalance=0.3, seed=7)
    digest = hashlib.sha256()
    for data in pairs.images.column("image").to_pylist():
        digest.update(data)
    for caption in pairs.texts("caption"):
        digest.update(caption.encode() + b"\n")
    assert digest.hexdigest() == GOLDEN


def test_counts_ids_and_columns() -> None:
    data = Synthetic(3, 12, 3, 5, 2).read()
    assert data.rejected.num_rows == 0
    assert data.pairs.pairs.column_names == ["pair_id", "image_id", "caption", "group", "split"]
    assert len(data.pairs) == 3 * 20 * 2
    assert data.pairs.texts("pair_id")[:3] == [
        "synthetic_poster_000000_c0",
        "synthetic_poster_000000_c1",
        "synthetic_poster_000001_c0",
    ]
    table = data.pairs.pairs.group_by(["group", "split"]).aggregate([("pair_id", "count")]).to_pylist()
    assert {(row["group"], row["split"]): row["pair_id_count"] for row in table} == {
        (group, split): 2 * count
        for group in ("poster", "chalkboard", "neon")
        for split, count in (("train", 12), ("val", 3), ("test", 5))
    }


def test_first_captions_are_unique_over_the_whole_stream() -> None:
    pairs = small(images_per_group=150, vocabulary_shift=0.0, captions_per_image=6)
    captions = pairs.texts("caption")
    assert len(set(captions)) == len(captions)


def test_another_seed_gives_other_scenes_and_more_training_images_leave_the_test_as_it_is() -> None:
    base, other, more = small(), small(seed=1), small(images_per_group=30)
    assert base.texts("caption") != other.texts("caption")
    assert base.images.slice(0, 5).equals(more.images.slice(0, 5))


def test_domain_shift_moves_pixels_and_leaves_captions() -> None:
    near, far = small(domain_shift=0.0), small(domain_shift=1.0)
    assert near.texts("caption") == far.texts("caption")
    np.testing.assert_array_equal(pixels(near, "synthetic_poster"), pixels(far, "synthetic_poster"))
    means = [[pixels(found, f"synthetic_{name}").mean() for name in ("poster", "neon")] for found in (near, far)]
    assert abs(means[0][0] - means[0][1]) < 10
    assert abs(means[1][0] - means[1][1]) > 60


def test_vocabulary_shift_moves_captions_and_leaves_pixels() -> None:
    near, far = small(vocabulary_shift=0.0), small(vocabulary_shift=1.0)
    np.testing.assert_array_equal(pixels(near), pixels(far))
    seen = [{word for caption in found.texts("caption")[-60:] for word in caption.split()} for found in (near, far)]
    assert not ({"red", "blue", "green", "small", "large", "circle", "star"} & seen[1])
    assert {"small", "large"} <= seen[0]


def test_imbalance_makes_later_groups_smaller_but_for_their_tests() -> None:
    pairs = small(images_per_group=13, imbalance=1.0)
    table = pairs.pairs.group_by(["group", "split"]).aggregate([("image_id", "count_distinct")]).to_pylist()
    counts = {(row["group"], row["split"]): row["image_id_count_distinct"] for row in table}
    assert [counts[group, "train"] for group in ("poster", "chalkboard", "neon")] == [13, 6, 3]
    assert [counts[group, "test"] for group in ("poster", "chalkboard", "neon")] == [5, 5, 5]


def test_difficulty_adds_noise() -> None:
    easy, hard = pixels(small(difficulty=0.0)), pixels(small(difficulty=1.0))
    rough = [np.abs(np.diff(found, axis=2)).mean() for found in (easy, hard)]
    assert rough[1] > 2 * rough[0]


def test_too_many_images_for_the_space_of_scenes_are_refused() -> None:
    with pytest.raises(DataError, match="no unused scene left"):
        Synthetic(1, 7300, 0, 0, two_objects=0.0).read()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"groups": 7}, r"source.groups is 7; expected 1 to 6"),
        ({"captions_per_image": 0}, r"source.captions_per_image is 0; expected 1 to 6"),
        ({"image_size": 8}, r"source.image_size is 8; expected 16 to 256"),
        ({"domain_shift": 1.5}, r"source.domain_shift is 1.5; expected 0 to 1"),
        ({"difficulty": float("nan")}, r"source.difficulty is nan; expected 0 to 1"),
        ({"images_per_group": 0}, r"source.images_per_group is 0; expected 1 to 1000000"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        small(**settings)
