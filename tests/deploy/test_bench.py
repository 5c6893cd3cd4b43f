"""`hatdet bench`: taking turns, what comes out of it, the peers, the process of a configuration, the targets."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hatdet.blocks import hat_blocks
from hatdet.blocks.attention import attend
from hatdet.cli.overlap import overlapped
from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.types import Image
from hatdet.deploy import bench, bench_targets, bench_worker
from hatdet.deploy.bench import Group, Lane, Model, Worker, WorkerError
from hatdet.deploy.bench_targets import TARGETS, Checks, Command, Outcome, Target, check_targets
from hatdet.deploy.bench_worker import BACKENDS, PEERS, Configuration, Workbench
from hatdet.deploy.engines import FORMATS
from hatdet.imaging.resize import reduced
from hatdet.sr.hat_arch import HAT
from tests.helpers import TINY, random_image, relative_difference

CPU = torch.device("cpu")
GREY = np.full((3, 4, 4), 0.5, np.float32)


class Fake:
    """A worker on paper: answers by method; writes down what it is asked. An answer that is an exception is raised."""

    def __init__(self, log: list[tuple[str, str]], configuration: Configuration, answers: dict[str, Any]) -> None:
        self.log, self.configuration, self.answers, self.closed = log, configuration, answers, 0

    def ask(self, method: str, *arguments: object) -> Any:
        self.log.append((f"{self.configuration.backend} {self.configuration.precision}", method))
        answer = self.answers[method]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


def answers(seconds: Sequence[float], rate: float = 100.0, shift: float = 0.0, **others: Any) -> dict[str, Any]:
    return {
        "about": {"device": "cpu", "threads": 2},
        "warm_up": 5_000_000,
        "run": [(one, rate) for one in seconds],
        "flops": 8_000_000_000,
        "picture": GREY + np.float32(shift),
        "psnr": 30.0 - shift,
        **others,
    }


def lanes(*names: str, random: bool = False) -> list[Lane]:
    model = Model("hat-xs", "hat-xs", random)
    return [
        Lane(model, Configuration("hat-xs", backend=backend, precision=precision))
        for backend, precision in (name.split() for name in names)
    ]


def measured(answered: dict[str, dict[str, Any]], runs: int, folder: Path) -> tuple[Group, list[tuple[str, str]]]:
    log: list[tuple[str, str]] = []
    group = Group(lanes(*answered))
    bench.measure_group(
        group,
        random_image(4, 4),
        runs,
        folder,
        start=lambda c: Fake(log, c, answered[f"{c.backend} {c.precision}"]),
    )
    return group, log


# ------------------------------------------------------------------------------------------ 1. taking turns


def test_one_run_each_round_after_round_when_all_are_warm(tmp_path):
    names = ["spandrel fp32", "unfused fp32", "eager fp32", "eager bf16"]
    group, log = measured({name: answers([1.0, 1.0, 1.0]) for name in names}, 3, tmp_path)
    assert [name for name, method in log if method == "run"] == names * 3
    first = next(i for i, (_, method) in enumerate(log) if method == "run")
    assert [name for name, method in log[:first] if method == "warm_up"] == names
    assert "warm_up" not in [method for _, method in log[first:]]
    assert group.flops == 8_000_000_000
    assert [name for name, method in log if method == "flops"] == ["unfused fp32"]


def test_rounds_are_compared_with_themselves(tmp_path):
    """The second round is three times slower for everybody: medians of times, divided, would say something else."""
    answered = {
        "spandrel fp32": answers([2.0, 9.0, 4.0]),
        "unfused fp32": answers([3.0, 6.0, 2.0]),
        "unfused bf16": answers([8.0, 8.0, 8.0]),
        "eager fp32": answers([1.0, 3.0, 2.0]),
        "eager bf16": answers([2.0, 4.0, 1.0]),
    }
    group, _ = measured(answered, 3, tmp_path)
    rows = {(row["backend"], row["precision"]): row for row in bench.rows_of(group, (8, 4))}
    eager = rows["eager", "fp32"]
    assert eager["ratio_spandrel"] == pytest.approx(2.0)  # of 2, 3, 2; of the medians 4 / 2
    assert eager["ratio_unfused"] == pytest.approx(2.0)  # of 3, 2, 1
    assert rows["eager", "bf16"]["ratio_unfused"] == pytest.approx(4.0)  # of 4, 2, 8: with its own precision
    assert rows["eager", "bf16"]["ratio_spandrel"] == pytest.approx(2.25)  # of 1, 2.25, 4: spandrel's fp32
    assert rows["spandrel", "fp32"]["ratio_spandrel"] == 1.0


def test_rows_hold_the_numbers(tmp_path):
    answered = {
        "unfused fp32": answers([1.0]),
        "eager fp32": answers([0.1], rate=160.0, chain=4.0),
        "eager bf16": answers([0.2], shift=0.01, chain=8.0),
    }
    group, _ = measured(answered, 1, tmp_path)
    bench.measure_end_to_end(group, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path, overlapped)
    unfused, eager, low = bench.rows_of(group, (500, 200))
    assert eager["ms"] == pytest.approx(100)
    assert eager["ms_per_megapixel"] == pytest.approx(1000)
    assert (eager["gflop"], eager["gflops"]) == pytest.approx((8, 80))
    assert eager["matmul_share"] == pytest.approx(0.5)
    assert (eager["images_per_s"], low["images_per_s"]) == (0.5, 0.25)
    assert (eager["difference_db"], eager["same_as_fp32"]) == (None, True)
    assert low["difference_db"] == pytest.approx(40.0, abs=1e-3)
    assert low["same_as_fp32"] is False
    assert (unfused["peer"], unfused["images_per_s"], unfused["same_as_fp32"]) == (True, None, None)
    assert eager["ratio_spandrel"] is None  # it takes no part
    assert eager["memory_bytes"] == 5_000_000
    assert (eager["device"], eager["threads"]) == ("cpu", 2)


def test_what_fails_leaves_and_the_others_go_on(tmp_path):
    broken = answers([1.0, 1.0, 1.0])
    broken["run"][1] = WorkerError("too little memory")
    unbuilt = answers([], about=WorkerError("no such weights"))
    answered = {"spandrel fp32": broken, "unfused fp32": answers([2.0] * 3), "eager fp32": answers([1.0] * 3)}
    group, log = measured({**answered, "eager bf16": unbuilt}, 3, tmp_path)
    spandrel, _, eager, low = bench.rows_of(group, (4, 4))
    assert (spandrel["error"], low["error"], eager["error"]) == ("too little memory", "no such weights", None)
    assert (spandrel["ms"], low["ms"]) == (None, None)
    assert (eager["ratio_spandrel"], eager["ratio_unfused"]) == (None, 2.0)
    assert [name for name, method in log if method == "run"].count("eager fp32") == 3
    assert [method for name, method in log if name == "eager bf16"] == ["about"]


def test_a_group_closes_its_workers_once(tmp_path):
    group, _ = measured({"unfused fp32": answers([1.0]), "eager fp32": answers([1.0])}, 1, tmp_path)
    workers = [lane.worker for lane in group.lanes]
    with pytest.raises(KeyboardInterrupt), group:
        raise KeyboardInterrupt
    assert [worker.closed for worker in workers if isinstance(worker, Fake)] == [1, 1]
    assert [lane.worker for lane in group.lanes] == [None, None]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(1, 3), (2, 2), (3, 1)], [0, 1, 2]),
        ([(3, 1), (2, 2), (1, 3), (3, 3)], [2, 1, 0]),
        ([(1, 1), (2, 1), (1, 2)], [0]),
        ([(2, 2), (1, 1), (1, 1)], [1, 2]),
        ([(1, 2), (1, 1)], [1]),
    ],
)
def test_pareto_front(points, front):
    assert bench.pareto_front(points) == front


def test_the_front_wants_much_psnr_and_little_memory():
    def row(ms: float | None, psnr: float | None, memory: int) -> dict[str, Any]:
        return {"ms_per_megapixel": ms, "psnr_y": psnr, "memory_bytes": memory, "front": False}

    rows = [row(1, 30.0, 9), row(2, 31.0, 9), row(3, 30.5, 1), row(4, None, 0), row(None, 40.0, 0)]
    assert bench.mark_front(rows, "psnr_y") == rows[:3]
    assert [one["front"] for one in rows] == [True, True, False, False, False]
    rows = [row(1, 30.0, 9), row(2, 31.0, 9), row(3, 30.5, 1), row(4, None, 0), row(None, 40.0, 0)]
    bench.mark_front(rows, "memory_bytes")
    assert [one["front"] for one in rows] == [True, False, True, True, False]


def test_what_a_lane_loses_is_judged_against_plain_attention_in_fp32(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_exported", lambda configuration, folder: configuration)
    answered = {
        "spandrel fp32": answers([1.0], psnr=30.02),
        "unfused fp32": answers([1.0], psnr=30.01),
        "eager fp32": answers([1.0], psnr=30.01),
        "eager bf16": answers([1.0], psnr=30.0001),
        "openvino bf16": answers([1.0], psnr=29.99),
        "onnx fp32": answers([1.0], psnr=WorkerError("broken")),
    }
    group, _ = measured(answered, 1, tmp_path)
    lost = [lane.psnr_lost for lane in group.lanes]
    assert lost == [pytest.approx(-0.01), None, 0.0, pytest.approx(0.0099), pytest.approx(0.02), None]
    assert [bench.passes(lane) for lane in group.lanes] == [True, False, True, True, False, False]
    assert bench.rows_of(group, (4, 4))[3]["psnr_lost"] == pytest.approx(0.0099)


def test_random_weights_are_not_judged(tmp_path):
    log: list[tuple[str, str]] = []
    group = Group(lanes("unfused fp32", "eager bf16", random=True))
    bench.measure_group(group, random_image(4, 4), 1, tmp_path, start=lambda c: Fake(log, c, answers([1.0])))
    assert "psnr" not in [method for _, method in log]
    assert [lane.psnr_lost for lane in group.lanes] == [None, None]


def test_pairs_of_the_samples_are_photos_and_what_they_are_reduced_to():
    for low, reference in bench.sample_pairs(4):
        assert tuple(4 * side for side in low.shape[1:]) == reference.shape[1:]
        np.testing.assert_array_equal(low, reduced(Image(torch.from_numpy(reference)), 4).pixels.numpy())


# ------------------------------------------------------------------------------------------ 2. what is measured


def test_models_are_what_is_here_or_random(tmp_path):
    weights = tmp_path / "mine.safetensors"
    bench.write_random_weights({**TINY, "upscale": 2}, weights)
    embedded, mine, absent = bench.find_models(["hat-xs", str(weights), "hat-s"], 4, tmp_path)
    assert embedded == Model("hat-xs", "hat-xs", random=False)
    assert mine == Model("mine", str(weights), random=False)
    assert (absent.name, absent.random) == ("hat-s", True)
    assert Path(absent.source).parent == tmp_path
    (other,) = bench.find_models(["hat-xs"], 2, tmp_path)  # no weights of that scale exist
    assert other.random


def test_random_weights_are_the_same_every_time_and_leave_the_callers_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for name in ("a", "b"):
        bench.write_random_weights({**TINY, "upscale": 2}, tmp_path / name)
    assert torch.equal(torch.rand(1), expected)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("hat-xxl", WeightsError, "expected a file, or one of"),
        ("missing.pth", WeightsError, "do not exist"),
        ("bicubic", OptionsError, "no network"),
        ("HAT_SRx2", OptionsError, "upscales by 2"),
    ],
)
def test_names_that_cannot_be_measured(tmp_path, name, error, words):
    with pytest.raises(error, match=words):
        bench.find_models([name], 4, tmp_path)


@pytest.mark.parametrize(
    ("precisions", "backends", "words"),
    [
        (["fp16"], ["eager"], "fp16 is refused"),
        (["auto"], ["eager"], "fp32 or bf16"),
        (["fp32"], ["spandrel"], "one of eager"),
        (["fp32", "fp32"], ["eager"], "each once"),
        (["fp32"], [], "at least one"),
    ],
)
def test_choices_that_cannot_be_measured(precisions, backends, words):
    bench.check_choices(["fp32", "bf16"], ["eager"], CPU)
    with pytest.raises(OptionsError, match=words):
        bench.check_choices(precisions, backends, CPU)


def test_every_exported_form_is_a_backend():
    assert {backend.form for backend in BACKENDS.values()} == {None, *FORMATS}


def test_a_backend_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(bench_worker, "find_spec", lambda name: None)
    with pytest.raises(OptionsError, match=r"backend onnx cannot run: onnxruntime .*pip install 'hatdet\[export\]'"):
        bench.check_choices(["fp32"], ["onnx"], CPU)


def combinations(**changes: Any) -> list[list[str]]:
    arguments = {
        "models": [Model("a", "a", False)],
        "precisions": ["bf16"],
        "backends": ["eager"],
        "tiles": [64],
        "batches": [None],
        **changes,
    }
    groups = bench.groups_of(**arguments, scale=4, device="cpu")
    return [
        [f"{lane.configuration.backend} {lane.configuration.precision}" for lane in group.lanes] for group in groups
    ]


def test_every_group_has_its_peers_first(monkeypatch):
    peers = ["spandrel fp32", "unfused fp32", "unfused bf16"]
    assert combinations() == [[*peers, "eager bf16"]]
    both = [*peers, "eager fp32", "eager bf16", "onnx fp32"]  # which has no bf16
    assert combinations(precisions=["fp32", "bf16"], backends=["eager", "onnx"]) == [both]
    assert len(combinations(tiles=[64, 128], batches=[1, 4])) == 4
    monkeypatch.setattr(bench_worker, "find_spec", lambda name: None)
    assert combinations() == [["unfused fp32", "unfused bf16", "eager bf16"]]
    assert "pip install spandrel" in (PEERS["spandrel"].missing() or "")


@pytest.mark.parametrize("size_wh", [(64, 48), (1, 1), (500, 300)])
def test_the_picture_has_the_size_and_8_bits(size_wh):
    image = bench.bench_picture(size_wh)
    assert (image.width, image.height) == size_wh
    assert torch.equal(image.pixels, (image.pixels * 255).round() / 255)
    assert size_wh == (1, 1) or image.pixels.std() > 0.05


# ------------------------------------------------------------------------------------------ 3. peers and workbench


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Configuration:
    """A tiny network on disk; whatever replaces the attention of this process is undone."""
    monkeypatch.setattr(hat_blocks, "attend", hat_blocks.attend)
    bench.write_random_weights({**TINY, "upscale": 2}, tmp_path / "tiny.safetensors")
    return Configuration(str(tmp_path / "tiny.safetensors"), scale=2, tile=16, device="cpu")


def test_plain_attention_is_attention():
    torch.manual_seed(0)
    q, k, v = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 7, 4), torch.rand(2, 3, 7, 4)
    bias = torch.rand(1, 3, 5, 7)
    expected = attend(q, k, v, bias, 0.3)
    assert relative_difference(bench_worker.plain_attention(q, k, v, bias, 0.3), expected) < 1e-6
    assert relative_difference(bench_worker.plain_attention(q, k, v, 0 * bias, 0.3), expected) > 1e-3


@pytest.mark.parametrize("backend", ["spandrel", "unfused"])
@pytest.mark.parametrize("size_hw", [(16, 16), (19, 30)])
def test_peers_compute_the_same(tiny, backend, size_hw):
    """At sizes that are no multiple of the window too, and over several tiles."""
    image = random_image(*size_hw).pixels.numpy()
    own = Workbench(tiny)
    own.warm_up(image)
    expected = own.picture()
    peer = Workbench(replace(tiny, backend=backend))
    peer.warm_up(image)
    assert expected.shape == (3, 2 * size_hw[0], 2 * size_hw[1])
    np.testing.assert_allclose(peer.picture(), expected, atol=2 / 65535)
    assert np.std(expected) > 0.05


def test_the_unfused_peer_uses_plain_attention_and_nobody_else_does(tiny, monkeypatch):
    calls = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return plain(*arguments)

    plain = bench_worker.plain_attention
    monkeypatch.setattr(bench_worker, "plain_attention", counted)
    for backend in ("eager", "spandrel"):
        Workbench(replace(tiny, backend=backend)).warm_up(GREY)
    assert not calls
    Workbench(replace(tiny, backend="unfused")).warm_up(GREY)
    attentions = sum(TINY["depths"]) + len(TINY["depths"])
    assert len(calls) >= 2 * attentions  # two runs; a shifted block attends by groups of windows


def test_work_is_counted_by_hand(tmp_path, monkeypatch):
    """One block, one window: every product is known."""
    monkeypatch.setattr(hat_blocks, "attend", hat_blocks.attend)
    options = {**TINY, "depths": [1], "num_heads": [3], "upscale": 2}
    bench.write_random_weights(options, tmp_path / "one.safetensors")
    found = Workbench(Configuration(str(tmp_path / "one.safetensors"), scale=2, backend="unfused", device="cpu"))
    found.warm_up(random_image(8, 8).pixels.numpy())
    c, f, tokens, keys = 12, 8, 64, 144
    linears = 2 * (3 * c * c + c * c + 2 * c * 2 * c)  # qkv, proj, MLP of a HAB and of an OCAB
    attention = 2 * c * (tokens + keys)
    convs = 9 * c * (c // 4) * 2 + 9 * c * c * 2 + 9 * 3 * c + 9 * c * f + 9 * f * 4 * f + 4 * 9 * f * 3
    squeezed = 2 * c * (c // 6)  # the channel attention, of one pixel
    assert found.flops() == 2 * (tokens * (linears + attention + convs) + squeezed)


def test_a_run_is_timed_and_matmuls_after_it(tiny, monkeypatch):
    workbench = Workbench(tiny)
    workbench.warm_up(GREY)
    now = iter(range(1000))
    monkeypatch.setattr(bench_worker.time, "perf_counter", lambda: 0.5 * next(now))
    seconds, rate = workbench.run()
    assert seconds == 0.5
    assert rate == pytest.approx(2 * 1024**3 / 0.5 / 1e9)


def test_the_chain_reads_and_writes_pictures(tiny, tmp_path):
    from hatdet.imaging.files import write_image

    sources = [str(tmp_path / f"{name}.png") for name in "ab"]
    for source in sources:
        write_image(random_image(20, 24), Path(source))
    workbench = Workbench(tiny)
    workbench.warm_up(GREY)
    out = tmp_path / "out"
    assert workbench.chain(sources, str(out), overlapped) > 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]
    assert workbench.alone(sources) > 0


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0), ([(1, 2)], 1), ([(3, 5), (1, 2)], 3), ([(1, 4), (2, 3)], 3), ([(1, 3), (2, 5), (5, 6)], 5)],
)
def test_covered(spans, length):
    assert bench_worker.covered(spans) == length


# ------------------------------------------------------------------------------------------ 4. the process


def test_a_configuration_lives_in_a_process_of_its_own(tiny, capfd):
    """Built, asked, refused, killed."""
    worker = Worker(replace(tiny, backend="unfused", threads=1, tile=240))
    wrong = Worker(replace(tiny, upscaler="hat-xxl"))
    try:
        assert worker.ask("about") == {"device": "cpu", "threads": 1}
        worker.ask("warm_up", random_image(20, 16).pixels.numpy())
        found = worker.ask("upscaled", random_image(20, 16, seed=1).pixels.numpy())
        # Of a process whose memory nobody used before.
        assert worker.ask("memory", 240, 240) > worker.ask("memory", 8, 8) + 10_000_000
        with pytest.raises(WorkerError, match="AttributeError"):
            worker.ask("nonsense")
        own = Workbench(replace(tiny, tile=240))
        assert hat_blocks.attend is attend  # not replaced here
        np.testing.assert_allclose(found, own.upscaled(random_image(20, 16, seed=1).pixels.numpy()), atol=1.01 / 255)
        with pytest.raises(WorkerError, match="'hat-xxl' is not known"):
            wrong.ask("about")
        os.kill(worker._process.pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerError, match="exit code -9"):
            worker.ask("about")
    finally:
        worker.close()
        wrong.close()
    assert wrong._process.exitcode == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("backend", "kept"), [("eager", 1), ("unfused", 1), ("spandrel", 0)])
def test_the_memory_is_as_the_commands_have_it(tiny, monkeypatch, backend, kept):
    """Kept on the CPU, before anything is built; spandrel's is what the system makes it."""
    done = []
    monkeypatch.setattr(bench_worker, "keep_freed_memory", lambda: done.append(hat_blocks.attend))
    monkeypatch.setattr(bench_worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(bench_worker.os, "dup2", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    ours.send(("about", ()))
    ours.send(("nonsense", ()))
    process = threading.Thread(target=bench_worker.serve, args=(theirs, replace(tiny, backend=backend)))
    process.start()
    assert ours.recv()[0] == "done"
    assert ours.recv()[0] == "failed"
    ours.close()
    process.join(30)
    assert not process.is_alive()
    assert done == [attend] * kept


def test_exported_forms_are_written_once_and_run(tmp_path, monkeypatch):
    bench.write_random_weights({**TINY, "depths": [1], "num_heads": [3], "upscale": 2}, tmp_path / "tiny.safetensors")
    configuration = Configuration(str(tmp_path / "tiny.safetensors"), 2, backend="torchscript", tile=8, device="cpu")
    prepared = bench._exported(configuration, tmp_path)
    assert prepared.upscaler.endswith("tiny-8.torchscript")
    written = Path(prepared.upscaler).stat().st_mtime_ns
    assert bench._exported(configuration, tmp_path) == prepared
    assert Path(prepared.upscaler).stat().st_mtime_ns == written
    eager = replace(configuration, backend="eager")
    assert bench._exported(eager, tmp_path) is eager
    image = random_image(20, 8).pixels.numpy()
    np.testing.assert_allclose(Workbench(prepared).upscaled(image), Workbench(eager).upscaled(image), atol=1.01 / 255)


# ------------------------------------------------------------------------------------------ 5. targets


def test_states():
    least, most = Target("a", "", 2.8, must=2.5), Target("b", "", 1.05, at_least=False)
    assert [Outcome(least, value, "").state for value in (2.8, 2.79, None)] == ["met", "missed", "not run"]
    assert [Outcome(most, value, "").state for value in (1.05, 1.06, None)] == ["met", "missed", "not run"]
    assert Outcome(least, 2.6, "x").as_row()["detail"] == "the must of 2.5 x is met; x"
    assert Outcome(least, 2.4, "x").as_row()["detail"] == "the must of 2.5 x is missed too; x"
    assert Outcome(least, 2.9, "x").as_row()["detail"] == "x"
    assert Outcome(Target("c", "", 0.8, unit="%"), 0.75, "").as_row()["shown"] == "75 %"
    assert Outcome(most, 1.2, "").as_row()["bound"] == "<= 1.05 x"


def checks(folder: Path, **changes: Any) -> Checks:
    def never(*_: object) -> Any:
        raise AssertionError("this is not to be run")

    given = {"folder": folder, "runs": 1, "cuda": False, "overlapped": overlapped, "start": never, "run": never}
    return Checks(**{**given, **changes})


def test_what_cannot_be_run_here_says_so(tmp_path):
    keys = [target.key for target in TARGETS if target.key.startswith(("gpu", "memory", "chain"))]
    outcomes = list(check_targets(checks(tmp_path, quick=True), keys))
    assert [outcome.target.key for outcome in outcomes] == keys
    assert {outcome.state for outcome in outcomes} == {"not run"}
    why = {outcome.target.key: outcome.detail for outcome in outcomes}
    assert why["gpu_hat_ms"] == why["memory_device"] == "there is no GPU here"
    assert "--quick" in why["memory_host"]
    assert "--quick" in why["chain_overhead"]


def paper(times: dict[str, float], shifts: dict[str, float] | None = None) -> Callable[[Configuration], Fake]:
    def start(c: Configuration) -> Fake:
        name = f"{c.backend} {c.precision}"
        return Fake([], c, answers([times[name]], shift=(shifts or {}).get(name, 0.0)))

    return start


def outcomes_of(found: Checks, *keys: str) -> dict[str, Outcome]:
    return {outcome.target.key: outcome for outcome in check_targets(found, keys)}


def test_speed_of_hat_s(tmp_path, monkeypatch):
    monkeypatch.setattr(
        bench_targets, "find_models", lambda names, *_: [Model(names[0], names[0], names[0] == "hat-s")]
    )
    times = {
        "spandrel fp32": 3.0,
        "unfused fp32": 2.0,
        "unfused bf16": 2.0,
        "eager fp32": 0.1,
        "eager bf16": 0.05,
    }
    keys = ("cpu_spandrel", "cpu_matmul", "cpu_precision")
    found = outcomes_of(checks(tmp_path, start=paper(times)), *keys)
    assert found["cpu_spandrel"].value == pytest.approx(30)
    assert found["cpu_matmul"].value == pytest.approx(8 / 0.1 / 100)
    assert found["cpu_precision"].value == pytest.approx(60)
    assert "judged" not in found["cpu_spandrel"].detail
    assert "hat-xs (there are no weights of hat-s here)" in found["cpu_precision"].detail
    # A result too far from that of fp32 does not count, however fast.
    far = outcomes_of(checks(tmp_path, start=paper(times, {"eager bf16": 0.02})), *keys)
    assert far["cpu_precision"].value == pytest.approx(30)
    assert far["cpu_precision"].detail.startswith("fp32; eager bf16 loses 0.0200 dB (allowed 0.01)")
    monkeypatch.setattr(bench_worker, "find_spec", lambda name: None)
    without = outcomes_of(checks(tmp_path, start=paper(times)), *keys)
    assert [outcome.state for outcome in without.values()] == ["not run", "met", "not run"]
    assert "pip install spandrel" in without["cpu_spandrel"].detail


def test_the_best_exported_backend_must_be_right(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_exported", lambda configuration, folder: configuration)
    monkeypatch.setitem(BACKENDS, "engine", replace(BACKENDS["engine"], missing=lambda: "not here"))
    for name in ("onnx", "openvino"):
        monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], missing=lambda: None))
    own = {"spandrel fp32": 9.0, "unfused fp32": 2.0, "unfused bf16": 2.0, "eager fp32": 1.5, "eager bf16": 1.0}
    exported = {"onnx fp32": 1.5, "openvino fp32": 1.0, "openvino bf16": 0.1, "torchscript fp32": 2.0}
    found = outcomes_of(checks(tmp_path, start=paper(own | exported, {"openvino bf16": 0.02})), "backend")["backend"]
    assert found.value == pytest.approx(1.5)
    assert found.detail.startswith("openvino fp32; ")
    assert found.detail.endswith("openvino bf16 loses 0.0200 dB (allowed 0.01)")
    assert found.state == "met"


