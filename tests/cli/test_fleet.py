"""Several workers: what they make is what one process makes, each image once, and a second run goes on.

Processes of several devices are real here; the cluster is a stand-in in this process, behind which everything but Ray
itself is real (`tests/deploy/test_cluster.py` has Ray; the whole, with workers that are killed, is slow).
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.deploy import cluster
from hatdet.deploy.fleet import Outcome, Work, batches, begun
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from tests.helpers import random_image, sample_photo

SR = ("sr", "in", "--upscaler", "bicubic", "--scale", 2)
DETECT = ("detect", "in", "--upscale", "--upscaler", "bicubic")


class Here(cluster.RayCluster):
    """A cluster of one worker, in this process; what goes to it and comes back is pickled."""

    broken: int | None = None  # after so many batches the run is over

    def __post_init__(self) -> None:
        pass

    @contextmanager
    def joined(self) -> Iterator[None]:
        self.size, self.kind = 1, "cpu"
        yield

    def over(
        self, work: Work, items: Sequence[Any], stopping: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Any, Callable[[], Any]]]:
        worker = begun(pickle.loads(pickle.dumps(work)), "cpu")
        for number, batch in enumerate(batches(items, 1)):
            if number == Here.broken:
                raise KeyboardInterrupt
            said = pickle.dumps(list(worker(pickle.loads(pickle.dumps(batch)))))
            outcomes: list[Outcome] = pickle.loads(said)
            yield from ((item, outcome.result) for item, outcome in zip(batch, outcomes, strict=True))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A working folder, and the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "RayCluster", Here)
    monkeypatch.setattr(Here, "broken", None)
    return tmp_path


@pytest.fixture
def images(folder) -> None:
    """A broken file and three images, one below the other's folder."""
    for name, seed in (("0.png", 0), ("1.png", 1), ("deep/2.png", 2)):
        write_image(random_image(20, 24, seed=seed), folder / "in" / name)
    (folder / "in" / "bad.png").write_bytes(b"no image")


@pytest.fixture
def photos(folder) -> None:
    """Two photos, reduced, with people and a bus in them."""
    for name in ("bus", "zidane"):
        write_image(reduced(read_image(sample_photo(name)), 8), folder / "in" / f"{name}.png")


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def pixels(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): read_image(path).pixels.numpy().tobytes()
        for path in sorted(Path(folder).rglob("*.png"))
    }


def boxes(file: str) -> list[dict[str, Any]]:
    images = json.loads(Path(file).read_text())["images"]
    return [{key: value for key, value in image.items() if key != "timing_ms"} for image in images]


@pytest.mark.parametrize("workers", [("--ray",), ("--device", "cpu,cpu")], ids=["cluster", "devices"])
def test_sr_makes_the_same_pictures_and_goes_on(images, workers):
    assert hatdet(*SR, "-o", "one", "--device", "cpu").exit_code == 1
    first = hatdet(*SR, "-o", "many", *workers)
    assert first.exit_code == 1
    assert sorted(first.stdout.splitlines()) == [
        "in/0.png -> many/0.png (24x20 -> 48x40)",
        "in/1.png -> many/1.png (24x20 -> 48x40)",
        "in/deep/2.png -> many/deep/2.png (24x20 -> 48x40)",
    ]
    assert first.stderr.count("error: in/bad.png is not an image that can be read") == 1
    assert pixels("many") == pixels("one")
    again = hatdet(*SR, "-o", "many", *workers)
    assert again.stdout == ""
    assert "3 of 4 images were done before" in again.stderr
    other = hatdet(*SR[:-1], 3, "-o", "many", *workers)
    assert "made with other settings before, made again: 3 images (scale)" in other.stderr


@pytest.mark.parametrize("workers", [("--ray",), ("--device", "cpu,cpu")], ids=["cluster", "devices"])
def test_detect_finds_the_same_boxes_and_goes_on(photos, workers):
    files = ("--save-txt", "--save-crop", "--save-sr")
    assert hatdet(*DETECT, *files, "-o", "one", "--json", "one.json", "--device", "cpu").exit_code == 0
    many = hatdet(*DETECT, *files, "-o", "many", "--json", "many.json", *workers)
    assert many.exit_code == 0, many.output
    assert boxes("many.json") == boxes("one.json")
    assert len(boxes("one.json")[0]["detections"]) > 1
    assert pixels("many") == pixels("one")
    assert Path("many/labels/bus.txt").read_text() == Path("one/labels/bus.txt").read_text()
    again = hatdet(*DETECT, *files, "-o", "many", "--json", "again.json", *workers)
    assert again.stdout == ""
    assert Path("again.json").read_text() == Path("many.json").read_text()


