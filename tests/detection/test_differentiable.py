"""The detector that gradients pass: what it sees, what it says, and that it stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hatdet.core.errors import WeightsError
from hatdet.core.types import Image
from hatdet.detection.differentiable import Boxes, DifferentiableDetector, load_differentiable
from hatdet.detection.letterbox import Letterbox, rounded
from hatdet.detection.weights import load_model, save_model
from hatdet.detection.yolo import YoloDetector
from tests.detection.tiny_detector import tiny_detector_file, tiny_model
from tests.helpers import random_image, tiny_hat

HEADS = ["v8/yolov8", "11/yolo11", "v10/yolov10n", "26/yolo26"]


def boxes(*rows: tuple[int, int, float, float, float, float]) -> Boxes:
    """Rows of image, class, x1, y1, x2, y2."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Boxes(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


def first_inputs(model: nn.Module) -> list[torch.Tensor]:
    """What reaches the first layer, from now on."""
    seen: list[torch.Tensor] = []
    model.model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    return seen


# ------------------------------------------------------------------------------------------ 1. what it sees


@pytest.mark.parametrize("size_hw", [(64, 96), (50, 70), (33, 64)])
def test_it_sees_bit_for_bit_what_the_detector_of_the_chain_sees(size_hw):
    model = tiny_model()
    seen = first_inputs(model)
    image = random_image(*size_hw)
    YoloDetector(model, "tiny")(Image(image.pixels, scale=4))
    DifferentiableDetector(model, "tiny").look(image.pixels[None])
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_a_letterbox_that_resizes_is_the_same_with_gradients_and_lets_them_pass():
    pixels = random_image(20, 30).pixels
    letterbox = Letterbox.fit((20, 30), 64, 32)
    plain = letterbox.apply(pixels)
    wanted = pixels.clone().requires_grad_(True)
    assert torch.equal(letterbox.apply(wanted), plain)
    assert torch.equal(letterbox.apply(torch.stack([pixels, pixels]))[1], plain[0])
    (gradient,) = torch.autograd.grad(letterbox.apply(wanted).sum(), wanted)
    torch.testing.assert_close(gradient.sum(), torch.tensor(3.0 * 43 * 64), rtol=1e-5, atol=0)  # 20x30 to 43x64


def test_rounding_is_exact_forward_and_nothing_backward():
    values = torch.tensor([0.0, 0.3, 0.5, 1.0], requires_grad=True)
    out = rounded(values, 255)
    assert torch.equal(out, values.mul(255).round().div(255))
    (gradient,) = torch.autograd.grad((out * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), values)
    assert gradient.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("view", "box", "expected"),
    [
        (Letterbox((64, 64), (64, 64), 0, 0, (64, 64)), (8, 16, 24, 32), (8, 16, 24, 32)),
        (Letterbox((64, 64), (64, 64), 5, 9, (96, 96)), (8, 16, 24, 32), (17, 21, 33, 37)),
        (Letterbox((64, 64), (32, 32), 0, 4, (64, 64)), (8, 16, 24, 32), (8, 8, 16, 16)),
        (Letterbox((50, 100), (25, 200), 1, 2, (64, 224)), (10, 10, 20, 20), (22, 6, 42, 11)),
    ],
)
def test_boxes_are_placed_where_the_view_puts_the_pixels(view, box, expected):
    placed = view.place(torch.tensor([box], dtype=torch.float32))
    torch.testing.assert_close(placed, torch.tensor([expected], dtype=torch.float32))
    torch.testing.assert_close(view.undo(placed), torch.tensor([box], dtype=torch.float32))


def test_a_canvas_that_is_no_multiple_of_the_stride_is_refused():
    detector = DifferentiableDetector(tiny_model(), "tiny")
    with pytest.raises(ValueError, match=r"multiples of 32, got \(64, 80\)"):
        detector.look(torch.rand(1, 3, 64, 80), Letterbox((64, 80), (64, 80), 0, 0, (64, 80)))


# ------------------------------------------------------------------------------------------ 2. what it says


