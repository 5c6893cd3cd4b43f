"""Option files: read as data, checked against what they call, and the ones that ship."""

from __future__ import annotations

import json
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

if find_spec("basicsr") is None:
    pytest.skip("basicsr is not installed", allow_module_level=True)

from hatdet.core import assets
from hatdet.core.errors import OptionsError
from hatdet.sr.catalogue import CATALOGUE
from hatdet.sr.hat_arch import HAT
from hatdet.training.options import read_options
from tests.helpers import TINY

CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = [
    *sorted((CHECKOUT / "options" / "train").glob("*.yml")),
    *sorted((CHECKOUT / "options" / "test").glob("*.yml")),
]

PAIRS = {"type": "PairedImageDataset", "dataroot_gt": "datasets/hr", "dataroot_lq": "datasets/lr"}
PAIRS["io_backend"] = {"type": "disk"}
LOADING = {"gt_size": 64, "use_hflip": True, "use_rot": True, "num_worker_per_gpu": 0, "batch_size_per_gpu": 2}
PSNR = {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}


def tiny(**changes: Any) -> dict[str, Any]:
    """The options of a small training run; a key `train__optim_g__lr` changes what is inside."""
    options = {
        "name": "tiny",
        "model_type": "HATModel",
        "scale": 4,
        "num_gpu": 0,
        "datasets": {"train": {"name": "train", **PAIRS, **LOADING}, "val": {"name": "val", **PAIRS}},
        "network_g": {"type": "HAT", **TINY, "upscale": 4},
        "train": {
            "total_iter": 4,
            "optim_g": {"type": "Adam", "lr": 0.001},
            "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss"},
        },
        "val": {"val_freq": 2, "metrics": {"psnr": dict(PSNR)}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }
    options = json.loads(json.dumps(options))
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = options
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return options


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a file `options/train/tiny.yml`; tests run somewhere else."""
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for data in ("datasets/hr", "datasets/lr", "options/train"):
        (folder / data).mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def written(project: Path, text: str | None = None, at: str = "options/train/tiny.yml", **changes: Any) -> Path:
    file = project / at
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(tiny(**changes)) if text is None else text)
    return file


def complaints(file: Path, *overrides: str, train: bool = True, check_paths: bool = False) -> list[str]:
    """What is wrong with a file, without the file's name, which begins every line."""
    with pytest.raises(OptionsError) as raised:
        read_options(file, train=train, overrides=overrides, check_paths=check_paths)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines), lines
    return [line.removeprefix(f"{file}: ") for line in lines]


# ------------------------------------------------------------------------------------------ 1. YAML as data


def test_a_tag_that_would_run_something_is_refused(project: Path):
    mark = project / "ran"
    text = f"name: !!python/object/apply:os.mkdir ['{mark}']\n"
    (said,) = complaints(written(project, text))
    assert said == "line 1, column 7: the tag !!python/object/apply:os.mkdir is refused: options are data, not code"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scale: 4\nscale: 2\n", "line 2, column 1: scale stands here twice"),
        ("train: {lr: 1, lr: 2}\n", "line 1, column 16: lr stands here twice"),
        ("on: 1\n", "line 1, column 1: a key must be a word, got 'on'"),
        ("? [a]\n: 1\n", "line 1, column 3: a key must be a word, got a sequence"),
        ("a: [1\nb: 2\n", "line 2, column 2: expected ',' or ']', but got ':'"),
        ("- a\n", "expected sections of options, got ['a']"),
        ("# only words\n", "expected sections of options, got nothing"),
        ("a: &a {b: *a}\n", "sections are nested more than 16 deep"),
        ("a: !!float x\n", "cannot be read as YAML: could not convert string to float: 'x'"),
        ("a: " + "[" * 5000, "cannot be read as YAML: maximum recursion depth exceeded"),
    ],
)
def test_what_is_no_option_file_is_said_in_one_line(project: Path, text: str, said: str):
    (found,) = complaints(written(project, text))
    assert found.startswith(said)


def test_a_file_that_is_no_text(project: Path):
    file = written(project)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionsError, match="cannot be read: 'utf-8'"):
        read_options(file, train=True)


