"""The photos that everything is shown on."""

from __future__ import annotations

import pytest

from hatdet.core.errors import WeightsError
from hatdet.imaging import sample_photos as module
from hatdet.imaging.files import read_image
from hatdet.imaging.sample_photos import SAMPLE_REDUCTION, sample_photos, write_samples


def test_they_are_written_reduced(tmp_path):
    written = write_samples(tmp_path / "samples")
    assert [path.name for path in written] == ["bus.png", "zidane.png"]
    for small, photo in zip(written, sample_photos(), strict=True):
        assert abs(read_image(small).width - read_image(photo).width / SAMPLE_REDUCTION) < 1


def test_without_them_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="sample photos of ultralytics are not there"):
        write_samples(tmp_path)
    assert not list(tmp_path.iterdir())