def test_crops_of_other_settings_are_removed(photos):
    hatdet(*DETECT, "--save-crop", "-o", "out", "--ray")
    some = {*Path("out/crops").rglob("*.png")}
    hatdet(*DETECT, "--save-crop", "-o", "out", "--ray", "--conf", "0.6")
    assert {*Path("out/crops").rglob("*.png")} < some


def test_a_cluster_keeps_its_results_in_a_table(images):
    hatdet(*DETECT, "-o", "out", "--ray", "--conf", 0.001)
    rows = pq.read_table("out/results.parquet").to_pylist()
    assert sorted(row["result"] for row in rows) == ["0.png", "1.png", "deep/2.png"]
    assert not Path("out/.hatdet").exists()


def test_a_cluster_that_was_interrupted_goes_on(folder, monkeypatch):
    for number in range(12):
        write_image(random_image(9, 12, seed=number), folder / "in" / f"{number}.png")
    monkeypatch.setattr(Here, "broken", 2)  # of batches of 3
    stopped = hatdet(*SR, "-o", "out", "--ray")
    assert stopped.exit_code == 130
    assert "6 of 12 images are done: the same command does the rest" in stopped.stderr
    monkeypatch.setattr(Here, "broken", None)
    rest = hatdet(*SR, "-o", "out", "--ray")
    assert rest.exit_code == 0
    assert "6 of 12 images were done before" in rest.stderr
    assert len(rest.stdout.splitlines()) == 6
    assert len(pixels("out")) == pq.read_table("out/results.parquet").num_rows == 12


# ------------------------------------------------------------------------------------------------- object stores


@pytest.fixture
def s3(s3_server, monkeypatch) -> Any:
    """S3, with the images of the working folder in s3://survey/in."""
    settings = {
        "ENDPOINT_URL": s3_server,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="survey")
    for path in Path("in").rglob("*.png"):
        client.upload_file(str(path), "survey", path.as_posix())
    yield client
    for listed in client.list_objects_v2(Bucket="survey").get("Contents", ()):
        client.delete_object(Bucket="survey", Key=listed["Key"])
    fsspec.filesystem("s3").clear_instance_cache()


def keys(s3: Any) -> set[str]:
    return {listed["Key"] for listed in s3.list_objects_v2(Bucket="survey")["Contents"]}


def test_detect_reads_and_writes_an_object_store(photos, s3):
    hatdet(*DETECT, "-o", "one", "--json", "one.json", "--save-txt", "--device", "cpu")
    url = ("detect", "s3://survey/in", *DETECT[2:], "-o", "s3://survey/out", "--ray", "--save-txt", "--save-crop")
    done = hatdet(*url, "--json", "many.json")
    assert done.exit_code == 0, done.output
    assert re.search(r"^s3://survey/in/bus.png: .* -> s3://survey/out/bus.png$", done.stdout, re.M)
    there = {image["source"]: image["detections"] for image in boxes("many.json")}
    for image in boxes("one.json"):
        others = [{**box, "crop": None} for box in there[f"s3://survey/{image['source']}"]]
        assert others == image["detections"]
    written = keys(s3)
    assert {"out/bus.png", "out/zidane.png", "out/labels/bus.txt", "out/labels/zidane.txt"} <= written
    assert any(key.startswith("out/crops/person/") for key in written)
    again = hatdet(*url, "--json", "again.json")
    assert again.stdout == ""
    assert Path("again.json").read_text() == Path("many.json").read_text()
    s3.delete_object(Bucket="survey", Key="out/labels/bus.txt")
    write_image(random_image(20, 24), Path("zidane.png"))
    s3.upload_file("zidane.png", "survey", "in/zidane.png")
    assert len(hatdet(*url).stdout.splitlines()) == 2


