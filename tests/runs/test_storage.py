"""Folders of an object store: S3, from moto's server, whose tags are those of S3."""

from __future__ import annotations

import pickle
from pathlib import Path

import boto3
import pytest

from hatdet.core.errors import InputError, OptionsError
from hatdet.runs.storage import StoredFolder, is_url, local_path, path_of, url_of, with_urls


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="survey")
    return "s3://survey"


def test_a_folder_is_listed_written_and_read(bucket, tmp_path):
    folder = StoredFolder(f"{bucket}/tiles/")
    (tmp_path / "a.png").write_bytes(b"picture")
    state = folder.put(tmp_path / "a.png", "deep/a.png")
    folder.write("b.txt", b"text")
    listed = pickle.loads(pickle.dumps(folder)).files()  # as a worker sees it
    assert [(file.url, file.relative) for file in listed] == [
        ("s3://survey/tiles/b.txt", "b.txt"),
        ("s3://survey/tiles/deep/a.png", "deep/a.png"),
    ]
    assert folder.states()["deep/a.png"] == state
    assert state.startswith("7 ")
    StoredFolder(f"{bucket}/tiles/deep/a.png").fetch(tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == b"picture"
    assert folder.read("b.txt") == b"text"
    (tmp_path / "a.png").write_bytes(b"PICTURE")
    assert folder.put(tmp_path / "a.png", "deep/a.png") != state  # as long, and another
    folder.remove("b.txt")
    folder.remove("b.txt")
    assert list(folder.states()) == ["deep/a.png"]
    (one,) = StoredFolder(f"{bucket}/tiles/deep/a.png").files()
    assert (one.url, one.relative) == ("s3://survey/tiles/deep/a.png", "a.png")


def test_what_is_not_there_is_one_line(bucket, tmp_path):
    with pytest.raises(InputError, match=r"s3://survey/none\.png does not exist"):
        StoredFolder(f"{bucket}/none.png").fetch(tmp_path / "none.png")
    with pytest.raises(OptionsError, match="s3://other does not exist"):
        StoredFolder("s3://other").files()
    with pytest.raises(OptionsError, match="nothing://a cannot be read"):
        StoredFolder("nothing://a").files()


@pytest.mark.parametrize(
    ("text", "url"), [("s3://b/a", True), ("in/a.png", False), ("C:/a", False), ("a:b.png", False), ("gs://b", True)]
)
def test_urls_are_told_from_paths(text, url):
    assert is_url(text) is url


def test_a_file_url_is_a_path():
    assert local_path("file:///a/b.png") == "/a/b.png"
    assert local_path("a/b.png") == "a/b.png"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (path_of("s3://survey/tiles/a.png"), "s3://survey/tiles/a.png"),
        (path_of("s3://survey") / "data.yaml", "s3://survey/data.yaml"),
        (path_of("gs://survey/tiles").parent, "gs://survey"),
        (Path("s3/a.png"), None),
        (Path("/data/s3:/a.png"), None),  # a folder of this machine, of an odd name
        (Path("ab:/x"), None),  # no protocol
        (Path("file:/data/a.png"), None),
    ],
)
def test_a_path_stands_for_a_url_of_an_object_store(path, url):
    assert url_of(path) == url


def test_messages_name_urls():
    text = with_urls("s3:/survey/a.png and gs://b/c do not go with /data/s3:/a.png, ratio 3:/4, or file:/a")
    assert text == "s3://survey/a.png and gs://b/c do not go with /data/s3:/a.png, ratio 3:/4, or file:/a"
