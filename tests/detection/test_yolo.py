"""The detector: letterbox, coordinates, channel order, weights of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.types import Detector, Image
from hatdet.detection.letterbox import PADDING, Letterbox
from hatdet.detection.weights import EMBEDDED, find_detector, load_model, released_file
from hatdet.detection.yolo import YoloDetector, load_detector
from hatdet.imaging.files import read_image
from tests.core.test_pickles import WRAPPINGS, Foreign, Wants, run_code
from tests.detection.untrained import task_of
from tests.helpers import FixedBoxes, iou, random_image, sample_photo

TABLE = [
    # size_hw, long side -> resized_hw, top, left, canvas_hw
    ((480, 640), 640, (480, 640), 0, 0, (480, 640)),
    ((1080, 810), 640, (640, 480), 0, 0, (640, 480)),
    ((720, 1280), 640, (360, 640), 12, 0, (384, 640)),
    ((135, 101), 640, (640, 479), 0, 0, (640, 480)),
    ((540, 404), None, (540, 404), 2, 6, (544, 416)),
    ((1, 1), None, (1, 1), 15, 15, (32, 32)),
    ((10, 3000), 640, (2, 640), 15, 0, (32, 640)),
]


@pytest.mark.parametrize(("size", "long_side", "resized", "top", "left", "canvas"), TABLE)
def test_letterbox_by_table(size, long_side, resized, top, left, canvas):
    box = Letterbox.fit(size, long_side, 32)
    assert (box.resized_hw, box.top, box.left, box.canvas_hw) == (resized, top, left, canvas)


@pytest.mark.parametrize("size", [(1080, 810), (720, 1280), (135, 101), (333, 517), (64, 64)])
def test_letterbox_is_ultralytics_letterbox(size):
    from ultralytics.data.augment import LetterBox

    image = random_image(*size)
    ours = Letterbox.fit(size, 640, 32).apply(image.pixels)[0].mul(255).round().permute(1, 2, 0).numpy()
    array = image.pixels.mul(255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    theirs = LetterBox((640, 640), auto=True, stride=32)(image=array)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1  # OpenCV interpolates in fixed point


@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from([None, 320, 640]), st.data())
def test_boxes_on_the_canvas_come_back_exactly(h, w, long_side, data):
    box = Letterbox.fit((h, w), long_side, 32)
    x = data.draw(st.floats(0, w))
    y = data.draw(st.floats(0, h))
    (resized_h, resized_w) = box.resized_hw
    on_canvas = torch.tensor([[0, 0, x / w * resized_w, y / h * resized_h]], dtype=torch.float64)
    on_canvas += torch.tensor([box.left, box.top, box.left, box.top])
    back = box.undo(on_canvas)[0].tolist()
    assert back == pytest.approx([0, 0, x, y], abs=1e-6)


@given(st.integers(4, 120), st.integers(4, 120), st.sampled_from([1, 2, 3, 4, 8]), st.data())
def test_what_the_model_says_comes_out_in_source_coordinates(w, h, scale, data):
    """A model that says where things are on its canvas, and the boxes of the image that was read."""
    x1, x2 = sorted(data.draw(st.lists(st.floats(0, w), min_size=2, max_size=2)))
    y1, y2 = sorted(data.draw(st.lists(st.floats(0, h), min_size=2, max_size=2)))
    image = Image(torch.zeros(3, h * scale, w * scale), scale=scale)
    box = Letterbox.fit((h * scale, w * scale), None if scale > 1 else 640, 32)
    zoom = (box.resized_hw[1] / w, box.resized_hw[0] / h)
    rows = [[x1 * zoom[0] + box.left, y1 * zoom[1] + box.top, x2 * zoom[0] + box.left, y2 * zoom[1] + box.top, 0.9, 1]]
    found = YoloDetector(FixedBoxes(rows), "fixed")(image)
    assert found.xyxy[0].tolist() == pytest.approx([x1, y1, x2, y2], abs=0.01)
    assert found.class_id.tolist() == [1]


def test_boxes_are_clipped_to_the_source():
    found = YoloDetector(FixedBoxes([[-50, -50, 900, 900, 0.8, 0]]), "fixed")(Image(torch.zeros(3, 60, 90), scale=3))
    assert found.xyxy.tolist() == [[0, 0, 30, 20]]


def test_nms_is_class_aware_and_keeps_the_most_confident():
    rows = [[10, 10, 50, 50, 0.7, 0], [11, 10, 50, 50, 0.9, 0], [10, 10, 50, 50, 0.8, 1], [10, 10, 50, 50, 0.1, 0]]
    found = YoloDetector(FixedBoxes(rows), "fixed")(Image(torch.zeros(3, 64, 64), scale=2))
    assert [(round(d.confidence, 2), d.class_name) for d in found] == [(0.9, "thing"), (0.8, "other")]
    only = YoloDetector(FixedBoxes(rows), "fixed", class_ids=[1])(Image(torch.zeros(3, 64, 64), scale=2))
    assert only.class_id.tolist() == [1]
    few = YoloDetector(FixedBoxes(rows), "fixed", iou=1.0, confidence=0.05, max_detections=2)
    assert len(few(Image(torch.zeros(3, 64, 64), scale=2))) == 2


def seen_side(image: Image, imgsz: int | None = None) -> int:
    model = FixedBoxes([])
    YoloDetector(model, "fixed", imgsz=imgsz)(image)
    return max(model.seen[0].shape[2:])


def test_imgsz_follows_the_upscaling(caplog):
    assert seen_side(Image(torch.zeros(3, 100, 200))) == 640
    assert seen_side(Image(torch.zeros(3, 400, 800), scale=4)) == 800
    assert seen_side(Image(torch.zeros(3, 404, 540), scale=4)) == 544
    assert seen_side(Image(torch.zeros(3, 400, 800), scale=4), imgsz=1280) == 1280
    assert not caplog.records
    assert seen_side(Image(torch.zeros(3, 40, 2560), scale=4)) == 2560
    assert not caplog.records
    assert seen_side(Image(torch.zeros(3, 40, 2592), scale=4)) == 2560
    assert "(imgsz 2560) shrinks the upscaled image: it sees 3.95 pixels per source pixel" in caplog.text


def test_padding_is_the_grey_of_training():
    model = FixedBoxes([])
    YoloDetector(model, "fixed")(Image(torch.zeros(3, 40, 64), scale=2))
    assert float(model.seen[0][0, 0, 0, 0]) == pytest.approx(PADDING)
    assert float(model.seen[0][0, :, 12:52].max()) == 0


@pytest.fixture(scope="module")
def embedded() -> YoloDetector:
    return load_detector(device="cpu")


@pytest.mark.parametrize("photo", ["bus", "zidane"])
def test_boxes_equal_ultralytics_predict(embedded, photo, tmp_path):
    """The same model through Ultralytics' own predictor, from the file: channel order, letterbox, NMS, coordinates."""
    from ultralytics import YOLO

    torch.save({"model": load_model(find_detector(None)), "train_args": {}}, tmp_path / "same.pt")
    expected = YOLO(tmp_path / "same.pt").predict(sample_photo(photo), verbose=False)[0].boxes.data.numpy()
    found = list(embedded(read_image(sample_photo(photo))))
    assert len(found) == len(expected) >= 2
    for ours, theirs in zip(found, expected, strict=True):
        assert iou(ours.xyxy, theirs[:4]) > 0.99
        assert ours.confidence == pytest.approx(theirs[4], abs=0.01)
        assert ours.class_id == theirs[5]


