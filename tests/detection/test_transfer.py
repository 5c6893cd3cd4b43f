"""Weights go to the layers they belong to, past rows that only one of two models has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hatdet.detection.attention  # noqa: F401
from hatdet.detection.transfer import match_layers, transfer_weights


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def conv(a: int, b: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 1)


@pytest.mark.parametrize(
    ("target", "source", "expected"),
    [
        (net(conv(3, 4), nn.GELU(), conv(4, 5)), net(conv(3, 4), conv(4, 5)), [0, None, 1]),  # one row more
        (net(conv(3, 4), conv(4, 5)), net(conv(3, 4), nn.GELU(), conv(4, 5)), [0, 2]),  # one row less
        (net(nn.GELU(), conv(3, 4)), net(conv(3, 4)), [None, 0]),
        (net(conv(3, 4), nn.GELU()), net(conv(3, 4)), [0, None]),
        # An inserted row of a class that is there already: shapes tell.
        (net(conv(3, 4), conv(4, 4), conv(4, 5)), net(conv(3, 4), conv(4, 5)), [0, None, 1]),
        (net(conv(3, 4), conv(4, 5)), net(conv(3, 4), conv(4, 4), conv(4, 5)), [0, 2]),
        # Another width fits nowhere by shape, and still each layer has its place.
        (net(conv(3, 8), nn.GELU(), conv(8, 9)), net(conv(3, 4), nn.GELU(), conv(4, 5)), [0, 1, 2]),
        (net(nn.GELU()), net(conv(3, 4)), [None]),
        (net(conv(3, 4)), net(), [None]),
    ],
)
def test_layers_are_matched_in_order(target, source, expected):
    assert match_layers(target, source) == expected


def build(rows_after: dict[int, list] | None = None, classes: int = 5):
    """A YOLO of a few thousand parameters; `rows_after` inserts rows behind a backbone layer."""
    from ultralytics.nn.tasks import DetectionModel

    backbone = [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16]],
        [-1, 1, "Conv", [32, 3, 2]],
    ]
    extra = 0
    for after, row in (rows_after or {}).items():
        backbone.insert(after + 1, row)
        extra += 1
    head = [[-1, 1, "Conv", [16, 1, 1]], [[4 + extra], 1, "Detect", ["nc"]]]
    torch.manual_seed(len(backbone))
    return DetectionModel({"nc": classes, "backbone": backbone, "head": head}, verbose=False).eval()


def test_every_tensor_of_the_source_comes_over_and_is_counted():
    source, model = build(), build({2: [-1, 1, "HaloAttention", ["c2", 2, 1, 8, 2]]})
    transfer = transfer_weights(model, source)
    before = source.state_dict()
    for name, tensor in model.state_dict().items():
        _, index, rest = name.split(".", 2)
        if int(index) != 3:
            assert torch.equal(tensor, before[f"model.{int(index) - (int(index) > 3)}.{rest}"]), name
    new = sum(name.startswith("model.3.") for name in model.state_dict())
    assert (transfer.transferred, transfer.total) == (len(before), len(before) + new)
    assert transfer.new_layers == ((3, "HaloAttention"),)
    counts = f"transferred {len(before)} of {len(before) + new} tensors from pretrained weights"
    assert str(transfer) == f"{counts}; new: layer 3 (HaloAttention)"


def test_ultralytics_own_load_loses_what_stands_behind_the_row():
    source, model = build(), build({2: [-1, 1, "HaloAttention", ["c2", 2, 1, 8, 2]]})
    model.load(source, verbose=False)
    assert not torch.equal(model.model[4].conv.weight, source.model[3].conv.weight)


def test_with_a_gate_the_model_says_what_its_source_says():
    source = build()
    rows = {0: [-1, 1, "HATBlock", ["c2", 2, 2, 1, 2, 2, 0.01, 1.0, 2.0, True]], 3: [-1, 1, "EMA", ["c2", 2, True]]}
    model = build(rows)
    transfer_weights(model, source)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(x)[0], source(x)[0])
        model.model[1].gate.fill_(1)
        assert not torch.allclose(model(x)[0], source(x)[0])


def test_source_and_its_layers_stay_as_they_were():
    source = build()
    layers, names = list(source.model), list(source.state_dict())
    transfer_weights(build({2: [-1, 1, "MSCA", ["c2"]]}), source)
    assert list(source.model) == layers
    assert list(source.state_dict()) == names


def test_another_number_of_classes_leaves_the_class_rows_alone():
    source, model = build(classes=5), build({2: [-1, 1, "MSCA", ["c2"]]}, classes=3)
    transfer = transfer_weights(model, source)
    assert 0 < transfer.transferred < len(source.state_dict())
    assert torch.equal(model.model[4].conv.weight, source.model[3].conv.weight)


def test_a_checkpoint_dictionary_gives_its_average():
    average, last, model = build(), build(), build({2: [-1, 1, "MSCA", ["c2"]]})
    with torch.no_grad():
        average.model[0].conv.weight.fill_(0.5)
    transfer_weights(model, {"model": last, "ema": average})
    assert float(model.model[0].conv.weight.detach().mean()) == 0.5
