"""What can go wrong in the user's world: each message names the thing, what was expected and what came.

    HatdetError
      ├── InputError     a file that the user gave: unreadable, broken, not an image
      ├── WeightsError   weights that are missing, damaged or do not fit
      ├── OptionsError   options that contradict each other, paths that do not exist
      ├── DeviceError    a device that is not there, or too small
      └── TrainingError  a training run that cannot go on

Misuse of the Python API raises `ValueError`.
"""

from __future__ import annotations

__all__ = ["DeviceError", "HatdetError", "InputError", "OptionsError", "TrainingError", "WeightsError"]


class HatdetError(Exception):
    """Base of all errors that are the user's to mend. Its text is one line for the command line to print."""


class InputError(HatdetError):
    """An input file cannot be used."""


class WeightsError(HatdetError):
    """A weights file is missing, damaged, or does not fit what was asked of it."""


class OptionsError(HatdetError):
    """What was asked for cannot be done as asked."""


class DeviceError(HatdetError):
    """The device is not there, or has too little memory."""


class TrainingError(HatdetError):
    """A training run cannot go on."""
