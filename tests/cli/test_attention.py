"""`hatdet attention` as its users type it, and what its checks notice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from hatdet.cli.attention import app
from hatdet.core.errors import InputError, OptionsError
from hatdet.detection.attention import inspection, registration
from hatdet.detection.attention.halo import HaloAttention
from hatdet.detection.attention.inspection import (
    attention_module,
    build,
    check_model_file,
    complete_arguments,
    cost_of,
    row_problems,
    stride_at,
    width_problems,
)
from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.registration import AttentionModule, known_modules
from hatdet.detection.model_files import (
    ModelFile,
    find_model_file,
    insert_row,
    model_text,
    read_model_file,
    remove_row,
    stock_model_files,
)

TINY = """
nc: 2
scales:
  n: [1.0, 0.5, 64]
  s: [1.0, 1.0, 64]
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 4]]
  - [-1, 1, Conv, [32, 3, 4]]
head:
  - [-1, 1, Conv, [32, 3, 1]]
  - [[3], 1, Detect, [nc]]
"""


def attention(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def error_lines(result: Result) -> list[str]:
    assert all(line.startswith("error: ") for line in result.stderr.splitlines()), result.stderr
    return [line.removeprefix("error: ") for line in result.stderr.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with yolo11-tiny.yaml, of two scales and a stride of 32."""
    monkeypatch.chdir(tmp_path)
    Path("yolo11-tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture
def tiny(folder: Path) -> ModelFile:
    return read_model_file(folder / "yolo11-tiny.yaml")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[nn.Module]], str]:
    """Register a layer for one test; it is forgotten after it."""
    from ultralytics.nn import tasks

    def register(cls: type[nn.Module]) -> str:
        monkeypatch.setattr(tasks, cls.__name__, cls, raising=False)
        monkeypatch.setitem(registration._KNOWN, cls.__name__, AttentionModule(cls, "s", "p", "o", "c"))
        return cls.__name__

    return register


