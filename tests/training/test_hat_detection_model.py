"""Training through a detector: what learns, what does not, and what a run leaves behind."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from hatdet.core.errors import OptionsError, TrainingError
from hatdet.detection.differentiable import DifferentiableDetector
from hatdet.detection.weights import load_model
from hatdet.training.detector_tuning import mixed
from hatdet.training.hat_detection_model import HATDetectionModel, random_view
from hatdet.training.options import read_options
from hatdet.training.run import measure, train
from tests.detection.tiny_detector import tiny_detector_file
from tests.training.helpers import detection_data, detection_file, detection_options

pytestmark = pytest.mark.usefixtures("logs_reach_caplog")


@pytest.fixture
def made(monkeypatch):
    """The models that were built, in their order."""
    built = []
    real = HATDetectionModel.__init__

    def remembered(self, opt):
        real(self, opt)
        built.append(self)

    monkeypatch.setattr(HATDetectionModel, "__init__", remembered)
    return built


def lines(caplog):
    return "\n".join(record.getMessage() for record in caplog.records)


def saved(folder, iteration):
    file = torch.load(folder / "models" / f"net_g_{iteration}.pth", weights_only=True)
    return {f"{kind}.{key}": value for kind in ("params", "params_ema") for key, value in file[kind].items()}


# ------------------------------------------------------------------------------------------ 1. what learns


def test_the_upscaler_learns_and_the_detector_stays_as_it_is(tmp_path, made, caplog):
    options = detection_options(tmp_path, 4)
    train(options)
    (model,) = made
    original = DifferentiableDetector(load_model(tmp_path / "tiny.safetensors", fuse=False), "tiny")
    now = model.detectors[0].state_dict()
    assert all(torch.equal(value, now[key]) for key, value in original.state_dict().items())
    start = saved(tmp_path / "experiments" / "tiny", 4)
    train(detection_options(tmp_path, 0, name="start"))
    before = torch.load(tmp_path / "experiments" / "start" / "models" / "net_g_latest.pth", weights_only=True)["params"]
    assert max(float((start[f"params.{key}"] - value).abs().max()) for key, value in before.items()) > 1e-4
    for name in ("l_pix", "l_lq", "l_feat", "l_box", "grad_norm"):
        assert f"{name}: " in lines(caplog)
    assert "Detector tiny: boxes of its one to many head" in lines(caplog)


@pytest.mark.parametrize("key", ["feature_opt", "box_opt"])
def test_each_loss_alone_has_a_gradient_for_the_whole_network(tmp_path, made, key):
    options = detection_options(tmp_path, 1, ema_decay=0)
    for other in ("pixel_opt", "feature_opt", "box_opt", "consistency_opt"):
        if other != key:
            options["train"][other] = None
    options["train"]["pixel_opt"] = {"type": "L1Loss", "loss_weight": 0.0}
    options["network_g"]["drop_path_rate"] = 0.0
    options["datasets"]["train"]["labelled_share"] = 1.0
    train(options)
    (model,) = made
    assert list(model.log_tensors) == ["l_pix", {"feature_opt": "l_feat", "box_opt": "l_box"}[key], "grad_norm"]
    gradients = {name: parameter.grad for name, parameter in model.net_g.named_parameters()}
    silent = [name for name, gradient in gradients.items() if gradient is None or float(gradient.norm()) == 0]
    assert silent == []


def test_losses_count_by_their_schedules(tmp_path):
    options = detection_options(tmp_path, 4)
    options["train"]["feature_opt"]["schedule"] = {"from_iter": 2, "ramp_iter": 2}
    options["train"]["box_opt"]["schedule"] = {"every": 2}
    options["train"]["pixel_opt"]["schedule"] = {"until_iter": 3}
    options["datasets"]["train"]["labelled_share"] = 1.0
    seen = []
    train(options, on_step=lambda iteration, total, logged: seen.append({name for name in logged if name[0] == "l"}))
    assert seen == [
        {"l_pix", "l_lq"},
        {"l_pix", "l_lq", "l_feat", "l_box"},
        {"l_pix", "l_lq", "l_feat"},
        {"l_lq", "l_feat", "l_box"},
    ]


def test_boxes_of_unlabelled_photos_are_not_missed(tmp_path, made):
    """What a detector sees in a photo without labels is not held against it."""
    options = detection_options(tmp_path, 1)
    options["datasets"]["train"]["labelled_share"] = 0.0
    train(options)
    (model,) = made
    assert "l_box" not in model.log_tensors
    assert "l_feat" in model.log_tensors


def test_labels_are_told_to_the_detector_in_its_own_numbers(tmp_path, made, caplog):
    tiny_detector_file(tmp_path / "other.safetensors", names=("bird", "other", "thing"))
    options = detection_options(tmp_path, 1)
    options["detection"]["detectors"] = [str(tmp_path / "other.safetensors")]
    train(options)
    (model,) = made
    assert model.classes_for(model.detectors[0]).tolist() == [2, 1]
    detection_data(tmp_path)
    content = yaml.safe_load((tmp_path / "boxes" / "data.yaml").read_text())
    content["names"] = {0: "cat", 1: "other"}
    (tmp_path / "boxes" / "data.yaml").write_text(yaml.safe_dump(content))
    options = detection_options(tmp_path, 1, name="cats")
    options["detection"]["detectors"] = [str(tmp_path / "other.safetensors")]
    train(options)
    assert made[1].classes_for(made[1].detectors[0]).tolist() == [-1, 1]
    assert "other does not know cat: their boxes are left out" in lines(caplog)


def test_several_detectors_take_turns(tmp_path, made, monkeypatch):
    tiny_detector_file(tmp_path / "second.safetensors", base="11/yolo11", seed=1)
    options = detection_options(tmp_path, 4)
    options["detection"]["detectors"].append(str(tmp_path / "second.safetensors"))
    turns = []
    real = DifferentiableDetector.look

    def look(self, pixels, view=None):
        if pixels.requires_grad:
            turns.append(self.name)
        return real(self, pixels, view)

    monkeypatch.setattr(DifferentiableDetector, "look", look)
    train(options)
    assert turns == ["second", "tiny", "second", "tiny"]


def test_random_views_have_one_canvas_and_hold_the_whole_picture():
    views = [random_view((64, 96), 32, 31, (0.75, 1.25)) for _ in range(50)]
    assert {view.canvas_hw for view in views} == {(128, 160)}
    for view in views:
        (h, w), (canvas_h, canvas_w) = view.resized_hw, view.canvas_hw
        assert 0 <= view.top <= 31
        assert 0 <= view.left <= 31
        assert view.top + h <= canvas_h
        assert view.left + w <= canvas_w
    assert min(view.resized_hw[0] for view in views) < 56
    assert max(view.resized_hw[0] for view in views) > 72


# ------------------------------------------------------------------------------------------ 2. going on, going wrong


def test_4_iterations_are_2_and_2_more(tmp_path):
    """Views, turns, schedules and the draws of boxes follow from the iteration."""

    def options(name, total):
        made = detection_options(tmp_path, total, name=name)
        made["train"]["box_opt"]["schedule"] = {"from_iter": 2, "ramp_iter": 4}
        made["logger"]["save_checkpoint_freq"] = 2
        return made

    train(options("whole", 4))
    train(options("parts", 2))
    train(options("parts", 4), auto_resume=True)
    whole, parts = (saved(tmp_path / "experiments" / name, 4) for name in ("whole", "parts"))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-6, msg=key)


def test_a_step_that_makes_nan_is_skipped_and_counted(tmp_path, made, monkeypatch, caplog):
    real = HATDetectionModel.losses

    def losses(self, output, part, current_iter):
        found = real(self, output, part, current_iter)
        if current_iter in (2, 4):
            found["l_feat"] = found["l_feat"] * float("nan")
        return found

    monkeypatch.setattr(HATDetectionModel, "losses", losses)
    train(detection_options(tmp_path, 5, skip_not_finite=1))
    (model,) = made
    assert model.skipped == 2
    assert "iteration 2: the loss is nan and its gradient's norm nan: the step is left out (1 so far)" in lines(caplog)
    assert all(value.isfinite().all() for value in saved(tmp_path / "experiments" / "tiny", 5).values())
    state = torch.load(tmp_path / "experiments" / "tiny" / "training_states" / "5.state", weights_only=True)
    assert state["skipped"] == 2


def test_too_many_in_a_row_end_the_run(tmp_path, monkeypatch):
    real = HATDetectionModel.losses
    monkeypatch.setattr(
        HATDetectionModel,
        "losses",
        lambda self, *given: {name: value * float("nan") for name, value in real(self, *given).items()},
    )
    with pytest.raises(TrainingError, match="iteration 3: the loss is nan"):
        train(detection_options(tmp_path, 5, skip_not_finite=2))


# ------------------------------------------------------------------------------------------ 3. tuned detectors


def test_tuned_detectors_learn_are_saved_and_taken_up_again(tmp_path, made):
    def options(name, total):
        made = detection_options(tmp_path, total, name=name)
        made["detection"]["tune"] = {"lr": 0.01, "from_iter": 2}
        made["datasets"]["train"]["labelled_share"] = 1.0
        made["logger"]["save_checkpoint_freq"] = 2
        return made

    train(options("whole", 4))
    train(options("parts", 2))
    train(options("parts", 4), auto_resume=True)
    whole, first, parts = made
    frozen = load_model(tmp_path / "tiny.safetensors", fuse=False).state_dict()
    tuned = whole.detectors[0].model.state_dict()
    moved = [key for key in frozen if not torch.equal(frozen[key], tuned[key])]
    assert len(moved) > 50
    assert not [key for key in moved if "running" in key or ".dfl." in key]  # statistics stay
    assert all(not parameter.requires_grad for parameter in whole.detectors[0].parameters())
    again = parts.detectors[0].model.state_dict()
    for key, value in tuned.items():
        torch.testing.assert_close(again[key], value, rtol=0, atol=1e-6, msg=key)
    assert "l_detector" in whole.log_tensors
    assert first.log_tensors.keys() == whole.log_tensors.keys()
    file = tmp_path / "experiments" / "whole" / "models" / "detector_tiny_latest.safetensors"
    half = load_model(file, fuse=False).state_dict()
    torch.testing.assert_close(half["model.0.conv.weight"], tuned["model.0.conv.weight"], rtol=1e-3, atol=1e-3)


def test_mixed_pictures_have_cells_of_both():
    torch.manual_seed(0)
    mixture = mixed(torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32))
    cells = mixture.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)  # 8x8 cells of 16 pixels
    assert torch.equal(cells.amin(4), cells.amax(4))
    assert torch.equal(mixture[:, 0], mixture[:, 2])
    assert 0.3 < float(mixture.mean()) < 0.7
    assert not torch.equal(mixture[0], mixture[1])


# ------------------------------------------------------------------------------------------ 4. validation


def test_validation_is_the_evaluations_own_and_is_kept(tmp_path, made, caplog):
    tiny_detector_file(tmp_path / "witness.safetensors", seed=3)
    options = detection_options(tmp_path, 2)
    options["detection"]["witnesses"] = [str(tmp_path / "witness.safetensors")]
    options["val"]["val_freq"] = 1
    finished = train(options)
    folder = tmp_path / "experiments" / "tiny"
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert [row["iter"] for row in rows] == [0, 1, 2]
    metrics = {"psnr_y", "ssim_y", "map50_95", "ap_small", "map50_95 witness", "ap_small witness"}
    controls = {
        f"{m}@{arm}{end}" for m in ("map50_95", "ap_small") for arm in ("bicubic", "hr") for end in ("", " witness")
    }
    assert set(rows[0]) - {"iter", "dataset"} == metrics | controls
    assert set(rows[1]) - {"iter", "dataset"} == metrics
    assert set(finished.scores["held"]) == metrics
    assert made[0].best_metric_results["held"]["map50_95"]["iter"] in (0, 1, 2)
    assert "COCO, tiny, confidence 0.001" in lines(caplog)
    curve = (folder / "curve_held.svg").read_text()
    assert curve.lstrip().startswith("<?xml")
    assert "<!-- mAP50-95 -->" in curve  # text is drawn as outlines, and said beside them
    assert "<!-- bicubic -->" in curve


def test_the_numbers_are_those_of_hatdet_eval(tmp_path):
    """By the command's own machinery, on the network that was saved."""
    from typer.testing import CliRunner

    from hatdet.cli.app import app

    options = detection_options(tmp_path, 1)
    options["scale"] = 2
    finished = train(options)
    network = tmp_path / "experiments" / "tiny" / "models" / "net_g_latest.pth"
    told = CliRunner().invoke(
        app,
        [
            *("eval", "--data", str(tmp_path / "boxes" / "data.yaml"), "--weights", str(tmp_path / "tiny.safetensors")),
            *("--arms", f"bicubic,{network}", "--scale", "2", "--json", str(tmp_path / "eval.json")),
            *("--cache", str(tmp_path / "cache"), "--quiet"),
        ],
    )
    assert told.exit_code == 0, told.output
    row = json.loads((tmp_path / "eval.json").read_text())["rows"][1]
    ours = finished.scores["held"]
    assert ours["psnr_y"] == pytest.approx(row["psnr_y"], abs=1e-4)
    assert ours["map50_95"] == pytest.approx(row["map50_95"], abs=1e-4)


