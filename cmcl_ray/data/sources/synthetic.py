"""Procedurally drawn scenes with composed captions: a stream of tasks that needs no download.

Every group draws from the same shapes, colours, sizes, places and grounds, but in its own style and, in part, with its own
words. So the next group uses the same directions of the embedding space for other pixels: fine-tuning on it forgets.
"""

import numpy as np
import pyarrow as pa

from cmcl_ray.data.pairs import make_pairs
from cmcl_ray.data.scenes.captions import compose_captions
from cmcl_ray.data.scenes.draw import draw_scene
from cmcl_ray.data.scenes.draws import Draws
from cmcl_ray.data.scenes.plan import Scene, plan_scenes
from cmcl_ray.data.scenes.png import encode_png
from cmcl_ray.data.scenes.styles import STYLES, shifted
from cmcl_ray.data.scenes.words import FORMS, MAX_GROUPS, lexicon
from cmcl_ray.data.sources.base import REJECTED, Source, SourceData
from cmcl_ray.errors import ConfigError


class Synthetic(Source):
    """Scenes of one or two objects in three to six drawing styles; the same bytes for the same settings on any machine.

    No description occurs twice in a stream, so within a group the first caption of an image fits that image alone.

    Args:
        groups: number of task groups, 1 to 6: poster, chalkboard, neon, sepia, blueprint, pastel.
        images_per_group: training images of the first group.
        val_images_per_group: validation images of each group.
        test_images_per_group: test images of each group; they stay the same when images_per_group changes.
        captions_per_image: captions of each image, 1 to 6, all different.
        image_size: height and width in pixels, 16 to 256.
        two_objects: share of scenes with two objects, 0 to 1.
        domain_shift: how far each group's palette, paper, outline and geometry are from the first group's, 0 to 1.
        vocabulary_shift: share of the words for which a group uses its own synonym, 0 to 1.
        imbalance: each group has 1 / (1 + imbalance) of the training images of the one before, 0 to 1.
        difficulty: 0 to 1: noise, clutter, scenes that differ in one attribute only, captions that leave a part out (never an
            image's first).
        seed: another seed gives other scenes; styles and words stay.
    """

    def __init__(
        self,
        groups: int = 3,
        images_per_group: int = 1000,
        val_images_per_group: int = 100,
        test_images_per_group: int = 300,
        captions_per_image: int = 3,
        *,
        image_size: int = 32,
        two_objects: float = 0.5,
        domain_shift: float = 0.5,
        vocabulary_shift: float = 0.3,
        imbalance: float = 0.0,
        difficulty: float = 0.0,
        seed: int = 0,
    ) -> None:
        _check("groups", groups, 1, MAX_GROUPS)
        _check("images_per_group", images_per_group, 1, 1_000_000)
        _check("val_images_per_group", val_images_per_group, 0, 1_000_000)
        _check("test_images_per_group", test_images_per_group, 0, 1_000_000)
        _check("captions_per_image", captions_per_image, 1, len(FORMS))
        _check("image_size", image_size, 16, 256)
        shares = {
            "two_objects": two_objects,
            "domain_shift": domain_shift,
            "vocabulary_shift": vocabulary_shift,
            "imbalance": imbalance,
            "difficulty": difficulty,
        }
        for name, value in shares.items():
            _check(name, value, 0, 1)
        # Whole numbers from here on.
        self._of_256 = {name: int(value * 256 + 0.5) for name, value in shares.items()}
        self._counts = (test_images_per_group, val_images_per_group, images_per_group)
        self._groups = groups
        self._captions = captions_per_image
        self._size = image_size
        self._seed = seed

    def read(self) -> SourceData:
        """Draw all images.

        Raises:
            DataError: there are fewer different scenes than images asked for.
        """
        images: dict[str, list[str | bytes]] = {"image_id": [], "image": []}
        pairs: dict[str, list[str]] = {name: [] for name in ("pair_id", "image_id", "caption", "group", "split")}
        for group, scenes in enumerate(self._plan()):
            name = STYLES[group].name
            style = shifted(STYLES[group], self._of_256["domain_shift"])
            words = lexicon(group, self._of_256["vocabulary_shift"])
            for number, (split, scene) in enumerate(scenes):
                image_id = f"synthetic_{name}_{number:06d}"
                draws = Draws("image", self._seed, name, number)
                partial = self._of_256["difficulty"] // 2
                captions = compose_captions(scene, draws, words, self._captions, partial)
                pixels = draw_scene(scene, style, self._size, draws, self._of_256["difficulty"])
                images["image_id"].append(image_id)
                images["image"].append(encode_png(pixels))
                for i, caption in enumerate(captions):
                    for column, value in zip(pairs, (f"{image_id}_c{i}", image_id, caption, name, split), strict=True):
                        pairs[column].append(value)
        image_table = pa.table({"image_id": images["image_id"], "image": pa.array(images["image"], pa.large_binary())})
        return SourceData(make_pairs(pa.table(pairs), image_table), REJECTED.empty_table())

    def _plan(self) -> list[list[tuple[str, Scene]]]:
        """Choose split and scene of every image, by group; test first, so that more training images leave it as it is."""
        taken: set[Scene] = set()
        planned = []
        for group in range(self._groups):
            test, val, train = self._counts
            train = max(train * 256**group // (256 + self._of_256["imbalance"]) ** group, 1)
            rows: list[tuple[str, Scene]] = []
            for split, count in (("test", test), ("val", val), ("train", train)):
                draws = Draws("plan", self._seed, STYLES[group].name, split)
                scenes = plan_scenes(draws, count, taken, self._of_256["two_objects"], self._of_256["difficulty"] // 2)
                rows += [(split, scene) for scene in scenes]
            planned.append(rows)
        return planned


def _check(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high or np.isnan(value):
        raise ConfigError(f"stream.source.{name} is {value}; expected {low} to {high}; correct it")
