"""What a file that wants to run code asked for, in every wrapping; and that nothing of it is run."""

from __future__ import annotations

import functools
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from hatdet.core.pickles import refused_name


class Wants:
    """Pickled it is a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Foreign:
    """A class of somebody's own."""


def run_code(path: Path) -> Wants:
    return Wants(os.system, f"touch {path}")


WRAPPINGS = {
    "zip": torch.save,
    "before 1.6": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle 0": lambda content, path: path.write_bytes(pickle.dumps(content, 0)),
    "pickle 2": lambda content, path: path.write_bytes(pickle.dumps(content, 2)),
    "pickle 4": lambda content, path: path.write_bytes(pickle.dumps(content, 4)),
    "pickle 5": lambda content, path: path.write_bytes(pickle.dumps(content, 5)),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (run_code(Path("ran")), "posix.system"),
        (Wants(print, "ran"), "builtins.print"),
        (Wants(eval, "print('ran')"), "builtins.eval"),
        (functools.partial(print, "ran"), "functools.partial"),
        (Foreign(), "tests.core.test_pickles.Foreign"),
        (Path("a"), "pathlib.PosixPath"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_refused_has_a_name(tmp_path, monkeypatch, capfd, wrapping, content, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    WRAPPINGS[wrapping]({"params": {"weight": torch.zeros(2) if "pickle" not in wrapping else 0, "x": content}}, path)
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(path, weights_only=True)
    by = "copy_reg._reconstructor" if name.endswith("Foreign") and wrapping == "pickle 0" else name
    assert refused_name(path, caught.value) == by
    assert refused_name(path, ValueError("nothing")) in (by, "builtins.print", "builtins.getattr")  # the first of all
    assert not (tmp_path / "ran").exists()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 cut off", b"\x80\x02X\xff\xff\xff\x7f", b"\x80"])
def test_what_is_damaged_is_not_refused_for_a_name(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    assert refused_name(tmp_path / "a.pth", ValueError("cut off")) is None


def test_a_checkpoint_of_tensors_asks_for_nothing_that_is_refused(tmp_path):
    torch.save({"params": torch.nn.Linear(2, 2).state_dict(), "iter": 3}, tmp_path / "a.pth")
    assert refused_name(tmp_path / "a.pth", ValueError("another reason")) is None


def test_a_lookup_by_texts_that_were_kept_before(tmp_path):
    """`os.system` twice: the second time both names come from the pickle's memo, which may hide them."""
    code = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94h\x00h\x01\x93."
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", code)
    (tmp_path / "a.pth").write_bytes(archive.getvalue())
    assert refused_name(tmp_path / "a.pth", ValueError("?")) == "posix.system"
