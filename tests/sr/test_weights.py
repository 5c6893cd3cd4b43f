"""Weights by name, by file, over the network; and files that are not what they should be."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.fetch import fetch
from hatdet.sr import catalogue, weights
from hatdet.sr.catalogue import CATALOGUE, FAMILIES, default_record, named_record
from hatdet.sr.upscalers import load_upscaler
from hatdet.sr.weights import WeightsFile, find_weights, load_network
from tests.core.test_pickles import WRAPPINGS, run_code
from tests.helpers import TINY, random_image, relative_difference, tiny_hat


def load(path: Path, scale: int = 2):
    return load_network(WeightsFile(path.stem, path, None), scale)


def wrapped(kind: str, state: dict) -> object:
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    return {
        "bare": state,
        "params": {"params": state},
        "params_ema": {"params": zeros, "params_ema": state},
        "module": {"params": {f"module.{key}": value for key, value in state.items()}},
        "half": {"params": {k: v.half() if v.is_floating_point() else v for k, v in state.items()}},
    }[kind]


@pytest.mark.parametrize("kind", ["bare", "params", "params_ema", "module", "half"])
def test_checkpoints_of_every_wrapping_load(tmp_path, kind):
    network = tiny_hat()
    torch.save(wrapped(kind, network.state_dict()), tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth")
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert relative_difference(loaded(x), network(x)) < (1e-2 if kind == "half" else 1e-6)
    assert not loaded.training


VARIANTS = [
    {"upscale": 2},
    {"upscale": 3},
    {"upscale": 4},
    {"window_size": 4, "overlap_ratio": 0.5},
    {"overlap_ratio": 0.25},
    {"depths": [1, 3, 2], "num_heads": [2, 3, 6]},
    {"qkv_bias": False, "patch_norm": False, "resi_connection": "identity"},
    {"mlp_ratio": 3, "compress_ratio": 3, "squeeze_factor": 4, "num_feat": 16, "in_chans": 1},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_file_without_a_description_is_understood_from_its_shapes(tmp_path, changes):
    network = tiny_hat(**changes)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth", network.upscale)
    x = torch.rand(1, changes.get("in_chans", 3), 16, 16)
    with torch.no_grad():
        assert relative_difference(loaded(x), network(x)) < 1e-6


@pytest.mark.parametrize("family", ["hat-s", "hat", "hat-l"])
def test_published_sizes_are_understood_from_their_shapes(family):
    """Without running them: what is deduced builds the same network."""
    options = {**FAMILIES[family], "upscale": 4}
    with torch.device("meta"):
        state = weights.HAT.from_options(options).state_dict()
        deduced = weights._deduced_options(state, Path("x.pth"))
        again = weights.HAT.from_options(deduced).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in again.items()}


def test_safetensors_carry_their_own_description(tmp_path):
    network = tiny_hat(conv_scale=0.5)
    options = {**TINY, "upscale": 2, "conv_scale": 0.5}
    save_file(network.state_dict(), tmp_path / "a.safetensors", metadata={"network_g": json.dumps(options)})
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert relative_difference(load(tmp_path / "a.safetensors")(x), network(x)) < 1e-6


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"upscale": "x"}', '{"upscale": 2, "depths": 6}', '{"upscale": 2, "x": 1}']
)
def test_a_description_that_is_none_is_one_sentence(tmp_path, text):
    save_file(tiny_hat().state_dict(), tmp_path / "a.safetensors", metadata={"network_g": text})
    with pytest.raises(WeightsError, match="describes") as caught:
        load(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_a_file_is_what_it_says_also_under_a_published_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_hat().state_dict(), "HAT_SRx2.pth")
    assert find_weights("HAT_SRx2.pth", 2).record is None
    assert load_upscaler("HAT_SRx2.pth", 2, device="cpu").scale == 2


def test_a_wrong_scale_is_an_error_and_never_a_wrong_size(tmp_path):
    torch.save(tiny_hat(upscale=2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(OptionsError, match=r"a\.pth upscales by 2, got --scale 4"):
        load(tmp_path / "a.pth", 4)
    with pytest.raises(OptionsError, match="HAT_SRx3 upscales by 3, got --scale 4"):
        find_weights("HAT_SRx3", 4)


def swin_like(state: dict) -> dict:
    return {key: value for key, value in state.items() if "overlap_attn" not in key}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (swin_like, "is not a HAT checkpoint: it has no layers.0.residual_group.overlap_attn"),
        (lambda state: {"conv.weight": torch.zeros(1)}, "is not a HAT checkpoint: it has no layers"),
        (lambda state: {k: v for k, v in state.items() if k != "norm.bias"}, r"does not fit .*norm\.bias"),
        (lambda state: [1, 2, 3], "holds no state dict"),
        (lambda state: {"params": {"a": 1}}, "holds no state dict of tensors"),
    ],
)
def test_other_checkpoints_are_refused_with_a_sentence(tmp_path, make, sentence):
    torch.save(make(tiny_hat().state_dict()), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=sentence) as caught:
        load(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.pth", b""), ("a.pth", b"rubbish" * 99), ("a.safetensors", b"rubbish")]
)
def test_broken_files_are_refused_with_a_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_checkpoint_that_wants_to_run_code_is_refused_with_what_it_asks_for(tmp_path, wrapping, recwarn):
    WRAPPINGS[wrapping]({"params": run_code(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth asks for posix\.system, which could run code: expected") as caught:
        load(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not recwarn.list


def test_family_names_stand_for_their_default_file():
    assert default_record("hat", 4).name == "HAT_SRx4_ImageNet-pretrain"
    assert default_record("hat-s", 2).name == "HAT-S_SRx2"
    assert default_record("hat-xs", 4).kind == "embedded"
    with pytest.raises(OptionsError, match="real-hat has no weights for scale 2: it has 4"):
        default_record("real-hat", 2)
    with pytest.raises(OptionsError, match="hat-l has no weights for scale 8: it has 2, 3, 4"):
        default_record("hat-l", 8)


def test_the_catalogue_is_consistent():
    assert len({record.name for record in CATALOGUE}) == len(CATALOGUE)
    for record in CATALOGUE:
        assert len(record.sha256) == 64
        with torch.device("meta"):
            network = weights.HAT.from_options(record.network_g)
        assert sum(p.numel() for p in network.parameters()) == record.parameters
        assert named_record(record.file) is record


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        WeightsError, match="upscaler 'hat-xxl' is not known: expected a file, or one of bicubic, nearest"
    ):
        find_weights("hat-xxl", 4)
    with pytest.raises(WeightsError, match=r"weights folder/none\.pth do not exist"):
        find_weights("folder/none.pth", 4)


def test_the_embedded_file_is_checked_by_its_hash(monkeypatch):
    assert find_weights("hat-xs", 4).record is CATALOGUE[0]
    monkeypatch.setattr(weights, "sha256_of", lambda path: "0" * 64)
    with pytest.raises(WeightsError, match="is damaged: its sha256 is not"):
        find_weights("hat-xs", 4)


# ------------------------------------------------------------------------------------------ over the network


@pytest.fixture
def server(tmp_path):
    """A web server on this machine with `good.pth` and `bad.pth`, and the requests that it got."""
    folder = tmp_path / "www"
    folder.mkdir()
    torch.save({"params_ema": tiny_hat(upscale=4).state_dict()}, folder / "good.pth")
    (folder / "bad.pth").write_bytes(b"something else")
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield (
        f"http://127.0.0.1:{httpd.server_port}/",
        hashlib.sha256((folder / "good.pth").read_bytes()).hexdigest(),
        requests,
    )
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_published_weights_are_fetched_once_checked_and_kept(server, cache, monkeypatch):
    url, sha256, requests = server
    record = replace(CATALOGUE[3], sha256=sha256, urls=(url + "none.pth", url + "bad.pth", url + "good.pth"))
    monkeypatch.setattr(catalogue, "CATALOGUE", (record,))
    monkeypatch.setitem(catalogue.FAMILIES, record.family, TINY)
    told = []
    upscaler = load_upscaler("hat-s", 4, device="cpu", on_fetch=lambda done, total: told.append((done, total)))
    assert upscaler(random_image(5, 6)).pixels.shape == (3, 20, 24)
    size = (cache / record.file).stat().st_size
    assert told[-1] == (size, size)
    assert [path.rsplit("/", 1)[1] for path in requests if path.endswith("good.pth")] == ["good.pth"]
    assert [path.name for path in cache.iterdir()] == [record.file]
    requests.clear()
    load_upscaler(record.name, 4, device="cpu")
    assert not requests


def test_a_damaged_file_in_the_cache_is_named(server, cache, monkeypatch):
    url, sha256, _ = server
    record = replace(CATALOGUE[3], sha256=sha256, urls=(url + "good.pth",))
    monkeypatch.setattr(catalogue, "CATALOGUE", (record,))
    cache.mkdir(parents=True)
    (cache / record.file).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="is damaged"):
        find_weights(record.name, 4)


def test_without_a_known_hash_the_first_download_holds(server, cache):
    url, sha256, _ = server
    path = fetch("x.pt", [url + "good.pth"], None)
    assert (cache / "x.pt.sha256").read_text().strip() == sha256
    path.write_bytes(b"cut off")
    fetch("x.pt", [url + "good.pth"], None)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    path.write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="not the expected file"):
        fetch("x.pt", [url + "bad.pth"], None)


def test_a_failed_fetch_is_one_line_with_every_reason(server, cache):
    url, sha256, _ = server
    urls = [url + "none.pth", url + "bad.pth", "http://127.0.0.1:9/x.pth", "https://nowhere.invalid/x.pth"]
    with pytest.raises(WeightsError) as caught:
        fetch("x.pth", urls, sha256)
    text = str(caught.value)
    assert "\n" not in text
    for reason in (
        "none.pth: 404",
        "bad.pth: not the expected file (sha256 differs)",
        ":9/x.pth: no connection",
        "invalid",
    ):
        assert reason in text
    assert str(cache / "x.pth") in text
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path, monkeypatch):
    url, sha256, _ = server
    (tmp_path / "file").touch()
    monkeypatch.setenv("HATDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="cannot be written"):
        fetch("x.pth", [url + "good.pth"], sha256)
