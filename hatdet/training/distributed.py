"""Several processes that train one network: who is who, on what device, and how they wait for each other."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from hatdet.core.errors import OptionsError

__all__ = ["Team", "join"]

# How long one process may keep the others waiting outside of collectives: a validation of any length.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them.

    Attributes:
        rank, size: this process among all, from 0.
        local_rank: among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Team:
        """Itself: BasicSR copies the options that carry it, and a connection is not to be copied."""
        return self

    @property
    def leads(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def exchange(self, topic: str, value: Any) -> list[Any]:
        """Tell all what this process found, as JSON; return what each of them said, by rank.

        Not a collective: NCCL's watchdog and gloo's timeout kill those when one process is late, as it may be after
        a validation. `topic` is used once in a run.
        """
        if self.store is None:
            return [value]
        self.store.set(f"{topic}/{self.rank}", json.dumps(value))
        keys = [f"{topic}/{rank}" for rank in range(self.size)]
        self.store.wait(keys, PATIENCE)
        return [json.loads(self.store.get(key)) for key in keys]

    def leave(self) -> None:
        """End the process group."""
        if self.store is not None and distributed.is_initialized():
            distributed.destroy_process_group()


def join(launcher: str, dist_params: dict[str, Any], num_gpu: int) -> Team:
    """Join the process group that the launcher describes in the environment; a process on its own is a team of one.

    Args:
        launcher: BasicSR's `none`, `pytorch`, `slurm`. Under torchrun `none` means `pytorch`.
        dist_params: `backend` (by default nccl with GPUs, gloo without), `port` (slurm), `timeout` (seconds, of
            collectives).
        num_gpu: 0 trains on the CPU.

    Raises:
        OptionsError: the environment does not describe a group.
    """
    if launcher == "slurm":
        _slurm_environment(dist_params.get("port"))
    elif "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if launcher == "pytorch":
            raise OptionsError("--launcher pytorch expects to be started by torchrun, which sets RANK and WORLD_SIZE")
        return Team()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if num_gpu:
        if local_rank >= torch.cuda.device_count():
            raise OptionsError(f"process {local_rank} of this machine has no GPU: it has {torch.cuda.device_count()}")
        torch.cuda.set_device(local_rank)
    backend = dist_params.get("backend") if num_gpu else None  # nccl cannot work without GPUs, whatever a file says
    timeout = timedelta(seconds=dist_params.get("timeout", 1800))
    store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=timedelta(minutes=5))))
    # torchrun's store outlives processes that it begins again, which are not to find the addresses of the dead.
    store = PrefixStore(f"life{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    distributed.init_process_group(
        backend or ("nccl" if num_gpu else "gloo"),
        store=PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    return Team(rank, size, local_rank, PrefixStore("hatdet", store))


def _slurm_environment(port: int | None) -> None:
    """Say in torchrun's variables what srun says in its own."""
    try:
        rank, size = os.environ["SLURM_PROCID"], os.environ["SLURM_NTASKS"]
        local_rank, nodes = os.environ["SLURM_LOCALID"], os.environ["SLURM_NODELIST"]
    except KeyError as error:
        raise OptionsError(f"--launcher slurm expects to be started by srun, which sets {error.args[0]}") from error
    os.environ.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local_rank)
    if "MASTER_ADDR" not in os.environ:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)  # noqa: S603, S607
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    os.environ["MASTER_PORT"] = str(port or os.environ.get("MASTER_PORT", "29500"))
