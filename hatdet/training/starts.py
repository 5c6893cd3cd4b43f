"""Where a run begins: in a new folder, or at a checkpoint of an earlier part of it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from hatdet.core.errors import OptionsError
from hatdet.training.checkpoints import find_states, read_state
from hatdet.training.distributed import Team

__all__ = ["starting_point"]


def starting_point(options: dict[str, Any], team: Team, auto_resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The training state to go on from, None for a new run; the run's folders exist afterwards.

    Raises:
        OptionsError: there is a run of this name and neither flag says what to do with it.
    """
    paths = options["path"]
    folder, models, states = (Path(paths[key]) for key in ("experiments_root", "models", "training_states"))
    if overwrite and auto_resume:
        raise OptionsError("--overwrite starts anew and --auto_resume goes on: give one of them")
    given = paths.get("resume_state")
    chosen: tuple[Path, dict[str, Any]] | None = None
    problem = None
    if team.leads:
        if overwrite:
            for old in (models, states, folder / "visualization"):
                shutil.rmtree(old, ignore_errors=True)
            (folder / "validation.jsonl").unlink(missing_ok=True)
        if auto_resume:
            chosen = _newest(models, states, options)
        elif given:
            chosen = Path(given), read_state(Path(given))
        elif list(states.glob("*.state")) or list(models.glob("*.pth")):
            problem = (
                f"{folder} holds a run already: --auto_resume goes on with it, --overwrite starts anew, "
                "another name (--force_yml name=...) leaves it alone"
            )
        for made in (models, states):
            made.mkdir(parents=True, exist_ok=True)
    found = team.exchange("start", {"problem": problem, "state": str(chosen[0]) if chosen else None})[0]
    if found["problem"]:
        raise OptionsError(found["problem"])
    if found["state"] is None:
        return None
    path = Path(found["state"])
    state = chosen[1] if chosen else read_state(path)
    ignored = paths.get("ignore_resume_networks") or ()
    for network in [key for key in options if key.startswith("network_")]:
        if network not in ignored:
            label = network.removeprefix("network_")
            beside = path.parent.parent / "models" / f"net_{label}_{state['iter']}.pth"
            paths[f"pretrain_{network}"] = str(beside)
            paths[f"param_key_{label}"] = "params"  # the average has a network of its own, loaded from params_ema
            paths[f"strict_load_{label}"] = True
    return state


def _newest(models: Path, states: Path, options: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is complete and readable."""
    labels = [key.removeprefix("network_") for key in options if key.startswith("network_")]
    for iteration, path in find_states(states):
        if all((models / f"net_{label}_{iteration}.pth").is_file() for label in labels):
            try:
                return path, read_state(path)
            except OptionsError as error:
                logging.getLogger("hatdet").warning("%s: trying the checkpoint before it", error)
    return None