def test_overhead_of_detect(tmp_path):
    asked: list[tuple[list[str], int | None]] = []

    def run(arguments: Sequence[str], threads: int | None) -> Command:
        asked.append((list(arguments), threads))
        return Command(0, "hello\n50 images in 21.0 s (2.38 images/s): out\n", 1)

    found = checks(tmp_path, run=run, start=lambda c: Fake([], c, {"warm_up": 1, "alone": [19.0, 21.0]}))
    outcome = outcomes_of(found, "chain_overhead")["chain_overhead"]
    assert outcome.value == pytest.approx(1.05)
    assert outcome.state == "met"
    ((arguments, threads),) = asked
    assert arguments[:2] == ["detect", "--upscale"]
    assert threads == 2
    assert len(list(Path(arguments[2]).glob("*.png"))) == 50
    failed = replace(found, run=lambda *_: Command(1, "49 images in 21.0 s", 1), start=found.start)
    assert outcomes_of(failed, "chain_overhead")["chain_overhead"].state == "not run"


def test_growth_of_the_host(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_targets, "SIDES", (8, 32))
    canvas = 12 * 128 * 128

    def run(arguments: Sequence[str], threads: int | None) -> Command:
        return Command(0, "", 1000 + (canvas * 2 if "32.png" in arguments[1] else 0))

    outcome = outcomes_of(checks(tmp_path, run=run), "memory_host")["memory_host"]
    assert outcome.value == pytest.approx(2)
    assert outcome.state == "missed"
    assert HAT(**bench_targets.TINY).upscale == 4


