"""The store gives back what was put, to the bit, also after the process that put it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image
from hatdet.evaluation.store import Store, StoredDetections, key_of, pixels_hash
from tests.helpers import random_image


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_pictures_and_numbers_come_back_as_they_were(tmp_path, bit_depth):
    image = random_image(5, 7, bit_depth=bit_depth)
    boxes = np.random.default_rng(0).random((3, 6)).astype(np.float32)
    with Store(tmp_path / "cache") as store:
        assert store.picture("a") is None
        assert store.picture_milliseconds("a") is None
        assert store.detections("a") is None
        assert store.fidelity("a") is None
        store.put_picture("a", image, 12.5)
        store.put_detections("a", StoredDetections(boxes, 3.25))
        store.put_detections("none", StoredDetections(boxes[:0], 1))
        store.put_fidelity("a", {"psnr_y": 27.123456789012345, "ssim_y": float("inf")})
        store.commit()
    with Store(tmp_path / "cache") as store:
        again = store.picture("a")
        assert again is not None
        assert again.bit_depth == bit_depth
        assert torch.equal(again.pixels, image.pixels)
        assert store.picture_milliseconds("a") == 12.5
        found = store.detections("a")
        assert found is not None
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.milliseconds == 3.25
        assert store.detections("none").boxes.shape == (0, 6)
        assert store.fidelity("a") == {"psnr_y": 27.123456789012345, "ssim_y": float("inf")}


def test_a_hash_is_of_what_is_shown():
    image = random_image(4, 6)
    assert pixels_hash(image) == pixels_hash(Image(image.pixels.clone(), 4))
    changed = image.pixels.clone()
    changed[0, 0, 0] += 1 / 255 if changed[0, 0, 0] < 0.5 else -1 / 255
    assert pixels_hash(Image(changed)) != pixels_hash(image)
    turned = Image(image.pixels.reshape(3, 6, 4))  # the same bytes in another shape
    assert pixels_hash(turned) != pixels_hash(image)


def test_keys_do_not_run_together():
    assert key_of("a", "bc") != key_of("ab", "c")
    assert key_of("a", 4) == key_of("a", 4)


def test_what_was_committed_survives_a_kill(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path; from hatdet.evaluation.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.put_fidelity('kept', {'x': 1}); store.commit()\n"
        "store.put_fidelity('lost', {'x': 2}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    with Store(tmp_path) as store:
        assert store.fidelity("kept") == {"x": 1}
        assert store.fidelity("lost") is None


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionsError, match="file cannot be written"):
        Store(tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/results.sqlite").write_text("no database at all, " * 100)
    with pytest.raises(OptionsError, match=r"results\.sqlite cannot be used"):
        Store(tmp_path / "other")


def test_a_picture_that_is_gone_is_not_there(tmp_path: Path):
    with Store(tmp_path) as store:
        store.put_picture("ab12", random_image(2, 2), 1)
        for file in tmp_path.rglob("*.png"):
            file.unlink()
        assert store.picture("ab12") is None
