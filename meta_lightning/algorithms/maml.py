"""Model-agnostic meta-learning (MAML) and its first-order approximation (FOMAML)."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from meta_lightning.algorithms.inner_loop import InnerLoopModule, check_rate
from meta_lightning.types import Buffers, Params, Task


class MAMLModule(InnerLoopModule):
    """Finn, Abbeel & Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.

    The inner loop takes gradient steps on the support set (equation 1). The outer loop differentiates the query loss of
    the adapted parameters through these steps (algorithm 1, line 10), or treats the inner gradients as constants with
    ``first_order`` (FOMAML, section 5.2). ``docs/algorithms/maml.md`` lists the differences from the original code.

    Args:
        net: The model to meta-learn.
        inner_lr: Inner learning rate. The inner gradient is that of the mean loss over the support set.
        **inner: The keys of `InnerLoopModule` and `MetaModule`.

    Raises:
        ConfigError: If the rate is negative or not finite.

    Example:
        >>> MAMLModule(nn.Linear(1, 1), inner_lr=0.1, inner_steps=5, first_order=True).eval_inner_steps
        5
    """

    def __init__(self, net: nn.Module, inner_lr: float = 0.01, **inner: Any) -> None:
        super().__init__(net, **inner)
        self.inner_lr = check_rate(inner_lr)

    def trajectory(
        self, params: Params, buffers: Buffers, task: Task, steps: int, *, first_order: bool
    ) -> Iterator[Params]:
        """Gradient descent on the support set with one rate."""
        return self.inner_loop(self.start(params), task, self.inner_lr, steps, first_order=first_order)
