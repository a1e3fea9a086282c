"""Folders of fabricated runs."""

import pytest

from tests.unit.report.fabricate import make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """The folder of one whole run; do not change it."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def compared_folders(tmp_path_factory):
    """Two labels with three seeds each; do not change them."""
    root = tmp_path_factory.mktemp("compared")
    return [
        make_run(root / f"{label}-{seed}", label, seed, lift)
        for label, lift in (("finetune", 0.0), ("replay", 0.8))
        for seed in range(3)
    ]