@pytest.mark.parametrize("base", HEADS)
def test_the_loss_is_ultralytics_own_per_image(base):
    detector = DifferentiableDetector(tiny_model(base), base)
    picture = torch.rand(2, 3, 64, 64)
    labelled = boxes((0, 0, 8, 8, 40, 48), (0, 1, 20, 30, 60, 62), (1, 1, 0, 0, 32, 32))
    ours = detector.loss(detector.look(picture), labelled)
    batch = {
        "img": picture,
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0], [1.0]]),
        "bboxes": torch.tensor([[24, 28, 32, 40], [40, 46, 40, 32], [16, 16, 32, 32]]) / 64.0,
    }
    criterion = detector.model.init_criterion()
    if hasattr(criterion, "one2one"):
        assert detector.head == "one to many"
        criterion.o2m, criterion.o2o = 1.0, 0.0
    theirs = criterion(detector.model(picture), batch)[0].sum() / 2
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("base", ["v10/yolov10n", "26/yolo26"])
def test_of_two_heads_the_one_that_says_the_boxes_is_trained_for(base):
    model = tiny_model(base)
    many = DifferentiableDetector(model, base)
    picture, labelled = torch.rand(1, 3, 64, 64), boxes((0, 0, 8, 8, 40, 48))
    loss_of_many = many.loss(many.look(picture), labelled)
    with torch.no_grad():  # as initialised, the second is a copy of the first
        for parameter in (*model.model[-1].one2one_cv2.parameters(), *model.model[-1].one2one_cv3.parameters()):
            parameter.mul_(1.5)
    torch.testing.assert_close(many.loss(many.look(picture), labelled), loss_of_many)
    model.end2end = True
    one = DifferentiableDetector(model, base)
    assert one.head == "one to one"
    seen = one.look(picture.requires_grad_(True))
    loss = one.loss(seen, labelled)
    assert abs(float(loss.detach() - loss_of_many.detach())) > 1e-3
    criterion = one.model.init_criterion()
    batch = {
        "batch_idx": torch.zeros(1),
        "cls": torch.zeros(1, 1),
        "bboxes": torch.tensor([[24, 28, 32, 40]]) / 64.0,
    }
    torch.testing.assert_close(loss, criterion.one2one.loss(seen.predictions["one2one"], batch)[0].sum())
    (gradient,) = torch.autograd.grad(loss, picture)
    assert float(gradient.norm()) > 0


def test_a_moved_view_has_the_loss_of_the_moved_picture():
    detector = DifferentiableDetector(tiny_model(), "tiny")
    picture = torch.rand(1, 3, 64, 64)
    view = Letterbox((64, 64), (64, 64), 11, 7, (96, 96))
    moved = view.apply(picture)
    there = detector.loss(detector.look(picture, view), boxes((0, 0, 8, 8, 40, 48)))
    by_hand = detector.loss(detector.look(moved), boxes((0, 0, 15, 19, 47, 59)))
    torch.testing.assert_close(there, by_hand)


def test_features_are_the_maps_that_the_head_reads():
    model = tiny_model("11/yolo11")
    read: list[list[torch.Tensor]] = []
    model.model[-1].register_forward_pre_hook(lambda _, given: read.append([level.clone() for level in given[0]]))
    seen = DifferentiableDetector(model, "tiny").look(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape[2:]) for level in seen.features] == [(8, 12), (4, 6), (2, 3)]
    for ours, theirs in zip(seen.features, read[0], strict=True):
        assert torch.equal(ours, theirs)


def test_no_boxes_are_a_loss_of_classes_alone():
    detector = DifferentiableDetector(tiny_model(), "tiny")
    seen = detector.look(torch.rand(1, 3, 64, 64).requires_grad_(True))
    loss = detector.loss(seen, boxes())
    scores = seen.predictions["scores"]
    expected = nn.functional.softplus(scores).sum() * detector.model.args.cls
    torch.testing.assert_close(loss, expected)


# ------------------------------------------------------------------------------------------ 3. gradients