class Good(AttentionLayer):
    """A layer in which nothing is wrong."""

    def __init__(self, dim: int | None = None, heads: int = 2, residual: bool = False) -> None:
        super().__init__(dim, residual)
        self._check_divides(heads, "heads")
        self.weigh = nn.Conv2d(self.dim, self.dim, 1)

    def attend(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


class Dead(Good):
    """A parameter that no training would change, and one without any connection."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim)
        self.table = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(3))

    def attend(self, x: Tensor) -> Tensor:
        return super().attend(x) + 0 * self.table.sum()


class DeadWhenSmall(Good):
    """A parameter that learns on maps of several pixels only, as the query of a pooled attention does."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim)
        self.query = nn.Parameter(torch.zeros(()))

    def attend(self, x: Tensor) -> Tensor:
        return super().attend(x) + self.query * max(0, x.shape[2] - 5)


class NotFinite(Good):
    """As attention that divides by the side less one."""

    def attend(self, x: Tensor) -> Tensor:
        return x * (x.shape[-1] / torch.tensor(float(x.shape[-1] - 1)))


class Shrinks(Good):
    """Drops the last row of a map that has an even number of them, of maps that the build does not try."""

    def attend(self, x: Tensor) -> Tensor:
        return x if x.shape[2] == 8 else x[:, :, : x.shape[2] // 2 * 2 + 1][:, :, -3:]


class Fails(Good):
    """Needs sides that are multiples of 2, as window attention without padding does."""

    def attend(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, 2)).flatten(2, 3) * self.weigh(x)


class OtherWidth(nn.Module):
    """Built for another width than it is given, and says nothing of it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim + 1
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def problems(model: ModelFile, scale: str = "n") -> list[str]:
    return [problem for finding in check_model_file(model, [scale]) for problem in finding.problems]


# ------------------------------------------------------------------------------------------ check


def test_a_good_file_passes_every_check_at_every_scale(tiny, registered):
    findings = list(check_model_file(insert_row(tiny, 2, registered(Good), ["c2"])))
    assert not any(finding.problems for finding in findings)
    assert [finding.what for finding in findings] == [
        "attention rows: 3 Good",
        *(
            line
            for scale, width, parameters in (("n", 16, findings[1]), ("s", 32, findings[5]))
            for line in (
                f"scale {scale}: builds, {re.findall(r'[0-9,]+ parameters', parameters.what)[0]}",
                f"scale {scale}: widths are those of the rows above: {width}",
                f"scale {scale}: runs at 32x32, 32x96, 96x64, 160x224",
                f"scale {scale}: every attention parameter learns",
            )
        ),
    ]


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (
            Dead,
            [
                "scale n: row 3, Dead: table has a gradient of zero",
                "scale n: row 3, Dead: unused has no gradient",
            ],
        ),
        (DeadWhenSmall, []),
        (
            NotFinite,
            [
                "scale n: at 32x32: row 3 gives values that are not finite",
                "scale n: row 3, NotFinite: weigh.weight has no gradient",
                "scale n: row 3, NotFinite: weigh.bias has no gradient",
            ],
        ),
        (
            Shrinks,
            [
                "scale n: at 160x224: row 3 makes (1, 16, 3, 7) of (1, 16, 5, 7)",
                "scale n: row 3, Shrinks: weigh.weight has no gradient",
                "scale n: row 3, Shrinks: weigh.bias has no gradient",
            ],
        ),
        (OtherWidth, ["scale n: row 3, [-1, 1, OtherWidth, [c2]], was built for 17 channels and is given 16"]),
    ],
)
def test_what_the_checks_notice(tiny, registered, cls, expected):
    assert problems(insert_row(tiny, 2, registered(cls), ["c2"])) == expected


def test_a_layer_that_fails_at_a_size_or_in_training(tiny, registered):
    found = problems(insert_row(tiny, 2, registered(Fails), ["c2"]))
    assert [re.sub(r": RuntimeError: .*", "", line) for line in found] == [
        "scale n: at 32x32",
        "scale n: at 32x96",
        "scale n: at 96x64",
        "scale n: at 160x224",
        "scale n: in training",
    ]
    assert not any("\n" in line for line in found)


def test_the_checks_leave_random_numbers_alone_and_are_the_same_each_time(tiny, registered):
    model = insert_row(tiny, 2, registered(Good), ["c2"])
    before = torch.get_rng_state()
    networks = [build(model, "n") for _ in range(2)]
    assert problems(model) == []
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_gate_that_starts_at_zero_hides_no_parameter(tiny, registered):
    assert problems(insert_row(tiny, 2, registered(Good), ["c2", 2, True])) == []


def test_repeats_make_several_layers_and_all_are_looked_at(tiny, registered):
    model = insert_row(tiny, 2, registered(Good), ["c2"], repeats=3)
    assert next(f.what for f in check_model_file(model, ["n"]) if "widths" in f.what).endswith(": 16, 16, 16")
    assert len(width_problems(insert_row(tiny, 2, registered(OtherWidth), ["c2"], repeats=2), build(model, "n"))) == 0
    wrong = insert_row(tiny, 2, "OtherWidth", ["c2"], repeats=2)
    assert len(width_problems(wrong, build(wrong, "n"))) == 2


def rows_of(model: ModelFile, i: int, **changes: Any) -> ModelFile:
    rows = list(model.rows)
    rows[i] = replace(rows[i], **changes)
    return replace(model, backbone=tuple(rows[: len(model.backbone)]), head=tuple(rows[len(model.backbone) :]))


def test_what_is_wrong_with_rows_as_they_stand(tiny, registered):
    good = insert_row(tiny, 2, registered(Good), ["c2"])
    assert row_problems(good) == []
    assert row_problems(rows_of(good, 3, source=2)) == []
    assert row_problems(insert_row(good, 3, "nn.Identity", [])) == []
    assert row_problems(tiny) == ["no row names an attention layer"]
    assert row_problems(rows_of(good, 3, source=-2)) == [
        "row 3, [-2, 1, Good, [c2]], reads -2: an attention row must read the row above it, -1"
    ]
    for args, text in (((), "[]"), ((16,), "[16]"), ((2, "c2"), "[2, c2]")):
        assert row_problems(rows_of(good, 3, args=args)) == [
            f"row 3, [-1, 1, Good, {text}], does not begin its arguments with c2, the width of the row above it"
        ]
    for name in ("Godo", "nn.Godo", "torchvision.ops.Godo", "LOGGER", "parse_model"):
        assert row_problems(rows_of(good, 1, module=name)) == [
            f"row 1, [-1, 1, {name}, [32, 3, 4]], names a module that neither Ultralytics nor hatdet has: {name}"
        ]


def test_wrong_rows_are_not_built(tiny, registered):
    good = insert_row(tiny, 2, registered(Good), ["c2"])
    findings = list(check_model_file(rows_of(good, 3, args=())))
    assert len(findings) == 1
    assert findings[0].problems


def test_an_alias_is_a_name(tiny):
    assert problems(insert_row(tiny, 2, "DAttentionBaseline", ["c2", 2])) == []


def test_check_prints_a_line_a_check(folder, tiny, registered):
    Path("yolo11-good.yaml").write_text(model_text(insert_row(tiny, 2, registered(Good), ["c2"])))
    result = attention("check", "yolo11-good.yaml")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 9
    assert all(line.startswith("ok  ") for line in lines)
    # The scale of a name, and that of an option.
    for arguments in (("yolo11s-good.yaml",), ("yolo11-good.yaml", "--scale", "s")):
        assert attention("check", *arguments).stdout.splitlines() == [lines[0], *lines[5:]]
    assert attention("check", "yolo11-good.yaml", "--quiet").stdout == ""


def test_check_says_what_is_wrong_and_leaves_with_1(folder, tiny, registered):
    Path("yolo11-dead.yaml").write_text(model_text(insert_row(tiny, 2, registered(Dead), ["c2"])))
    result = attention("check", "yolo11-dead.yaml", "--scale", "n")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 4
    assert error_lines(result) == [
        "yolo11-dead.yaml: scale n: row 3, Dead: table has a gradient of zero",
        "yolo11-dead.yaml: scale n: row 3, Dead: unused has no gradient",
    ]
    # One scale that cannot be built does not hide the other.
    Path("yolo11-odd.yaml").write_text(model_text(insert_row(tiny, 2, registered(Good), ["c2", 32])))
    result = attention("check", "yolo11-odd.yaml")
    assert result.exit_code == 1
    assert error_lines(result) == [
        "yolo11-odd.yaml: the model cannot be built at scale n: heads of Good must be a positive whole number that "
        "divides its width 16, got 32"
    ]
    assert len(result.stdout.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.yaml",), "there is no model file none.yaml: "),
        (("broken.yaml",), "broken.yaml, line 2: "),
        (("yolo11-tiny.yaml", "--scale", "x"), "yolo11-tiny.yaml has no scale 'x': expected one of n, s"),
        (("yolo11x-tiny.yaml",), "yolo11-tiny.yaml has no scale 'x': expected one of n, s"),
    ],
)
def test_check_of_what_cannot_be_checked_leaves_with_2(folder, arguments, message):
    Path("broken.yaml").write_text("backbone: [")
    result = attention("check", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = error_lines(result)
    assert line.startswith(message)


def test_a_file_that_ships_passes():
    result = attention("check", "yolo11n-halo.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "ok  attention rows: 10 HaloAttention"
    assert result.stdout.splitlines()[2] == "ok  scale n: widths are those of the rows above: 256"


# ------------------------------------------------------------------------------------------ add


def test_add_writes_a_file_that_can_be_used(folder):
    result = attention("add", "yolo11-tiny.yaml", "--module", "EMA", "--after", 2, "-o", "made/yolo11-ema.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout == "made/yolo11-ema.yaml: row 3 is [-1, 1, EMA, [c2, 8]]\n"
    text = Path("made/yolo11-ema.yaml").read_text()
    assert text.startswith("# yolo11-tiny.yaml with EMA behind layer 2, by hatdet attention add.\n")
    made, tiny = read_model_file(Path("made/yolo11-ema.yaml")), read_model_file(Path("yolo11-tiny.yaml"))
    assert remove_row(made, 3) == tiny
    assert made == insert_row(tiny, 2, "EMA", ["c2", 8])
    assert attention("check", "made/yolo11s-ema.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "row"),
    [
        (("HaloAttention",), "[-1, 1, HaloAttention, [c2, 2, 1, 32, 4]]"),  # as recommended at a stride of 32
        (("HaloAttention", "--args", "2, 1"), "[-1, 1, HaloAttention, [c2, 2, 1, 64, 8]]"),
        (("HaloAttention", "--args", ""), "[-1, 1, HaloAttention, [c2, 8, 3, 64, 8]]"),
        (("HaloAttention", "--args", "2, 1", "--residual"), "[-1, 1, HaloAttention, [c2, 2, 1, 64, 8, True]]"),
        (("OCAB", "--args", "None, 4, 0.5"), "[-1, 1, OCAB, [c2, None, 4, 0.50, 2.00]]"),
        (("EfficientAttention", "--args", "4, [2, 2], [3]"), None),
        (("DAttentionBaseline", "--args", "2"), None),
    ],
)
def test_the_row_that_add_writes(folder, arguments, row):
    result = attention("add", "yolo11-tiny.yaml", "--after", "2", "-o", "yolo11-new.yaml", "--module", *arguments)
    assert result.exit_code == 0, result.output
    written = str(read_model_file(Path("yolo11-new.yaml")).rows[3])
    assert result.stdout == f"yolo11-new.yaml: row 3 is {written}\n"
    if row is not None:
        assert written == row
    assert written.startswith(f"[-1, 1, {arguments[0]}, [c2, ")


def test_add_takes_a_stock_file_by_name(folder):
    result = attention("add", "yolov10n.yaml", "--module", "AttnConv", "--after", 6, "-o", "yolov10n-conv.yaml")
    assert result.exit_code == 0, result.output
    stock = read_model_file(stock_model_files()["yolov10n.yaml"])
    row = ["c2", "None", 7, 0.0, 0.0, True]  # the kernel recommended at a stride of 16
    assert read_model_file(Path("yolov10n-conv.yaml")) == insert_row(stock, 6, "AttnConv", row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--module": "Halo"}, "there is no attention layer Halo: expected one of AttnConv, "),
        ({"--after": "4"}, "--after must be a layer of yolo11-tiny.yaml above its head, 0 to 3, got 4"),
        ({"--after": "-1"}, "--after must be a layer of yolo11-tiny.yaml above its head, 0 to 3, got -1"),
        ({"-o": "there.yaml"}, "there.yaml is there already: --force writes over it"),
        ({"-o": "new.txt"}, "-o new.txt must end in .yaml"),
        ({"--args": "2, ["}, "--args must be values with commas between them, got '2, ['"),
        ({"--args": "1, 2"}, "EMA takes at most 1 arguments behind c2, got [1, 2]"),
        ({"--args": "3"}, "the model cannot be built at scale n: factor of EMA must be a positive whole number that "),
        ({"--args": "32"}, "the model cannot be built at scale n: "),
        ({"stock": "nothing.yaml"}, "there is no model file nothing.yaml: "),
        ({"stock": "there.yaml"}, "there.yaml is no model file: expected a backbone and a head"),
    ],
)
def test_add_refuses_and_writes_nothing(folder, changes, message):
    Path("there.yaml").write_text("mine")
    chosen = {"stock": "yolo11-tiny.yaml", "--module": "EMA", "--after": "2", "-o": "new.yaml", **changes}
    stock = chosen.pop("stock")
    result = attention(
        "add", stock, *(f"{key}={value}" if key != "-o" else f"-o{value}" for key, value in chosen.items())
    )
    assert result.exit_code == 2
    (line,) = error_lines(result)
    assert line.startswith(message)
    assert sorted(path.name for path in folder.iterdir()) == ["there.yaml", "yolo11-tiny.yaml"]
    assert Path("there.yaml").read_text() == "mine"


def test_add_looks_at_every_scale(folder):
    """16 divides the width of scale n, 16, and not that of s, 24."""
    text = TINY.replace("s: [1.0, 1.0, 64]", "s: [1.0, 0.75, 64]")
    Path("yolo11-tiny.yaml").write_text(text)
    arguments = ("add", "yolo11-tiny.yaml", "--module", "EMA", "--after", 2, "-o", "new.yaml", "--args")
    result = attention(*arguments, 16)
    assert result.exit_code == 2
    assert "at scale s: factor of EMA" in error_lines(result)[0]
    assert not Path("new.yaml").exists()
    assert attention(*arguments, 8).exit_code == 0


def test_add_refuses_a_layer_of_another_width(folder, registered):
    result = attention("add", "yolo11-tiny.yaml", "--module", registered(OtherWidth), "--after", 2, "-o", "new.yaml")
    assert result.exit_code == 2
    assert error_lines(result) == ["row 3, [-1, 1, OtherWidth, [c2]], was built for 17 channels and is given 16"]


def test_force_writes_over_a_file(folder):
    Path("new.yaml").write_text("mine")
    arguments = ("yolo11-tiny.yaml", "--module", "EMA", "--after", 2, "-o", "new.yaml")
    assert attention("add", *arguments).exit_code == 2
    assert attention("add", *arguments, "--force").exit_code == 0
    assert read_model_file(Path("new.yaml")).rows[3].module == "EMA"


def test_the_stride_of_a_layer(tiny):
    assert [stride_at(tiny, layer) for layer in range(4)] == [2, 8, 32, 32]
    with pytest.raises(InputError, match=r"^layer 4, \[\[3\], 1, Detect, \[nc\]\], gives no feature map"):
        stride_at(tiny, 4)


def test_complete_arguments():
    halo = attention_module("HaloAttention")
    assert complete_arguments(halo, [], False) == ["c2", 8, 3, 64, 8]
    assert complete_arguments(halo, [2, 1, 16, 4], True) == ["c2", 2, 1, 16, 4, True]
    assert complete_arguments(attention_module("OCAB"), [None, 4], False) == ["c2", "None", 4, 0.5, 2.0]
    with pytest.raises(
        OptionsError, match=r"^HaloAttention takes at most 4 arguments behind c2, got \[1, 2, 3, 4, True"
    ):
        complete_arguments(halo, [1, 2, 3, 4, True], False)


# ------------------------------------------------------------------------------------------ repair


def article(model: ModelFile) -> None:
    Path("article.yaml").write_text(model_text(model))


def test_repair_mends_prints_and_writes(folder):
    healthy = insert_row(read_model_file(stock_model_files()["yolov5.yaml"]), 9, "AttnConv", ["c2"])
    printed = rows_of(rows_of(healthy, 10, args=()), 20, source=(-1, 14))
    article(printed)
    result = attention("repair", "article.yaml", "-o", "yolov5-fixed.yaml")
    assert result.exit_code == 0, result.output
    assert [line.split(" (")[0] for line in result.stdout.splitlines()] == [
        "row 10: [-1, 1, AttnConv, []] -> [-1, 1, AttnConv, [c2]]",
        "row 20: [[-1, 14], 1, Concat, [1]] -> [[-1, 15], 1, Concat, [1]]",
    ]
    assert read_model_file(Path("yolov5-fixed.yaml")) == healthy
    assert read_model_file(Path("article.yaml")) == printed
    assert attention("check", "yolov5n-fixed.yaml").exit_code == 0


def test_nothing_to_repair(folder):
    healthy = read_model_file(find_model_file("yolo11-halo.yaml"))
    article(healthy)
    result = attention("repair", "article.yaml", "-o", "same.yaml")
    assert (result.exit_code, result.stdout) == (0, "nothing to repair\n")
    assert read_model_file(Path("same.yaml")) == healthy


def test_repair_leaves_to_the_author_what_is_the_authors(folder):
    article(insert_row(read_model_file(stock_model_files()["yolov10n.yaml"]), 9, "HAT", [64]))
    result = attention("repair", "article.yaml", "-o", "fixed.yaml")
    assert result.exit_code == 2
    (line,) = error_lines(result)
    assert line.startswith("article.yaml: row 10: [-1, 1, HAT, [64]] (HAT is an upscaler and no layer")
    assert not Path("fixed.yaml").exists()


def test_repair_refuses(folder):
    article(read_model_file(find_model_file("yolo11-halo.yaml")))
    Path("there.yaml").write_text("mine")
    for arguments, message in (
        (("none.yaml", "-o", "new.yaml"), "none.yaml cannot be read: No such file or directory"),
        (("article.yaml", "-o", "there.yaml"), "there.yaml is there already: --force writes over it"),
        (("article.yaml", "-o", "article.yaml"), "article.yaml is there already: --force writes over it"),
        (("article.yaml", "-o", "new"), "-o new must end in .yaml"),
    ):
        result = attention("repair", *arguments)
        assert (result.exit_code, error_lines(result)) == (2, [message])
    assert Path("there.yaml").read_text() == "mine"
    assert attention("repair", "article.yaml", "-o", "there.yaml", "--force").exit_code == 0


# ------------------------------------------------------------------------------------------ list


def test_list_names_every_layer_with_its_row_and_its_cost():
    result = attention("list")
    assert result.exit_code == 0, result.output
    for module in known_modules().values():
        (line,) = (line for line in result.stdout.splitlines() if re.match(rf"{module.name}\s", line))
        for word in (f"[{module.signature}]", module.constraints, module.paper, module.origin, *module.aliases):
            assert word in line
        for cost in cost_of(module):
            assert f"{cost.parameters:,} / {cost.gflops:.2f}" in line
    assert "80x80x128, 40x40x128, 20x20x256" in result.stdout


def test_list_as_json():
    found = {each["name"]: each for each in json.loads(attention("list", "--json").stdout)}
    assert found.keys() == known_modules().keys()
    assert found["DAttention"]["aliases"] == ["DAttentionBaseline"]
    halo = found["HaloAttention"]
    assert halo["row"] == "[c2, block_size=8, halo_size=3, dim_head=64, heads=8, residual=False]"
    assert [cost["shape"] for cost in halo["costs"]] == [[128, 80, 80], [128, 40, 40], [256, 20, 20]]
    assert [cost["stride"] for cost in halo["costs"]] == [8, 16, 32]
    for cost in halo["costs"]:
        layer = HaloAttention(cost["shape"][0], *cost["arguments"])
        assert cost["parameters"] == sum(p.numel() for p in layer.parameters())


def test_the_products_of_attention_are_counted():
    """Against counts by hand, at 20x20x256: 4 a side are blocks of 5, and windows have 4 + 2 * 3."""
    module = replace(attention_module("HaloAttention"), arguments={8: (8, 2), 16: (8, 2), 32: (4, 3, 16, 2)})
    cost = cost_of(module)[-1]
    pixels, inner, window = 400, 32, 10
    projections = pixels * (256 * inner + 256 * 2 * inner + inner * 256)
    products = 2 * pixels * window**2 * inner  # of queries with keys, of weights with values
    positions = 2 * pixels * 2 * (2 * window - 1) * 16  # a table for each axis
    assert (cost.stride, cost.shape, cost.arguments) == (32, (256, 20, 20), (4, 3, 16, 2))
    assert cost.gflops == pytest.approx(2 * (projections + products + positions) / 1e9, rel=1e-12)


def test_the_maps_are_those_of_yolo11n(monkeypatch):
    model = read_model_file(stock_model_files()["yolo11.yaml"])
    network = build(model, "n").eval()
    shapes = []
    for layer in (4, 6, 9):
        network.model[layer].register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))  # a tenth of 640
    assert shapes == [(1, c, side // 10, side // 10) for c, side in inspection.MAPS.values()]
    assert [stride_at(model, layer) for layer in (4, 6, 9)] == list(inspection.MAPS)


def test_help_names_every_verb():
    assert all(verb in attention("--help").stdout for verb in ("list", "check", "add", "repair"))