def test_sr_reads_an_object_store_and_names_what_is_broken_in_it(images, s3):
    done = hatdet("sr", "s3://survey/in", *SR[2:], "-o", "out", "--ray")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: s3://survey/in/bad.png is not an image")
    assert sorted(pixels("out")) == ["0.png", "1.png", "deep/2.png"]
    one = hatdet("sr", "s3://survey/in/deep/2.png", *SR[2:], "-o", "s3://survey/in/x2", "--ray")
    assert one.stdout == "s3://survey/in/deep/2.png -> s3://survey/in/x2/2.png (24x20 -> 48x40)\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("sr", "s3://survey/in"), "s3://survey/in: object stores are read and written with --ray"),
        (("sr", "in", "-o", "s3://survey/out"), "s3://survey/out: object stores are read and written with --ray"),
        (("sr", "in", "-o", "file:///tmp/out"), "-o takes a folder of this machine by its path, not as file:/tmp/out"),
        (("sr", "in", "--ray-workers", 2), "--ray-workers goes with --ray"),
        (("sr", "in", "--ray", "--device", "cpu"), "--device cpu does not go with --ray"),
        (("sr", "memory://nothing", "--ray"), "memory://nothing contains no images"),
        (("detect", "in", "--upscale", "--budget", "9s", "--device", "cpu,cpu"), "several workers take images"),
        (("sr", "in", "--device", "cpu,tpu"), "device 'tpu' is not usable here"),
    ],
)
def test_what_cannot_be_is_one_line(images, arguments, line):
    refused = hatdet(*arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {line}")
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["--ray", "in"], None),
        (["in", "--ray"], None),
        (["--ray", "auto", "in"], "auto"),
        (["--ray", "ray://head:10001", "in"], "ray://head:10001"),
        (["--ray=10.0.0.1:6379", "in"], "10.0.0.1:6379"),
    ],
)
def test_an_address_may_follow_and_an_input_is_none(images, monkeypatch, words, address):
    seen = []
    monkeypatch.setattr(Here, "__post_init__", lambda self: seen.append(self.address))
    hatdet("sr", *words, *SR[2:], "-o", "out")
    assert seen == [address]
    assert len(pixels("out")) == 3


# ----------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture
def data(folder) -> Path:
    """Three parts of a photo, with a label each."""
    photo = read_image(sample_photo("bus")).pixels
    for number, left in enumerate((0, 100, 200)):
        part = random_image(1, 1)
        part = type(part)(photo[:, 400:656, left : left + 192].contiguous())
        write_image(part, folder / "images/val" / f"{number}.png")
        label = folder / "labels/val" / f"{number}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.6 0.9\n9 0.5 0.5 0.1 0.1\n" if number == 0 else "0 0.5 0.5 0.6 0.9\n")
    names = {0: "person", 5: "bus"}
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", "val": "images/val", "names": names}))
    return folder / "data.yaml"


def judged(file: str) -> tuple[Any, Any]:
    """Rows and verdicts of a report, without what no two runs have alike: times."""
    report = json.loads(Path(file).read_text())
    for row in report["rows"]:
        for key in ("ms_per_image", "upscale_ms", "detect_ms", "pareto"):
            row.pop(key)
    for verdict in report["verdicts"]:
        verdict["words"] = verdict["words"].partition("; cost ")[0]
    return report["rows"], report["verdicts"]


@pytest.mark.parametrize("workers", [("--ray",), ("--device", "cpu,cpu")], ids=["cluster", "devices"])
def test_eval_says_the_same_and_goes_on(data, monkeypatch, workers):
    common = ("eval", "--data", data, "--arms", "lr,bicubic,regions:hat-xs,hr", "--csv", "table.csv")
    alone = hatdet(*common, "--json", "one.json", "--cache", "one", "--device", "cpu")
    many = hatdet(*common, "--json", "many.json", "--cache", "many", "--html", "many.html", *workers)
    assert (alone.exit_code, many.exit_code) == (1, 1), many.output  # a label of no class
    for text in (alone.stderr, many.stderr):
        assert text.count("class 9") == 1
    assert judged("many.json") == judged("one.json")
    one, other = (json.loads(Path(f"{name}.json").read_text()) for name in ("one", "many"))
    assert other["data"] == one["data"]
    assert Path("many.html").stat().st_size > 10_000
    monkeypatch.setattr(Here, "broken", 0)  # nothing is left to do
    again = hatdet(*common, "--json", "again.json", "--cache", "many", *workers)
    assert again.exit_code == 1
    report = json.loads(Path("again.json").read_text())
    assert [row["map50_95"] for row in report["rows"]] == [row["map50_95"] for row in one["rows"]]