def test_sections_that_share_an_alias_are_two(project: Path):
    text = yaml.safe_dump(tiny()).replace("optim_g:", "optim_g: &adam") + "\n"
    text = text.replace("  pixel_opt:", "  optim_d: *adam\n  pixel_opt:")
    options = read_options(written(project, text), train=True, overrides=["train:optim_g:lr=0.5"])
    assert options["train"]["optim_g"]["lr"] == 0.5
    assert options["train"]["optim_d"]["lr"] == 0.001


# ------------------------------------------------------------------------------------------ 2. types


def test_numbers_that_yaml_takes_for_texts_are_numbers(project: Path):
    text = yaml.safe_dump(tiny()).replace("lr: 0.001", "lr: 1e-4").replace("val_freq: 2", "val_freq: !!float 5e3")
    text = text.replace("total_iter: 4", "total_iter: 2e1").replace("gamma: 0.5", "gamma: 5e-1")
    assert yaml.safe_load(text)["train"]["optim_g"]["lr"] == "1e-4"  # YAML 1.1
    options = read_options(written(project, text), train=True)
    assert options["train"]["optim_g"]["lr"] == pytest.approx(1e-4)
    assert options["train"]["scheduler"]["gamma"] == 0.5
    for value, wanted in ((options["val"]["val_freq"], 5000), (options["train"]["total_iter"], 20)):
        assert value == wanted
        assert type(value) is int


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train__optim_g__lr": "fast"}, "train:optim_g:lr must be a number, got 'fast'"),
        ({"train__optim_g__lr": True}, "train:optim_g:lr must be a number, got true"),
        ({"train__optim_g__lr": "1e400"}, "train:optim_g:lr must be a number, got '1e400'"),
        ({"train__optim_g__betas": [0.9]}, "train:optim_g:betas must be a list of 2, got [0.9]"),
        ({"train__optim_g__amsgrad": 1}, "train:optim_g:amsgrad must be true or false, got 1"),
        ({"train__optim_g": {"type": "Adam"}}, "train:optim_g:lr is missing: Adam needs it"),
        ({"train__scheduler__milestones": 5}, "train:scheduler:milestones must be a list, got 5"),
        ({"train__precision": "fp16"}, "train:precision must be 'auto', 'fp32' or 'bf16', got 'fp16'"),
        ({"train__accumulate": 0}, "train:accumulate must be greater than or equal to 1, got 0"),
        ({"train__total_iter": 4.5}, "train:total_iter must be a whole number, got 4.5"),
        ({"network_g__depths": [2, "two"]}, "network_g:depths must be a list, each a whole number, got [2, 'two']"),
        ({"network_g__qk_scale": "x"}, "network_g:qk_scale must be a number or ~, got 'x'"),
        ({"network_g": 5}, "network_g must be a section of keys, got 5"),
        ({"val__save_img": "yes"}, "val:save_img must be true or false, got 'yes'"),
        ({"val__metrics__psnr__better": "more"}, "val:metrics:psnr:better must be 'higher' or 'lower', got 'more'"),
        ({"datasets__train__gt_size": None}, "datasets:train:gt_size must be a whole number, got ~"),
        ({"datasets__val__io_backend": "disk"}, "datasets:val:io_backend must be a section of keys, got 'disk'"),
        ({"name": 12}, "name must be text, got 12"),
        ({"name": "../tiny"}, "name must be a name that a folder can have, got '../tiny'"),
        ({"num_gpu": "all"}, "num_gpu must be auto or a whole number from 0, got 'all'"),
        ({"jpeg_range": [95, 30]}, "jpeg_range must be two numbers, the smaller first, got [95, 30]"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(project: Path, change: dict[str, Any], said: str):
    assert complaints(written(project, **change)) == [said]


# ------------------------------------------------------------------------------------------ 3. names


@pytest.mark.parametrize(
    ("change", "near"),
    [
        (
            "train__optim_g__learning_rate",
            "train:optim_g:learning_rate is not known to Adam: did you mean lr? (known: lr,",
        ),
        ("network_g__windw_size", "network_g:windw_size is not known to HAT: did you mean window_size?"),
        ("val__metrics__psnr__test_y_chanel", "is not known to calculate_psnr: did you mean test_y_channel?"),
        ("train__scheduler__milestone", "is not known to MultiStepLR: did you mean milestones?"),
        ("train__pixel_opt__loss_wieght", "is not known to L1Loss: did you mean loss_weight?"),
        ("datasets__train__use_flip", "datasets:train:use_flip is not known: did you mean use_hflip?"),
        ("path__strict_load", "path:strict_load is not known: did you mean strict_load_g?"),
        ("train__total_iters", "train:total_iters is not known: did you mean total_iter?"),
        ("gt_sise", "gt_sise is not known: did you mean gt_size?"),
    ],
)
def test_an_unknown_key_gets_the_nearest_spelling(project: Path, change: str, near: str):
    (said,) = complaints(written(project, **{change: 1}))
    assert near in said


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({"network_g__type": "HATS"}, "network_g:type 'HATS' is not known: did you mean HAT?"),
        ({"train__optim_g__type": "adam"}, "train:optim_g:type 'adam' is not known: did you mean Adam?"),
        ({"train__scheduler__type": "Cosine"}, "did you mean CosineAnnealingRestartLR?"),
        ({"train__pixel_opt__type": "L1"}, "train:pixel_opt:type 'L1' is not known: did you mean L1Loss?"),
        ({"val__metrics__psnr__type": "psnr"}, "did you mean calculate_psnr?"),
        ({"datasets__val__type": "PairedDataset"}, "did you mean PairedImageDataset?"),
        ({"model_type": "HatModel"}, "model_type 'HatModel' is not known: did you mean HATModel?"),
    ],
)
def test_an_unknown_type_gets_the_nearest_name(project: Path, change: dict[str, Any], near: str):
    (said,) = complaints(written(project, **change))
    assert near in said


