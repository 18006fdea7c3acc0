"""Meta-SGD: learned inner learning rates."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from meta_lightning.algorithms.inner_loop import InnerLoopModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional.params import as_module, strip_prefix
from meta_lightning.types import Buffers, Params, Task


class MetaSGDModule(InnerLoopModule):
    """Li, Zhou, Chen & Li, "Meta-SGD: learning to learn quickly for few-shot learning", arXiv 1707.09835, 2017.

    The inner loop is that of MAML with a rate for every entry of every parameter, ``theta - rates * gradient``
    (equation 2). The outer optimizer learns the rates together with the net. They may become negative.

    Args:
        net: The model to meta-learn.
        init_lr: The range from which the initial rates are drawn uniformly.
        **inner: The keys of `InnerLoopModule` and `MetaModule`.

    Raises:
        ConfigError: If ``init_lr`` is not a range.

    Example:
        >>> MetaSGDModule(nn.Linear(2, 1), init_lr=(0.01, 0.01)).rates.bias
        Parameter containing:
        tensor([0.0100], requires_grad=True)
    """

    def __init__(self, net: nn.Module, init_lr: tuple[float, float] = (0.005, 0.1), **inner: Any) -> None:
        super().__init__(net, **inner)
        low, high = self.init_lr = init_lr
        if not -torch.inf < low <= high < torch.inf:
            raise ConfigError(f"model.init_lr is {list(init_lr)}; expected the lower and the upper end of a range")
        adapted = {name: param for name, param in self.start(self.learnable()).items() if self.adapts(name)}
        rates = {name: nn.Parameter(torch.empty_like(param).uniform_(low, high)) for name, param in adapted.items()}
        self.rates = as_module(rates)

    def trajectory(
        self, params: Params, buffers: Buffers, task: Task, steps: int, *, first_order: bool
    ) -> Iterator[Params]:
        """Gradient descent on the support set with the learned rates."""
        rates = strip_prefix(params, "rates.")
        return self.inner_loop(self.start(params), task, rates, steps, first_order=first_order)