def test_swapped_channels_would_be_noticed(embedded):
    image = read_image(sample_photo("bus"))
    swapped = Image(image.pixels.flip(0).contiguous())
    right, wrong = embedded(image), embedded(swapped)
    assert not np.allclose(right.confidence[: len(wrong)], wrong.confidence[: len(right)], atol=0.01)


def test_the_embedded_detector_knows_cocos_classes(embedded):
    assert isinstance(embedded, Detector)
    assert len(embedded.class_names) == 80
    assert embedded.class_names[5] == "bus"
    assert embedded.name == EMBEDDED.name


def test_classes_by_name_and_id():
    assert load_detector(classes=["bus", 0, "7"], device="cpu").class_ids == [5, 0, 7]
    with pytest.raises(
        OptionsError, match="class 'buss' is not the detector's: expected an id from 0 to 79 or one of p"
    ):
        load_detector(classes=["buss"], device="cpu")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"confidence": 1.5}, "conf must be between 0 and 1, got 1.5"),
        ({"iou": -0.1}, "iou must be between 0 and 1"),
        ({"max_detections": 0}, "max-det must be at least 1"),
        ({"imgsz": 16}, "imgsz must be at least 32"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, sentence):
    with pytest.raises(OptionsError, match=sentence):
        YoloDetector(FixedBoxes([]), "fixed", **changes)