def test_everything_that_is_wrong_is_said_at_once(project: Path):
    said = complaints(
        written(project, nme="x", scale="x", train__optim_g__rl=1, datasets__val__dataroot_gt="no"), check_paths=True
    )
    assert [line.split()[0] for line in said] == ["scale", "nme", "train:optim_g:rl", "datasets:val:dataroot_gt"]


# ------------------------------------------------------------------------------------------ 4. contradictions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network_g__window_size": 15}, "network_g: window_size must be even"),
        ({"network_g__num_heads": [5, 5]}, "network_g: num_heads must divide embed_dim 12, got 5"),
        ({"network_g__upscale": 2}, "network_g:upscale is 2, but scale is 4"),
        ({"datasets__train__gt_size": 66}, "datasets:train:gt_size must be a multiple of scale 4, got 66"),
        ({"datasets__train__prefetch_mode": "cuda"}, "datasets:train:pin_memory must be true with prefetch_mode cuda"),
        (
            {"train__scheduler": {"type": "CosineAnnealingRestartLR", "periods": [3]}},
            "train:scheduler:periods end at 3, before train:total_iter 4",
        ),
        ({"train__pixel_opt": None}, "train:pixel_opt is missing, and so is train:perceptual_opt"),
        ({"logger__wandb__project": "mine"}, "logger:use_tb_logger must be true with logger:wandb:project"),
        ({"val": {"metrics": {}}}, "val:val_freq is missing"),
        ({"datasets__val__dataroot_lq": None}, "datasets:val:dataroot_lq is missing: PairedImageDataset needs it"),
        ({"datasets__trial": {"name": "x", **PAIRS}}, "datasets:trial is not a phase of training"),
        ({"datasets": {}}, "datasets:train is missing"),
    ],
)
def test_contradictions_are_found_before_anything_starts(project: Path, change: dict[str, Any], said: str):
    (found,) = complaints(written(project, **change))
    assert found.startswith(said)


def test_a_model_with_a_discriminator_says_what_it_needs(project: Path):
    said = complaints(written(project, model_type="SRGANModel"))
    assert {line.split()[0] for line in said} == {"network_d", "train:optim_d", "train:gan_opt"}


# ------------------------------------------------------------------------------------------ 5. paths and the root


@pytest.mark.parametrize(
    ("at", "root"),
    [("options/train/deep/tiny.yml", "."), ("tiny.yml", "."), ("sub/tiny.yml", "sub"), ("a/options/tiny.yml", "a")],
)
def test_the_root_follows_from_the_file(project: Path, at: str, root: str):
    options = read_options(written(project, at=at), train=True, check_paths=False)
    assert options["root_path"] == str(project / root)
    assert options["datasets"]["train"]["dataroot_gt"] == str(project / root / "datasets/hr")
    assert options["path"]["experiments_root"] == str(project / root / "experiments/tiny")


