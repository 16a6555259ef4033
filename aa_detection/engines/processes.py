"""Plan the processes of a run, on one or more machines."""

import os
import re
from dataclasses import dataclass

import torch
from torch import distributed

from ..config import ConfigError
from .options import RunOptions


@dataclass(frozen=True)
class Processes:
    """The processes of a run on all machines.

    Attributes:
        per_machine: processes on each machine.
        machine: rank of this machine.
        endpoint: HOST:PORT where the machines meet; empty if there is only one.
        started: whether torchrun started this process.
    """

    per_machine: int = 1
    machines: int = 1
    machine: int = 0
    endpoint: str = ""
    started: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process starts the run; valid before any process group exists."""
        return self.machine == 0 and not (self.started and os.environ["RANK"] != "0")

    @property
    def total(self) -> int:
        """Number of processes on all machines."""
        return self.per_machine * self.machines


def plan_processes(device: str, options: RunOptions) -> Processes:
    """Plan the processes from the command line or, under torchrun, from its environment.

    Args:
        device: ``MODEL.DEVICE``; with ``cuda`` every process has its own GPU.
        options: ``num_gpus`` 0 counts as 1.

    Raises:
        ConfigError: options that contradict each other, or too few GPUs.
    """
    num_machines, machine_rank = options.num_machines, options.machine_rank
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if num_machines != 1 or machine_rank or options.dist_url != "auto":
            raise ConfigError(
                "--num-machines, --machine-rank and --dist-url: torchrun started this process and "
                "has options of its own for them, --nnodes, --node-rank and --rdzv-endpoint"
            )
        per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
        plan = Processes(
            per_machine,
            int(os.environ["WORLD_SIZE"]) // per_machine,
            int(os.environ["GROUP_RANK"]),
            started=True,
        )
    else:
        meeting_point = re.fullmatch(r"tcp://(.+:\d+)", options.dist_url)
        if num_machines < 1 or not 0 <= machine_rank < num_machines:
            raise ConfigError(
                f"--machine-rank {machine_rank} of --num-machines {num_machines}: expected a rank "
                "from 0 to the number of machines less 1"
            )
        if not meeting_point and (num_machines > 1 or options.dist_url != "auto"):
            raise ConfigError(
                f"--num-machines {num_machines} --dist-url {options.dist_url}: expected "
                "tcp://HOST:PORT, a free port of the machine of rank 0"
            )
        endpoint = meeting_point[1] if meeting_point else ""
        plan = Processes(max(1, options.num_gpus), num_machines, machine_rank, endpoint)
    if device.startswith("cuda") and plan.per_machine > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus: {plan.per_machine} processes want a GPU each, this machine has "
            f"{torch.cuda.device_count()}"
        )
    return plan


def is_first_process() -> bool:
    """Whether this process writes the files; true if it is the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0