def saved(tmp_path, config: str, name: str = "model.pt"):
    """A checkpoint as Ultralytics saves it, of a network that was never trained."""
    from ultralytics.nn import tasks

    kinds = {"-seg": "SegmentationModel", "-pose": "PoseModel", "-obb": "OBBModel", "-cls": "ClassificationModel"}
    kind = next((cls for mark, cls in kinds.items() if mark in config), "DetectionModel")
    model = getattr(tasks, kind)(config, verbose=False)
    torch.save({"model": model.half(), "train_args": {}}, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolov10n.yaml", "yolo26n.yaml", "yolov5n.yaml"])
def test_other_generations_load_and_run(tmp_path, config):
    detector = load_detector(saved(tmp_path, config), confidence=0.0, max_detections=7, device="cpu")
    found = detector(random_image(64, 96))
    assert len(found) <= 7
    assert found.xyxy.min(initial=0) >= 0
    assert found.xyxy[:, 2].max(initial=0) <= 96


@pytest.mark.parametrize(
    ("config", "task"), [("yolo11n-seg.yaml", "segment"), ("yolo11n-pose.yaml", "pose"), ("yolo11n-obb.yaml", "obb")]
)
def test_models_of_other_tasks_are_refused_where_boxes_are_wanted(tmp_path, config, task):
    path = saved(tmp_path, config)
    assert load_detector(path, device="cpu").task == task
    with pytest.raises(WeightsError, match=rf"for the task '{task}': expected a YOLO detection model \(boxes\)"):
        load_detector(path, device="cpu", tasks=["detect"])


def test_classifiers_are_refused_with_a_sentence(tmp_path):
    sentence = (
        r"for the task 'classify': expected a YOLO detection model \(boxes or oriented boxes or masks or keypoints\)"
    )
    with pytest.raises(WeightsError, match=sentence):
        load_detector(saved(tmp_path, "yolo11n-cls.yaml"), device="cpu")


@pytest.mark.parametrize("config", ["yolo11n-obb.yaml", "yolo26n-seg.yaml", "yolov8n-pose.yaml"])
def test_a_task_is_told_from_the_model_file_beside_safetensors(tmp_path, config):
    model = torch.load(saved(tmp_path, config), weights_only=False)["model"]
    metadata = {"model_yaml": json.dumps(model.yaml), "names": json.dumps(dict(enumerate(map(str, range(80)))))}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata=metadata)
    same = load_detector(tmp_path / "a.safetensors", device="cpu")
    assert same.task == task_of(config)
    assert type(same.model) is type(model)


def test_a_model_file_beside_safetensors(tmp_path):
    path = find_detector(None)
    save_file(load_file(path), tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=r"does not say which model it is: expected model_yaml .* or .*mine\.yaml"):
        load_model(tmp_path / "mine.safetensors")
    (tmp_path / "mine.yaml").write_text(json.dumps({**load_model(path).yaml}))
    model = load_model(tmp_path / "mine.safetensors")
    assert len(model.names) == 80


def test_weights_that_do_not_fit_their_model_file(tmp_path):
    state = load_file(find_detector(None))
    state.pop("model.0.conv.weight")
    save_file(
        state, tmp_path / "a.safetensors", metadata={"model_yaml": json.dumps(load_model(find_detector(None)).yaml)}
    )
    with pytest.raises(WeightsError, match=r"does not fit its model file: missing \['model.0.conv.weight'\]"):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.pt", b"", "not a checkpoint that can be loaded"),
        ("a.pt", b"not a checkpoint" * 50, "not a checkpoint that can be loaded"),
        ("a.safetensors", b"rubbish", "cannot be read as safetensors"),
        ("a.onnx", b"rubbish", "must end in .pt or .safetensors"),
    ],
)
def test_broken_weights_are_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_detector(tmp_path / name, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["yolov5n.pt", "bob's.pt", " blank .pt"])
def test_a_local_file_is_taken_by_its_own_name(tmp_path, name):
    """Ultralytics would look for yolov5nu.pt, or for a name without apostrophes, and download it."""
    assert load_detector(saved(tmp_path, "yolov5n.yaml", name), device="cpu").name == name.removesuffix(".pt")


@pytest.mark.parametrize(
    ("name", "released"),
    [
        *(("yolo11s", True), ("yolov8n.pt", True), ("yolo26x", True)),
        *(("yolo11n-seg", True), ("yolo26x-obb.pt", True), ("yolov8x-pose-p6", True)),
    ],
)
def test_released_detectors(name, released):
    assert (released_file(name) is not None) is released
    for other in ("yolo11n-cls", "sam_b", "rtdetr-l", "yolo26n-reid.onnx", "yolov8n-oiv7", "mobile_sam", "FastSAM-s"):
        assert released_file(other) is None