@pytest.fixture
def stored(data, s3) -> Any:
    """The data set of `data` in s3://survey/set, with a photo of low resolution of each."""
    for path in Path("images").rglob("*.png"):
        write_image(reduced(read_image(path), 4), Path("low") / path.name)
    for path in [data, *Path("images").rglob("*.*"), *Path("labels").rglob("*.*"), *Path("low").rglob("*.*")]:
        s3.upload_file(str(path), "survey", f"set/{path.relative_to(Path.cwd()) if path.is_absolute() else path}")
    return s3


EVAL = ("eval", "--arms", "lr,bicubic,hr", "--imgsz", 256)


@pytest.mark.parametrize("workers", [("--ray",), ("--device", "cpu")], ids=["cluster", "alone"])
def test_eval_reads_a_data_set_in_an_object_store(stored, data, workers):
    here = hatdet(*EVAL, "--data", data, "--json", "here.json", "--cache", "a", "--device", "cpu")
    url = (*EVAL, "--data", "s3://survey/set/data.yaml", "--html", "there.html", "--cache", "b", *workers)
    there = hatdet(*url, "--json", "there.json")
    assert (here.exit_code, there.exit_code) == (1, 1), there.output  # a label of no class
    assert judged("there.json") == judged("here.json")
    assert "warning: s3://survey/set/labels/val/0.txt:2 has class 9" in there.stderr
    assert json.loads(Path("there.json").read_text())["settings"]["data"] == "s3://survey/set/data.yaml"
    assert Path("there.html").stat().st_size > 10_000
    stored.delete_object(Bucket="survey", Key="set/labels/val/0.txt")
    fewer = hatdet(*url, "--json", "fewer.json")
    assert fewer.exit_code == 0
    assert "s3://survey/set/labels/val/0.txt does not exist" in fewer.stderr  # noticed, though the rest is kept
    stored.put_object(Bucket="survey", Key="set/images/val/1.png", Body=b"no image")
    broken = hatdet(*url, "--json", "broken.json")
    assert broken.exit_code == 1
    assert "error: s3://survey/set/images/val/1.png is not an image" in broken.stderr


def test_eval_finds_parts_of_a_data_set_in_an_object_store(stored, data):
    """A data file here with a path there; a COCO file there; pairs that were photographed."""
    hatdet(*EVAL, "--data", data, "--lr", "low", "--json", "here.json", "--cache", "a", "--device", "cpu")
    names = {0: "person", 5: "bus"}
    content = {"path": "s3://survey/set", "val": "images/../images/val", "names": names}
    Path("there.yaml").write_text(yaml.safe_dump(content))
    low = ("--lr", "s3://survey/set/low", "--ray")
    hatdet(*EVAL, "--data", "there.yaml", "--json", "there.json", "--cache", "b", *low)
    assert judged("there.json") == judged("here.json")
    images = [{"id": number, "file_name": f"{number}.png", "width": 192, "height": 256} for number in range(3)]
    boxes = [
        {"id": number + 1, "image_id": number, "category_id": 0, "bbox": [38.4, 12.8, 115.2, 230.4]}
        for number in range(3)
    ]
    classes = [{"id": number, "name": name} for number, name in names.items()]
    coco = {"images": images, "annotations": boxes, "categories": classes}
    stored.put_object(Bucket="survey", Key="set/annotations/instances_val.json", Body=json.dumps(coco).encode())
    hatdet(
        *EVAL, "--data", "s3://survey/set/annotations/instances_val.json", "--json", "coco.json", "--cache", "c", *low
    )
    assert judged("coco.json") == judged("here.json")
    named = ("--images", "s3://survey/set/images/val", "--cache", "c", "--json", "named.json")
    hatdet(*EVAL, "--data", "s3://survey/set/annotations/instances_val.json", *named, *low)
    assert judged("named.json") == judged("here.json")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--data", "s3://survey/none.yaml"), "error: s3://survey/none.yaml does not exist"),
        (("--data", "there.yaml"), "error: s3://survey/none contains no images"),
        (("--data", "s3://survey/set/data.yaml", "--lr", "s3://survey/none"), "error: s3://survey/none contains no"),
        (("--data", "s3://survey/set/data.yaml", "--split", "test"), "error: the data set has no split 'test'"),
    ],
)
def test_what_is_wrong_with_a_data_set_in_an_object_store_is_one_line(stored, arguments, line):
    Path("there.yaml").write_text(yaml.safe_dump({"path": "s3://survey", "val": "none", "names": ["person"]}))
    result = hatdet(*EVAL, *arguments, "--ray")
    assert result.exit_code == 2
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
