"""The processes that a launcher started, which the trainer has to agree with."""

import os
from typing import NamedTuple

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment


class Launch(NamedTuple):
    """What a launcher started.

    Attributes:
        launcher: Its name.
        processes: The processes on each node.
        nodes: The machines.
    """

    launcher: str
    processes: int
    nodes: int


def launched() -> Launch | None:
    """What `torchrun` or SLURM's `srun` started; None for a process that was started alone."""
    if TorchElasticEnvironment.detect():
        name, world, nodes = "torchrun", "WORLD_SIZE", "GROUP_WORLD_SIZE"
    elif SLURMEnvironment.detect():
        name, world, nodes = "srun", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"
    else:
        return None
    if world not in os.environ:  # the script of a SLURM job, outside of srun
        return None
    machines = int(os.environ.get(nodes, 1))
    return Launch(name, int(os.environ[world]) // machines, machines)


def launch_problem(devices: int, nodes: int) -> str | None:
    """The message that refuses a number of processes that the launcher did not start; None if they agree.

    Args:
        devices: The processes of each node that the trainer expects.
        nodes: The nodes that the trainer expects.
    """
    launch = launched()
    if launch is None:
        return None
    for key, value, expected in (("devices", devices, launch.processes), ("num_nodes", nodes, launch.nodes)):
        if value != expected:
            what = "processes on each node" if key == "devices" else "nodes"
            return f"trainer.{key} is {value}, but {launch.launcher} started {expected} {what}; set it to {expected}"
    return None
