"""Whatever an image is like, its result has exactly `scale` times its size, and what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from hatdet.cli.app import app
from hatdet.imaging.files import read_image, to_array
from tests.helpers import TINY, tiny_hat

MODES = {"L": "png", "LA": "png", "P": "png", "RGB": "jpg", "RGBA": "webp", "CMYK": "tif", "1": "bmp", "I;16": "png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a network for each scale."""
    made: Path = tmp_path_factory.mktemp("any")
    for scale in (2, 3, 4):
        options = {**TINY, "upscale": scale}
        metadata = {"network_g": json.dumps(options)}
        save_file(tiny_hat(upscale=scale).state_dict(), made / f"tiny{scale}.safetensors", metadata=metadata)
    return made


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    mode=st.sampled_from(sorted(MODES)),
    upscaler=st.sampled_from(["bicubic", "nearest", "tiny"]),
    scale=st.integers(2, 4),
    tile=st.sampled_from([8, 16, 20, 64]),
    overlap=st.integers(0, 24),
    batch=st.integers(1, 3),
)
def test_its_result_has_the_size_that_was_asked_for(folder, size, mode, upscaler, scale, tile, overlap, batch):
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    deep = PIL.Image.fromarray(array[..., 0].astype(np.uint16) * 257)
    picture = deep if mode == "I;16" else PIL.Image.fromarray(array).convert(mode)
    source = folder / f"a.{MODES[mode]}"
    picture.save(source)
    name = folder / f"tiny{scale}.safetensors" if upscaler == "tiny" else upscaler
    command = [
        "sr",
        source,
        "-o",
        folder / "out",
        "--upscaler",
        name,
        "--scale",
        scale,
        "--device",
        "cpu",
        "--overwrite",
    ]
    command += ["--tile", tile, "--overlap", overlap, "--batch", batch]
    run = CliRunner().invoke(app, [str(word) for word in command])
    assert run.exit_code == 0, run.output
    result = read_image(folder / "out" / "a.png")
    assert (result.width, result.height) == (size[0] * scale, size[1] * scale)
    assert result.bit_depth == (16 if mode == "I;16" else 8)
    if upscaler == "nearest":
        expected = to_array(read_image(source)).repeat(scale, 0).repeat(scale, 1)
        assert np.array_equal(to_array(result), expected)