def test_hatdet_test_measures_with_controls(tmp_path):
    train(detection_options(tmp_path, 1))
    options = detection_options(tmp_path, 1, name="measured")
    options["is_train"] = False
    options["datasets"] = {"test_1": {**options["datasets"]["val"], "phase": "test"}}
    options["path"]["pretrain_network_g"] = str(tmp_path / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    options["val"]["save_img"] = False
    scores = measure(options)["held"]
    assert {"psnr_y", "map50_95", "map50_95@bicubic", "map50_95@hr"} <= set(scores)


# ------------------------------------------------------------------------------------------ 5. option files


def set_to(*path_and_value):
    *path, key, value = path_and_value

    def change(options):
        section = options
        for name in path:
            section = section[name]
        section[key] = value

    return change


def test_paths_of_detectors_and_data_are_relative_to_the_root(tmp_path):
    def change(options):
        options["detection"]["detectors"] = ["tiny.safetensors", "yolo11n"]
        options["datasets"]["train"] |= {"data": "boxes/data.yaml", "unlabelled": ["photos"]}

    read = read_options(detection_file(tmp_path, change), train=True)
    assert read["detection"]["detectors"] == [str(tmp_path / "tiny.safetensors"), "yolo11n"]
    assert read["datasets"]["train"]["data"] == str(tmp_path / "boxes" / "data.yaml")
    assert read["datasets"]["train"]["unlabelled"] == [str(tmp_path / "photos")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("detection", None), "detection is missing: HATDetectionModel needs it"),
        (set_to("detection", "detectors", []), "detection:detectors"),
        (set_to("detection", "detectors", ["nowhere/x.pt"]), r"detection:detectors .*nowhere/x\.pt is not there"),
        (set_to("detection", "witnesses", ["tiny.safetensors"]), "detection names tiny twice among its detectors"),
        (set_to("detection", "shfit", 3), "detection:shfit is not known: did you mean shift?"),
        (set_to("detection", "tune", {"lr": 0}), "detection:tune:lr"),
        (set_to("datasets", "train", "unlabelled", ["nowhere"]), "datasets:train:unlabelled .*nowhere is not there"),
        (set_to("datasets", "train", "data", None), "datasets:train:data is missing: DetectionPairedDataset needs it"),
        (set_to("train", "feature_opt", "levles", [3]), "train:feature_opt:levles is not known"),
        (
            set_to("train", "box_opt", "schedule", {"form_iter": 3}),
            "train:box_opt:schedule:form_iter is not known: did you mean from_iter?",
        ),
        (
            set_to("train", "box_opt", "schedule", {"every": 0}),
            "train:box_opt:schedule:every must be at least 1, got 0",
        ),
        (set_to("model_type", "HATModel"), "train:feature_opt needs model_type HATDetectionModel, got HATModel"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    with pytest.raises(OptionsError, match=message):
        read_options(detection_file(tmp_path, change), train=True)


def test_boxes_need_a_data_set_that_has_them(tmp_path):
    def change(options):
        options["datasets"]["train"] = {
            **{key: options["datasets"]["train"][key] for key in ("name", "gt_size", "use_hflip", "use_rot")},
            "type": "ImageNetPairedDataset",
            "dataroot_gt": "photos",
            "io_backend": {"type": "disk"},
            "batch_size_per_gpu": 2,
            "num_worker_per_gpu": 0,
        }

    with pytest.raises(OptionsError, match="train:box_opt needs boxes, which datasets:train of type ImageNetPaired"):
        read_options(detection_file(tmp_path, change), train=True)


def test_photos_without_any_labels_train_by_features(tmp_path):
    options = detection_options(tmp_path, 1)
    options["train"]["box_opt"] = None
    options["datasets"]["train"] = {
        **{
            key: options["datasets"]["train"][key]
            for key in ("name", "phase", "gt_size", "use_hflip", "use_rot", "scale")
        },
        "type": "ImageNetPairedDataset",
        "dataroot_gt": str(tmp_path / "photos"),
        "io_backend": {"type": "disk"},
        "batch_size_per_gpu": 2,
        "num_worker_per_gpu": 0,
    }
    seen = []
    train(options, on_step=lambda iteration, total, logged: seen.append(set(logged)))
    assert "l_feat" in seen[0]
    assert "l_box" not in seen[0]