def test_gpu_targets_on_paper(tmp_path, monkeypatch):
    """No GPU runs in the tests: what is asked of one, and what is made of the answers."""
    monkeypatch.setattr(bench_targets, "find_models", lambda names, *_: [Model(names[0], names[0], True)])
    times = {"spandrel fp32": 0.7, "unfused fp32": 0.5, "unfused bf16": 0.3, "eager bf16": 0.1}
    extra = {"busy": 0.93, "memory": [1_000_000_000, 1_060_000_000]}

    def start(c: Configuration) -> Fake:
        assert c.device == "cuda"
        fake = Fake([], c, answers([times[f"{c.backend} {c.precision}"]]))
        fake.answers |= {key: list(value) if isinstance(value, list) else value for key, value in extra.items()}
        return fake

    keys = [target.key for target in TARGETS if target.key.startswith("gpu")] + ["memory_device"]
    found = outcomes_of(checks(tmp_path, cuda=True, start=start), *keys)
    assert {key: outcome.state for key, outcome in found.items()} == {
        "gpu_hat_ms": "met",
        "gpu_hat_spandrel": "met",
        "gpu_hat_s_ms": "missed",
        "gpu_busy": "met",
        "memory_device": "missed",
    }
    assert found["gpu_hat_ms"].value == pytest.approx(100)
    assert found["memory_device"].value == pytest.approx(1.06)


def test_a_command_is_run_and_watched():
    done = bench_targets.run_command(["sr", "missing.png"], threads=1)
    assert done.code == 2
    assert "missing.png does not exist" in done.stderr
    assert done.peak > 10_000_000


def test_images_keep_their_pixels_on_the_way(tiny):
    """What a worker is sent is what is upscaled: as the product does it."""
    from hatdet.sr.upscalers import load_upscaler

    image = random_image(20, 16)
    own = load_upscaler(tiny.upscaler, 2, device="cpu", tile=16)(Image(image.pixels))
    np.testing.assert_array_equal(Workbench(tiny).upscaled(image.pixels.numpy()), own.pixels.numpy())
