"""Real data: the emoji tables give the counts of their description. Skipped where CMCL_DATA does not hold them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmcl_ray.components import ComponentSpec, build_component, build_settings
from cmcl_ray.config import load_config
from cmcl_ray.data.sources.base import SourceData
from cmcl_ray.data.sources.table import Table
from cmcl_ray.data.splits import assign_splits
from cmcl_ray.data.stream import StreamSettings, build_stream

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("CMCL_DATA", REPOSITORY.parent / "shared" / "data"))
IMAGES = {"Animals & Nature": 133, "Food & Drink": 115, "Travel & Places": 210, "Objects": 232, "Activities": 79, "Symbols": 219}

pytestmark = pytest.mark.skipif(
    not (DATA / "emoji").is_dir(), reason=f"{DATA / 'emoji'} not found; set CMCL_DATA to the folder of emoji/"
)


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("config") / "emoji.yaml"
    path.write_text(f"data:\n  root: {DATA / 'emoji'}\nstream: emoji\n")
    loaded: dict[str, Any] = load_config(str(path))["stream"]
    return loaded


@pytest.fixture(scope="module")
def data(section: dict[str, Any]) -> SourceData:
    params = {key: value for key, value in section["source"].items() if key != "name"}
    source: Table = build_component(ComponentSpec("source", section["source"]["name"], params, "stream.source"))
    return source.read()


def test_every_image_and_pair_is_read(data: SourceData) -> None:
    assert len(data.pairs) == 19316
    assert data.pairs.images.num_rows == 6808
    assert data.rejected.num_rows == 0
    assert data.pairs.images.column("image_features").type.list_size == 1280
    assert data.pairs.pairs.column("text_features").type.list_size == 225


def test_the_stream_has_six_groups_and_988_images_of_the_unseen_vendor(data: SourceData, section: dict[str, Any]) -> None:
    settings = build_settings(StreamSettings, {key: section[key] for key in ("tasks", "splits")}, "stream")
    stream = build_stream(data, settings)
    manifest = stream.manifest
    assert {task["name"]: task["splits"]["test"]["images"] for task in manifest["tasks"]} == IMAGES
    assert [task.name for task in stream.tasks] == list(IMAGES)
    assert sum(task["splits"]["test"]["pairs"] for task in manifest["tasks"]) == 988
    assert manifest["left_out"]["tasks"] == {"Smileys & Emotion": 1935, "People & Body": 3961, "Flags": 1140}
    assert manifest["identical_images_between_splits"]["test_in_train"] == 0
    codes = assign_splits(data.pairs, settings.splits)
    share = (codes == 1).sum() / (codes < 2).sum()
    assert 0.03 < share < 0.07
    for task in stream.tasks:
        assert set(data.pairs.texts("source", task.test)) == {"blobmoji"}
        assert set(data.pairs.texts("caption_kind", np.concatenate([task.val, task.test]))) == {"name"}
        assert set(data.pairs.texts("source", np.concatenate([task.train, task.val]))) == {"noto", "twemoji", "fluentui"}


@pytest.mark.parametrize("name", ["emoji.csv", "emoji.jsonl"])
def test_the_samples_read_with_paths(name: str) -> None:
    found = Table(name, root=str(DATA / "emoji"), columns={"image_uri": "image_path"}).read()
    assert len(found.pairs) == 200
    assert found.pairs.images.num_rows == 120
    assert found.rejected.num_rows == 0
    train = np.array(found.pairs.texts("split")) == "train"
    assert train.sum() == 150
    assert len(np.unique(found.pairs.image_row[train])) == 90