@pytest.mark.parametrize(
    "metadata", [{"model_yaml": "{"}, {"model_yaml": "[1]"}, {"model_yaml": "{}"}, {"model_yaml": "a: [b"}]
)
def test_a_description_that_is_none_is_one_sentence(tmp_path, metadata):
    save_file(load_file(find_detector(None)), tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(WeightsError, match="does not fit its model file") as caught:
        load_model(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_checkpoint_that_wants_to_run_code_is_refused_with_what_it_asks_for(tmp_path, wrapping, recwarn):
    WRAPPINGS[wrapping]({"model": run_code(tmp_path / "ran")}, tmp_path / "evil.pt")
    sentence = r"evil\.pt asks for posix\.system, which is neither .* refused, unless --trust says that you trust"
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_detector(tmp_path / "evil.pt", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not recwarn.list


def test_a_trusted_checkpoint_may_hold_any_class(tmp_path):
    from ultralytics.nn import tasks

    model = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    model.note = Foreign()
    torch.save({"model": model, "train_args": {}}, tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"asks for tests\.core\.test_pickles\.Foreign"):
        load_detector(tmp_path / "mine.pt", device="cpu")
    assert load_detector(tmp_path / "mine.pt", device="cpu", trust=True).name == "mine"


def test_what_a_trusted_checkpoint_does_wrong_is_one_sentence(tmp_path):
    torch.save({"model": Wants(int, "no number")}, tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"mine\.pt cannot be loaded: ValueError: invalid literal") as caught:
        load_detector(tmp_path / "mine.pt", device="cpu", trust=True)
    assert "\n" not in str(caught.value)


def test_code_in_a_description_is_not_run(tmp_path):
    """Ultralytics evaluates `activation`."""
    yaml = {**load_model(find_detector(None)).yaml, "activation": f"open({str(tmp_path / 'ran')!r}, 'w')"}
    save_file(load_file(find_detector(None)), tmp_path / "a.safetensors", metadata={"model_yaml": json.dumps(yaml)})
    with pytest.raises(WeightsError, match=r"does not fit its model file: .*unsupported activation"):
        load_model(tmp_path / "a.safetensors")
    assert not (tmp_path / "ran").exists()


def test_nothing_is_run_either_in_a_process_that_began_with_ultralytics(tmp_path):
    """It reads its setting when it is imported."""
    torch.save({"model": run_code(tmp_path / "ran")}, tmp_path / "evil.pt")
    yaml = {**load_model(find_detector(None)).yaml, "activation": f"open({str(tmp_path / 'ran')!r}, 'w')"}
    save_file(load_file(find_detector(None)), tmp_path / "a.safetensors", metadata={"model_yaml": json.dumps(yaml)})
    code = (
        "import sys, ultralytics.nn.tasks\n"
        "from hatdet import load_detector\n"
        "for file in sys.argv[1:]:\n"
        "    try: load_detector(file, device='cpu')\n"
        "    except Exception as error: print(type(error).__name__, 'asks for' in str(error))\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ULTRALYTICS_")}
    environment["YOLO_CONFIG_DIR"] = str(tmp_path)
    files = [tmp_path / "evil.pt", tmp_path / "a.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["WeightsError True", "WeightsError False"], done.stderr
    assert not (tmp_path / "ran").exists()


def test_unknown_names_and_missing_networks_are_one_sentence():
    with pytest.raises(WeightsError, match=r"weights nothing\.pt do not exist: expected a \.pt"):
        load_detector("nothing.pt", device="cpu")
    with pytest.raises(
        WeightsError, match=r"yolo11s\.pt could not be fetched .*no connection.*Put the file at"
    ) as caught:
        load_detector("yolo11s", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_damaged_embedded_file_is_noticed(monkeypatch):
    monkeypatch.setattr("hatdet.detection.weights.sha256_of", lambda path: "f" * 64)
    with pytest.raises(WeightsError, match="is damaged"):
        find_detector(None)


def test_ultralytics_is_quiet_offline_and_leaves_the_threads_alone(tmp_path):
    code = (
        "import os, socket, subprocess, torch\n"
        "before = torch.get_num_threads()\n"
        "def no(*a, **k): raise AssertionError(f'network or process: {a}')\n"
        "socket.getaddrinfo = socket.create_connection = no\n"
        "from hatdet import load_detector, read_image\n"
        "import ultralytics.utils as u\n"
        "from ultralytics.utils.events import events\n"
        f"d = load_detector(device='cpu'); d(read_image({str(sample_photo('bus'))!r}))\n"
        "assert not u.ONLINE and not u.AUTOINSTALL and not events.enabled and u.SAFE_LOAD\n"
        "assert torch.get_num_threads() == before\n"
        "assert str(u.USER_CONFIG_DIR).startswith(os.environ['HOME']), u.USER_CONFIG_DIR\n"
        "assert 'hatdet' in str(u.USER_CONFIG_DIR)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
