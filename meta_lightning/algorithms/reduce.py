"""What processes tell each other in a meta-step: one collective."""

from typing import cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from meta_lightning.functional.params import flatten, unflatten


def average_over_ranks(tensors: list[Tensor], trainer: Trainer) -> bool:
    """Averages tensors over processes, in place, in one collective.

    Gradients made by `torch.func` never pass through the hooks that would reduce them, so this is the only place where
    processes meet.

    Args:
        tensors: The same shapes on every process, floats of one kind.
        trainer: Knows the processes.

    Returns:
        Whether all values are finite, alike on every process.
    """
    flat = flatten(tensors)
    if trainer.world_size > 1:
        flat = cast(Tensor, trainer.strategy.reduce(flat, reduce_op="mean"))
        for tensor, mean in zip(tensors, unflatten(flat, tensors), strict=True):
            tensor.copy_(mean)
    return bool(torch.isfinite(flat).all())
