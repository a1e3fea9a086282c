"""The plain sides do our work: the same loss as ours, the same bytes as ours; and both benchmarks run."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import embed_overhead
import measure
import numpy as np
import pytest
import run_all
import torch
import train_overhead

from cmcl_ray.data.images import decode
from cmcl_ray.models.losses.base import match
from cmcl_ray.models.losses.info_nce import InfoNCE
from cmcl_ray.run.beginning import read_stream


def test_the_plain_loss_is_ours():
    image, text = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    model = SimpleNamespace(project_image=lambda batch: batch, project_text=lambda batch: batch)
    codes = torch.tensor([3, 1, 3, 4, 4, 4, 9])
    plain = train_overhead.plain_loss(model, SimpleNamespace(image=image, text=text, image_id=codes))
    ours = InfoNCE()(match(image, text, codes, torch.zeros(7, dtype=torch.int64), True), torch.tensor(1 / 0.07))
    torch.testing.assert_close(plain, ours)


@pytest.mark.parametrize(
    ("ours", "plain", "expected"),
    [
        ([1.0] * 25, [1.0] * 20 + [9.0] * 5, 0.0),
        ([1.0] * 25, [1.0] * 19 + [1.5] * 6, 0.5),
        ([1.0] * 19, [1.0] * 25, math.inf),
        ([1.0] * 25, [], math.inf),
    ],
)
def test_the_first_twenty_losses_are_compared(ours, plain, expected):
    assert train_overhead.largest_difference(ours, plain) == expected


def test_the_plain_decoding_gives_our_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(embed_overhead, "DRAWN", 13)
    settings = embed_overhead.settings_of(1, str(tmp_path))
    stream = embed_overhead.repeated_stream(settings, 31)
    ids = stream.pairs.images.column("image_id").to_pylist()
    assert len(set(ids)) == len(ids) == 31
    assert len(stream.pairs) == 31
    files = stream.pairs.images.column("image").to_pylist()
    assert files[2] == files[15] != files[3]
    np.testing.assert_array_equal(embed_overhead.plain_decode(files[2]), decode(files[2], 32))


def test_settings_pass_our_own_check(tmp_path):
    settings = train_overhead.settings_of(2, 3, 5, str(tmp_path))
    assert (settings.train.threads, settings.train.epochs, settings.train.log_every) == (2, 3, 5)
    assert len(read_stream(settings).tasks[0].train) == 3000


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("script", run_all.scripts(run_all.FOLDER), ids=lambda path: path.stem)
def test_a_benchmark_runs_and_its_answers_agree(script, tmp_path):
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    path = {**os.environ, "PYTHONPATH": str(run_all.FOLDER.parent)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=path)
    assert done.returncode == 0
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results
    for result in results:
        assert list(result) == list(measure.Result.__dataclass_fields__)
        assert result["checked"]
        assert result["value"] > 0
    assert (tmp_path / f"{script.stem}.svg").is_file()