def test_the_current_directory_does_not_matter(project: Path, monkeypatch: pytest.MonkeyPatch):
    file = written(project, path__pretrain_network_g="experiments/old/net.pth")
    (project / "experiments/old").mkdir(parents=True)
    (project / "experiments/old/net.pth").touch()
    here = read_options(file, train=True)
    monkeypatch.chdir(project / "options")
    assert read_options("train/tiny.yml", train=True) == here
    assert read_options("../options/train/tiny.yml", train=True) == here
    monkeypatch.chdir(project)
    assert read_options(Path("options/train/tiny.yml"), train=True) == here


def test_the_root_can_be_given(project: Path):
    file = written(project, path__root="../data")
    options = read_options(file, train=True, check_paths=False)
    assert options["root_path"] == str(project / "options/data")
    assert "root" not in options["path"]
    options = read_options(file, train=True, overrides=["path:root=here"], check_paths=False)
    assert options["root_path"] == str(Path.cwd() / "here")
    options = read_options(file, train=True, overrides=["path:root=~/x"], check_paths=False)
    assert options["root_path"] == str(Path.home() / "x")


def test_a_file_that_ships_is_found_by_name_and_works_here(project: Path):
    options = read_options("train_HAT-XS_SRx4.yml", train=True, check_paths=False)
    assert options["root_path"] == str(Path.cwd())
    assert options["option_file"] == str(assets.asset("options", "train", "train_HAT-XS_SRx4.yml"))
    with pytest.raises(OptionsError, match=r"HAT-XS_SRx5.yml is not there, .* did you mean HAT-XS_SRx4.yml\?"):
        read_options("HAT-XS_SRx5.yml", train=False)


def test_an_installed_file_works_here_too(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assets, "__file__", str(project / "hatdet" / "core" / "assets.py"))
    file = written(project, at="hatdet/_assets/options/train/tiny.yml")
    assert read_options(file, train=True, check_paths=False)["root_path"] == str(Path.cwd())


def test_what_is_missing_is_named_with_its_neighbour(project: Path):
    (project / "datasets/Set5/GTmod4").mkdir(parents=True)
    file = written(project, datasets__val__dataroot_gt="datasets/set5/GTmod4", datasets__val__dataroot_lq="tiny.yml")
    (project / "tiny.yml").touch()
    where = project / "datasets"
    assert complaints(file, check_paths=True) == [
        f"datasets:val:dataroot_gt {where}/set5/GTmod4 is not there: did you mean {where}/Set5?",
        f"datasets:val:dataroot_lq {project}/tiny.yml is not a folder",
    ]


def test_weights_may_be_named(project: Path):
    file = written(project, path__pretrain_network_g="hat-xs-x4")
    assert read_options(file, train=True)["path"]["pretrain_network_g"] == "hat-xs-x4"
    (said,) = complaints(file, "path:pretrain_network_g=HAT_SRx5", check_paths=True)
    assert (
        said
        == f"path:pretrain_network_g HAT_SRx5 is no file in {project} and no name of weights: did you mean HAT_SRx4?"
    )
    (said,) = complaints(file, "path:pretrain_network_g=weights/net.pth", check_paths=True)
    assert said == f"path:pretrain_network_g {project}/weights/net.pth is not there"


def test_an_option_file_that_is_not_there(project: Path):
    written(project)
    with pytest.raises(OptionsError, match=r"tiny.yaml is not there: did you mean .*/options/train/tiny.yml\?"):
        read_options(project / "options/train/tiny.yaml", train=True)
    with pytest.raises(OptionsError, match="is a folder"):
        read_options(project / "options", train=True)


# ------------------------------------------------------------------------------------------ 6. overrides


def test_overrides_change_and_add(project: Path):
    overrides = [
        "train:optim_g:lr=1e-4",
        "train:optim_g:betas=[0.5, 9e-1]",
        "train:ema_decay=0.9",
        "val:suffix=none",
        "path:strict_load_g=False",
        "datasets:val:filename_tmpl={}x4",
        "datasets:train:meta_info_file=~",
        "logger:wandb:resume_id=~",
    ]
    options = read_options(written(project), train=True, overrides=overrides)
    assert options["train"]["optim_g"] == {"type": "Adam", "lr": pytest.approx(1e-4), "betas": [0.5, 0.9]}
    assert options["train"]["ema_decay"] == 0.9
    assert options["val"]["suffix"] is None
    assert options["path"]["strict_load_g"] is False
    assert options["datasets"]["val"]["filename_tmpl"] == "{}x4"
    assert options["logger"]["wandb"] == {"resume_id": None}


