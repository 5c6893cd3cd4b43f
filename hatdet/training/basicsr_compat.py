"""What BasicSR 1.4.2 needs to run on current Python packages. Each shim has its reason and says when it can go."""

from __future__ import annotations

import importlib.util
import sys
import types
import weakref
from pathlib import Path
from typing import Any

from hatdet.core.errors import OptionsError

__all__ = ["make_importable"]


def make_importable() -> None:
    """Make `import basicsr` work.

    Raises:
        OptionsError: BasicSR is not installed.
    """
    if importlib.util.find_spec("basicsr") is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise OptionsError(
            f"training needs basicsr, which is not installed on this Python {version}: basicsr 1.4.2 builds on Python "
            "3.11 and 3.12 only (there: pip install hatdet); everything else works here"
        )
    _stand_in_for_functional_tensor()
    _share_lmdb_environments()


def _stand_in_for_functional_tensor() -> None:
    """`basicsr.data.degradations` imports one function from a module that torchvision removed in 0.17.

    Can go with a BasicSR that imports `torchvision.transforms.functional` (its repository does, no release yet).
    """
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = types.ModuleType(name)
    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[name] = module


def _share_lmdb_environments() -> None:
    """BasicSR opens an LMDB again for each data set that reads it; py-lmdb from 2.0 refuses to, in one process.

    So two validation sets with one GT fail, or workers forked after a validation on what they train on. Here those
    that are open in the process are shared, by file. Can go with a BasicSR that shares them.
    """
    from basicsr.utils.file_client import FileClient, LmdbBackend

    if FileClient._backends["lmdb"] is not LmdbBackend:
        return
    environments: weakref.WeakValueDictionary[tuple[int, int], Any] = weakref.WeakValueDictionary()

    class SharedLmdbBackend(LmdbBackend):  # type: ignore[misc]
        """As BasicSR's; of two backends on one LMDB the first one's reading options hold for both."""

        def __init__(self, db_paths: Any, client_keys: Any = "default", **options: Any) -> None:
            import lmdb

            self.db_paths = [str(path) for path in ([db_paths] if isinstance(db_paths, str) else db_paths)]
            keys = [client_keys] if isinstance(client_keys, str) else client_keys
            self._client = {}
            for key, path in zip(keys, self.db_paths, strict=True):
                file = (Path(path) / "data.mdb").stat()
                environment = environments.get((file.st_dev, file.st_ino))
                if environment is None:
                    environment = lmdb.open(path, **{"readonly": True, "lock": False, "readahead": False, **options})
                    environments[file.st_dev, file.st_ino] = environment
                self._client[key] = environment

    FileClient._backends["lmdb"] = SharedLmdbBackend
