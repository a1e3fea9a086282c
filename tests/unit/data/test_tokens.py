"""Captions as ids: the same on any machine, bounded, and finite for anything that can be typed."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.data.tokens import HashTokenizer

SMALL = HashTokenizer(buckets=1000, length=3, letters=3, groups=4)


def test_ids_do_not_move() -> None:
    assert SMALL(["A red cat"])[0].tolist() == [[78, 722, 0, 0, 0], [95, 623, 95, 221, 0], [769, 790, 769, 427, 0]]


@given(st.lists(st.text(max_size=40), max_size=6), st.integers(2, 50), st.integers(0, 4), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_ids_are_bounded_and_each_caption_has_its_own_row(captions: list[str], buckets: int, letters: int, groups: int) -> None:
    tokenizer = HashTokenizer(buckets=buckets, length=5, letters=letters, groups=groups)
    ids = tokenizer(captions)
    assert ids.shape == (len(captions), 5, tokenizer.width)
    assert ids.dtype == np.int64
    assert ids.min(initial=0) >= 0
    assert ids.max(initial=0) < buckets
    for caption, row in zip(captions, ids, strict=True):
        assert np.array_equal(tokenizer([caption])[0], row)
        # Words come first and without gaps, so that the first id of a position says whether a word is there.
        present = row[:, 0] != 0
        assert not (np.diff(present.astype(int)) > 0).any()
        assert not row[~present].any()


@pytest.mark.parametrize("caption", ["", "   ", "!?", "___", "\u200d\ufe0f", "\U0001f600"])
def test_a_caption_without_words_is_all_padding(caption: str) -> None:
    assert not SMALL([caption]).any()


def test_case_and_punctuation_do_not_matter_and_order_does() -> None:
    ids = SMALL(["Red, cat!", "red cat", "cat red", "red  CAT"])
    assert np.array_equal(ids[0], ids[1])
    assert np.array_equal(ids[1], ids[3])
    assert not np.array_equal(ids[1], ids[2])


def test_words_of_other_scripts_are_words_and_accents_have_one_form() -> None:
    composed, apart = "caf\u00e9 \u4e2d\u6587 \u0441\u043e\u043d", "cafe\u0301 \u4e2d\u6587 \u0441\u043e\u043d"
    ids = SMALL([composed, apart, "cafe"])
    assert (ids[0][:, 0] != 0).all()
    assert np.array_equal(ids[0], ids[1])
    assert ids[2, 0, 0] != ids[0, 0, 0]


def test_words_beyond_the_length_are_left_out() -> None:
    assert np.array_equal(SMALL(["one two three four"]), SMALL(["one two three"]))


def test_unseen_words_share_letter_groups_with_known_ones() -> None:
    tokenizer = HashTokenizer(buckets=2**20, length=1, letters=3, groups=10)
    known, near, far = (set(row[0][1:]) - {0} for row in tokenizer(["flower", "flowers", "zigzag"]))
    assert len(known & near) >= 5
    assert not known & far


def test_without_letter_groups_a_word_is_one_id() -> None:
    tokenizer = HashTokenizer(buckets=1000, length=2, letters=0)
    assert tokenizer.width == 1
    assert tokenizer(["red cat"]).tolist() == [[[95], [769]]]


def test_what_was_tokenized_before_changes_nothing() -> None:
    tokenizer = HashTokenizer(buckets=1000, length=3, letters=3, groups=4)
    tokenizer(["cat", "a", "red"])
    assert np.array_equal(tokenizer(["a red cat"]), SMALL(["a red cat"]))
    assert np.array_equal(pickle.loads(pickle.dumps(tokenizer))(["a red cat"]), SMALL(["a red cat"]))
    other = replace(tokenizer, buckets=10)
    assert other(["a red cat"]).max() < 10
    assert tokenizer == SMALL
    assert hash(tokenizer) == hash(SMALL)


def test_other_settings_describe_themselves_otherwise() -> None:
    described = [replace(SMALL, **{name: 2}).describe() for name in ("buckets", "length", "letters", "groups")]
    assert all(one != other for i, one in enumerate(described) for other in [SMALL.describe(), *described[:i]])


@pytest.mark.parametrize(("name", "value", "least"), [("buckets", 1, 2), ("length", 0, 1), ("letters", -1, 0), ("groups", 0, 1)])
def test_settings_that_cannot_work_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; expected at least {least}"):
        HashTokenizer(**{name: value})
