"""What asking a finished run refuses; what it answers is in tests/run/test_commands.py."""

import json
import shutil
from pathlib import Path

import pytest

from cmcl_ray import storage
from cmcl_ray.errors import DataError, StageError, VersionError
from cmcl_ray.run import asking
from cmcl_ray.run.asking import Answer, ask_run, open_settings, render_answers
from tests.run.tiny import tiny_stream


def test_settings_come_from_the_folder_as_it_is_now(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "moved")
    assert open_settings(str(tmp_path / "moved")).out == str(tmp_path / "moved")
    assert open_settings(str(small)).run_id == open_settings(str(tmp_path / "moved")).run_id


def test_answers_are_few_where_few_are_wanted(small: Path) -> None:
    answers = ask_run(str(small), "a blue square", hits=3)
    assert [answer.rank for answer in answers] == [1, 2, 3]
    assert answers[0].score >= answers[1].score >= answers[2].score
    assert {answer.task for answer in ask_run(str(small), "a blue square", hits=100)} == {"poster", "chalkboard"}


def test_an_empty_text_is_answered(small: Path) -> None:
    assert len(ask_run(str(small), "", hits=2)) == 2


def test_a_gallery_of_images_cannot_be_asked_by_image(small: Path, tmp_path: Path) -> None:
    (tmp_path / "query.png").write_bytes(tiny_stream().pairs.images["image"][0].as_py())
    with pytest.raises(StageError, match=r"gallery 'bridge' of run .* holds no texts; ask it the other way"):
        ask_run(str(small), str(tmp_path / "query.png"))


def test_a_model_on_features_takes_no_raw_query(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmcl_ray.data.images import Features, Inputs
    from cmcl_ray.models.tiny import Tiny

    monkeypatch.setattr(Tiny, "inputs", lambda self: Inputs(Features("image", 3), Features("text", 3)))
    with pytest.raises(DataError, match=r"model tiny takes feature vectors, so a raw text cannot be encoded; expected"):
        ask_run(str(small), "a blue square")


def test_a_route_to_an_unknown_version_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = asking.GalleryStore.read

    def forgetful(store: asking.GalleryStore, id: str) -> asking.GalleryVersion:
        gallery = plain(store, id)
        gallery.facts["versions"].clear()
        return gallery

    monkeypatch.setattr(asking.GalleryStore, "read", forgetful)
    with pytest.raises(VersionError, match=r"is asked through version [0-9a-f]{16}, which its gallery does not know"):
        ask_run(str(small), "a blue square")


def test_only_weights_that_are_needed_are_read(small: Path, tmp_path: Path) -> None:
    """bridge asks with the newest model alone, so the older checkpoint may lie in an archive."""
    shutil.copytree(small, tmp_path / "out")
    storage.remove(str(tmp_path / "out" / "tasks" / "00_poster"))
    newest = ask_run(str(tmp_path / "out"), "a blue square", policy="bridge")
    assert newest == ask_run(str(small), "a blue square", policy="bridge")
    with pytest.raises(storage.IntegrityError, match=r"00_poster/checkpoint/manifest.json is missing"):
        ask_run(str(tmp_path / "out"), "a blue square", policy="route")


def test_answers_are_drawn_as_a_table() -> None:
    answer = Answer(1, 0.123456, "image-7", "a caption", "poster", "0123456789abcdef")
    head, line = render_answers([answer]).splitlines()
    assert head.split() == ["score", "id", "task", "version", "caption"]
    assert line.split(maxsplit=5) == ["1", "0.1235", "image-7", "poster", "0123456789abcdef", "a caption"]
    assert line.index("image-7") == head.index("id")


def test_the_stored_config_decides(small: Path, tmp_path: Path) -> None:
    """run.json is read and nothing else: no YAML file needs to be there any more."""
    shutil.copytree(small, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "run.json").read_text())
    assert open_settings(str(tmp_path / "out")).config["model"] == described["config"]["model"]
