"""An algorithm of your own: MAML whose inner loop is pulled back to its start. docs/own_algorithm.md runs it."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from meta_lightning import InnerLoopModule
from meta_lightning.types import Buffers, Params, Rates, Rule, Task


class ProximalMAML(InnerLoopModule):
    """Each inner step descends the support loss plus ``pull / 2 * |adapted - start|^2``.

    The penalty is that of Rajeswaran et al., "Meta-learning with implicit gradients", NeurIPS 2019, equation 3. Here it
    is differentiated through the steps, as in MAML, and not implicitly.

    Args:
        net: The model to meta-learn.
        inner_lr: Inner learning rate.
        pull: The weight of the penalty; with 0 this is MAML.
        **inner: The keys of `InnerLoopModule` and `MetaModule`.
    """

    def __init__(self, net: nn.Module, inner_lr: float = 0.01, pull: float = 0.1, **inner: Any) -> None:
        super().__init__(net, **inner)
        self.inner_lr = inner_lr
        self.pull = pull

    def trajectory(
        self, params: Params, buffers: Buffers, task: Task, steps: int, *, first_order: bool
    ) -> Iterator[Params]:
        """The net's parameters after 0, 1, ... steps on the support set."""
        rule = Rule(init=lambda start: start, update=self._update)
        return self.inner_loop(self.start(params), task, self.inner_lr, steps, first_order=first_order, rule=rule)

    def _update(self, grads: Params, start: Params, params: Params, step: int, rate: Rates) -> tuple[Params, Params]:
        """What is added to each parameter, and the state of the rule: the parameters that the loop started from."""
        updates = {
            name: -self.inner_lr * (grad + self.pull * (params[name] - start[name])) for name, grad in grads.items()
        }
        return updates, start
