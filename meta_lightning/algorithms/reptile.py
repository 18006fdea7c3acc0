"""Reptile."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.inner import check_rate, check_steps
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.functional.adapt import adapt, last
from meta_lightning.functional.params import detach, dot, tree, under
from meta_lightning.functional.rules import AdamState, adam, sgd
from meta_lightning.types import Buffers, Examples, Params, Prediction, Task

# Separates the draws of the mini-batches' order from any other use of a task's index.
_ORDER = 0x52455054


class ReptileModule(MetaModule):
    """Nichol, Achiam & Schulman, "On first-order meta-learning algorithms", arXiv 1803.02999, 2018.

    Each task takes ``inner_steps`` steps on mini-batches of its support set, from ``theta`` to ``phi``; the outer loop
    moves ``theta`` toward the mean of ``phi`` (algorithm 2). The pseudo-gradient is ``theta - mean(phi)``, so the outer
    optimizer `torch.optim.SGD` with rate ``epsilon`` is the paper's rule ``theta + epsilon (phi - theta)``. Queries of
    a training task are measured, never learned from.

    Differences from the original code: the tasks of a meta-batch start from the same second moments of Adam, which are
    then averaged, where the original hands them from task to task in sequence; and evaluation draws mini-batches of its
    own for each task, by the task's number.

    Args:
        net: The model to meta-learn.
        inner_lr: Inner learning rate.
        inner_steps: Adaptation steps in training.
        eval_inner_steps: Adaptation steps in validation and test; null for ``inner_steps``.
        inner_batch_size: Support examples of an adaptation step, drawn without replacement and shuffled anew when used
            up; null for the whole support set.
        eval_inner_batch_size: The same in validation and test; null for ``inner_batch_size``.
        inner_rule: ``adam``: without momentum (``beta1`` 0), its second moments carried from meta-step to meta-step and
            into evaluation; ``sgd``.
        optimizer: The outer optimizer.
        **shared: The keys of `MetaModule`.

    Raises:
        ConfigError: If a number of steps or the rate is negative, or a mini-batch is empty.
    """

    def __init__(
        self,
        net: nn.Module,
        inner_lr: float = 0.001,
        inner_steps: int = 5,
        eval_inner_steps: int | None = None,
        inner_batch_size: int | None = None,
        eval_inner_batch_size: int | None = None,
        inner_rule: Literal["adam", "sgd"] = "adam",
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        **shared: Any,
    ) -> None:
        super().__init__(net, optimizer=optimizer, **shared)
        self.inner_lr = check_rate(inner_lr)
        self.inner_steps, self.eval_inner_steps = check_steps(inner_steps, eval_inner_steps)
        for key, size in {"inner_batch_size": inner_batch_size, "eval_inner_batch_size": eval_inner_batch_size}.items():
            if size is not None and size < 1:
                raise ConfigError(f"model.{key} is {size}; expected 1 or more, or null")
        self.inner_batch_size = inner_batch_size
        self.eval_inner_batch_size = inner_batch_size if eval_inner_batch_size is None else eval_inner_batch_size
        self.inner_rule = inner_rule
        self._rule = sgd() if inner_rule == "sgd" else adam(beta1=0.0)
        if inner_rule == "adam":
            start: AdamState = self._rule.init(under(self.learnable(), "net."))
            self.register_buffer("steps_taken", start.steps)
            self.second_moments = tree(start.second)

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> tuple[Tensor, Any]:
        """``theta . (theta - phi)`` with ``theta - phi`` held constant, so that this is its gradient."""
        theta = under(params, "net.")
        # Detached from the start: measuring the queries at phi keeps no graph.
        phi, state = last(self._adapt(detach(theta), buffers, task, self.inner_steps, self.inner_batch_size))
        pull = {name: (tensor - phi[name]).detach() for name, tensor in theta.items()}
        return dot(theta, pull), (_carried(state), self.query_figures(phi, task))

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predictions after 0 to ``eval_inner_steps`` steps on mini-batches of ``eval_inner_batch_size``."""
        net_params = under(params, "net.")
        for phi, _ in self._adapt(net_params, buffers, task, self.eval_inner_steps, self.eval_inner_batch_size):
            yield Prediction(self.predict, phi, task)

    def _adapt(
        self, theta: Params, buffers: Buffers, task: Task, steps: int, batch_size: int | None
    ) -> Iterator[tuple[Params, Any]]:
        """The net's parameters and the rule's state after 0, 1, ... steps."""
        batches = mini_batches(task.index, len(task.support.y), batch_size or len(task.support.y), steps)

        def loss(trial: Params, step: int) -> Tensor:
            rows = batches[step]
            return self.support_loss(trial, Examples(task.support.x[rows], task.support.y[rows]))

        state = AdamState(buffers["steps_taken"], {}, under(buffers, "second_moments.")) if self._carries else None
        return adapt(loss, theta, self._rule, self.inner_lr, steps, state=state, first_order=True)

    @property
    def _carries(self) -> bool:
        return self.inner_rule == "adam"


def mini_batches(index: Tensor, examples: int, size: int, steps: int) -> Tensor:
    """Which examples each adaptation step sees: permutations of the examples, one after the other, cut to size.

    A mini-batch may thus hold the end of one permutation and the beginning of the next, as in the original code.

    Args:
        index: The task's number, which alone decides the order; a scalar.
        examples: How many there are.
        size: Of a mini-batch.
        steps: How many mini-batches.

    Returns:
        int64, ``[steps, size]``.
    """
    passes = torch.arange(-(-steps * size // examples), device=index.device)
    order = random.choose(random.fold(random.fold(index, _ORDER), passes), examples, examples)
    return order.flatten()[: steps * size].view(steps, size)


def _carried(state: AdamState | None) -> Buffers:
    if state is None:
        return {}
    return {"steps_taken": state.steps, **{f"second_moments.{name}": value for name, value in state.second.items()}}