def test_a_data_set_can_be_left_out(project: Path):
    options = read_options(written(project), train=True, overrides=["datasets:val=~"])
    assert list(options["datasets"]) == ["train"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("train", "expected section:key=value"),
        (":x=1", "expected section:key=value"),
        ("scale:x=1", "scale is 4, not a section"),
        ("name=!!python/object/apply:os.getcwd []", "the tag !!python/object/apply:os.getcwd is refused"),
        ("train:optim_g:betas=[0.9", "expected ',' or ']'"),
    ],
)
def test_an_override_that_cannot_be(project: Path, entry: str, said: str):
    with pytest.raises(OptionsError) as raised:
        read_options(written(project), train=True, overrides=[entry])
    assert str(raised.value).startswith(f"--force_yml {entry}: ")
    assert said in str(raised.value)


def test_nothing_of_an_override_is_run(project: Path):
    entry = "name=__import__('os').mkdir('ran')"
    with pytest.raises(OptionsError) as raised:
        read_options(written(project), train=True, overrides=["scale=[__import__('os').mkdir('ran')]", entry])
    assert "scale must be a whole number" in str(raised.value)
    assert not Path("ran").exists()


# ------------------------------------------------------------------------------------------ 7. what BasicSR adds


def test_the_result_is_what_basicsr_s_builders_take(project: Path):
    file = written(project, num_gpu="auto", datasets__val_2={"name": "again", **PAIRS})
    options = read_options(file, train=True)
    run = project / "experiments" / "tiny"
    assert options["is_train"] is True
    assert options["num_gpu"] == torch.cuda.device_count()
    assert options["manual_seed"] == 0
    assert options["option_file"] == str(file)
    assert {phase: (data["phase"], data["scale"]) for phase, data in options["datasets"].items()} == {
        "train": ("train", 4),
        "val": ("val", 4),
        "val_2": ("val", 4),
    }
    assert options["path"] == {
        "experiments_root": str(run),
        "models": str(run / "models"),
        "training_states": str(run / "training_states"),
        "log": str(run),
        "visualization": str(run / "visualization"),
    }
    assert options["val"]["save_img"] is False
    assert json.loads(json.dumps(options)) == options
    assert not {"dist", "rank", "world_size"} & options.keys()
    assert not run.exists()


def test_debug_is_basicsr_s(project: Path):
    options = read_options(written(project), train=True, debug=True)
    assert options["name"] == "debug_tiny"
    assert options["path"]["log"].endswith("experiments/debug_tiny")
    logged = options["logger"]
    assert (options["val"]["val_freq"], logged["print_freq"], logged["save_checkpoint_freq"]) == (8, 1, 8)


def test_testing_has_its_own_folder_and_needs_no_val(project: Path):
    options = tiny()
    for key in ("train", "val", "logger"):
        del options[key]
    options["datasets"] = {"test_1": {"name": "one", **PAIRS}}
    options = read_options(written(project, yaml.safe_dump(options)), train=False)
    run = project / "results" / "tiny"
    assert options["path"] == {"results_root": str(run), "log": str(run), "visualization": str(run / "visualization")}
    assert options["val"] == {"save_img": True, "suffix": None}
    assert options["datasets"]["test_1"]["phase"] == "test"


# ------------------------------------------------------------------------------------------ 8. the files that ship


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_a_file_that_ships_fits_the_schema(file: Path):
    options = read_options(file, train=file.parent.name == "train", check_paths=False)
    network = {key: value for key, value in options["network_g"].items() if key != "type"}
    records = [record for record in CATALOGUE if record.network_g == network]
    with torch.device("meta"):
        parameters = sum(each.numel() for each in HAT(**network).parameters())
    assert {record.parameters for record in records} <= {parameters}
    assert records or file.stem == "train_HAT-XS_SRx2"  # no weights of that size exist


def test_the_files_are_those_of_the_table(capsys: pytest.CaptureFixture[str]):
    main = runpy.run_path(str(CHECKOUT / "tools" / "make_options.py"))["main"]
    assert main(["--check"]) == 0, capsys.readouterr().err
