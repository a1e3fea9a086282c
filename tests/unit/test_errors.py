"""Errors speak in one complete text; names that are nearly right are recognised."""

import pytest

from cmcl_ray import errors
from cmcl_ray.errors import CmclError, did_you_mean


@pytest.mark.parametrize(
    "name", ["ConfigError", "DataError", "IntegrityError", "StageError", "VersionError", "ShapeError", "ResourceError"]
)
def test_every_kind_is_caught_as_the_base_and_prints_its_text_alone(name: str) -> None:
    with pytest.raises(CmclError) as caught:
        raise getattr(errors, name)("train.lr is -1; expected a number above 0; correct it")
    assert str(caught.value) == "train.lr is -1; expected a number above 0; correct it"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("stratgy", "; did you mean 'strategy'?"),
        ("strategies", "; did you mean 'strategy'?"),
        ("modle", "; did you mean 'model'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_only_the_nearest_word_is_offered(word: str, hint: str) -> None:
    assert did_you_mean(word, ["stream", "strategy", "model"]) == hint


def test_nothing_known_gives_no_hint() -> None:
    assert did_you_mean("model", []) == ""


def test_known_words_may_come_from_an_iterator() -> None:
    assert did_you_mean("modle", iter(["stream", "model"])) == "; did you mean 'model'?"