def test_finite_differences_agree_for_a_weight_of_the_upscaler():
    """Along the gradient, with the assignment of boxes to predictions held fixed: that is not differentiated."""
    network = tiny_hat(upscale=4).double()
    with torch.no_grad():  # near what bicubic interpolation would give, inside [0, 1]
        network.conv_last.weight.mul_(0.02)
        network.conv_last.bias.fill_(0.1)
    detector = DifferentiableDetector(tiny_model(), "tiny")
    low = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    labelled = boxes((0, 0, 8, 8, 40, 48), (0, 1, 20, 30, 60, 62))
    weight = network.conv_last.weight
    held: list[tuple[torch.Tensor, ...]] = []
    assigner = detector.criterion.assigner
    real = assigner.forward

    def once(*given):
        if not held:
            held.append(tuple(one.clone() for one in real(*given)))
        return held[0]

    assigner.forward = once

    def loss() -> torch.Tensor:
        output = network(low)
        assert 0 < float(output.detach().min()) < float(output.detach().max()) < 1
        return detector.loss(detector.look(output), labelled)

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = gradient / gradient.norm()

    def central(step: float) -> float:
        with torch.no_grad():
            weight.add_(step * direction)
            above = float(loss())
            weight.sub_(2 * step * direction)
            below = float(loss())
            weight.add_(step * direction)
        return (above - below) / (2 * step)

    # Richardson's: steps small enough for the curvature alone would drown in float32.
    numeric = (4 * central(1e-2) - central(2e-2)) / 3
    analytic = float(gradient.norm())
    assert analytic > 1e-3
    assert numeric == pytest.approx(analytic, rel=0.01)


@pytest.mark.parametrize("base", HEADS)
def test_the_detector_does_not_move(base):
    """Weights and the statistics of batch norms, bitwise; no parameter has a gradient; in whatever mode it is put."""
    detector = DifferentiableDetector(tiny_model(base), base)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    picture = torch.rand(2, 3, 64, 64, requires_grad=True)
    for mode in (True, False):
        detector.train(mode)
        seen = detector.look(picture)
        loss = detector.loss(seen, boxes((0, 0, 8, 8, 40, 48))) + seen.features[0].abs().mean()
        loss.backward()
    assert picture.grad is not None
    assert float(picture.grad.norm()) > 0
    assert not any(module.training for module in detector.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in detector.parameters())
    after = detector.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_it_works_after_inference_mode_and_under_autocast():
    detector = DifferentiableDetector(tiny_model(), "tiny")
    picture = torch.rand(1, 3, 64, 64)
    plain = detector.look(picture).features[0]
    with torch.no_grad():
        detector.look(picture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = detector.look(picture.requires_grad_(True))
        loss = detector.loss(seen, boxes((0, 0, 8, 8, 40, 48)))
    assert torch.equal(seen.features[0], plain)
    loss.backward()
    assert picture.grad is not None


# ------------------------------------------------------------------------------------------ 4. files


def test_a_saved_model_says_the_same(tmp_path):
    file = tiny_detector_file(tmp_path / "tiny.safetensors")
    picture = torch.rand(1, 3, 64, 64)
    loaded = load_differentiable(file)
    assert loaded.name == "tiny"
    assert loaded.class_names == {0: "thing", 1: "other"}
    original = DifferentiableDetector(tiny_model(), "tiny")
    torch.testing.assert_close(
        loaded.look(picture).features[2], original.look(picture).features[2], rtol=0.02, atol=0.02
    )  # fp16
    again = tmp_path / "again.safetensors"
    save_model(load_model(file, fuse=False), again)
    assert torch.equal(load_differentiable(again).look(picture).features[2], loaded.look(picture).features[2])


def test_a_head_without_such_a_loss_is_refused():
    model = load_model_of_another_kind()
    with pytest.raises(WeightsError, match=r"fused cannot train an upscaler: expected a YOLO detection head"):
        DifferentiableDetector(model, "fused")


def load_model_of_another_kind() -> nn.Module:
    """Fused for inference by its second head, a model has lost the first."""
    model = tiny_model("v10/yolov10n")
    model.end2end = True
    return model.fuse(verbose=False)
