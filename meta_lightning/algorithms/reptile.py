"""Reptile."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from meta_lightning.algorithms.inner_loop import InnerLoopModule, check_rate
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.functional.adapt import adapt, last
from meta_lightning.functional.inputs import select_examples
from meta_lightning.functional.params import as_module, detach, dot, partition, strip_prefix
from meta_lightning.functional.rules import AdamState, adam, sgd
from meta_lightning.types import Buffers, Objective, Params, Task

# Folded into a task's key, so that the order of mini-batches is independent of other draws from the key.
_ORDER = 0x52455054


class ReptileModule(InnerLoopModule):
    """Nichol, Achiam & Schulman, "On first-order meta-learning algorithms", arXiv 1803.02999, 2018.

    The inner loop takes ``inner_steps`` steps on mini-batches of the support set, from ``theta`` to ``phi``. The outer
    loop moves ``theta`` toward the mean of ``phi`` over tasks (algorithm 2). The pseudo-gradient is
    ``theta - mean(phi)``, so `torch.optim.SGD` with rate ``epsilon`` as the outer optimizer gives the paper's rule
    ``theta + epsilon (mean(phi) - theta)``. In training, queries are measured but not learned from.

    Differences from the original code: the tasks of a meta-batch start from the same second moments of Adam, which are
    then averaged, where the original passes them from task to task. Evaluation draws its mini-batches by each task's
    key.

    Args:
        net: The model to meta-learn.
        inner_lr: Inner learning rate.
        inner_steps: Adaptation steps in training.
        inner_batch_size: Support examples per adaptation step, drawn without replacement until all are used up; null
            for the whole support set.
        eval_inner_batch_size: The same in validation and test; null for ``inner_batch_size``.
        inner_rule: ``sgd``, or ``adam`` without momentum (``beta1`` 0), whose second moments are carried from meta-step
            to meta-step and into evaluation.
        optimizer: The outer optimizer.
        **inner: The keys of `InnerLoopModule` and `MetaModule`; ``first_order`` is not one of them.

    Raises:
        ConfigError: If the rate is negative or not finite, a batch size is below 1, or
            the loss has parameters that the inner loop does not adapt.

    Example:
        The rate of the outer optimizer is the paper's epsilon.

        >>> epsilon = 0.1
        >>> module = ReptileModule(nn.Linear(1, 1), optimizer=lambda params: torch.optim.SGD(params, lr=epsilon))
        >>> module.settings()["optimizer.lr"]
        0.1
    """

    def __init__(
        self,
        net: nn.Module,
        inner_lr: float = 0.001,
        inner_steps: int = 5,
        inner_batch_size: int | None = None,
        eval_inner_batch_size: int | None = None,
        inner_rule: Literal["adam", "sgd"] = "adam",
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        **inner: Any,
    ) -> None:
        super().__init__(net, inner_steps=inner_steps, first_order=True, optimizer=optimizer, **inner)
        self.inner_lr = check_rate(inner_lr)
        for key, size in {"inner_batch_size": inner_batch_size, "eval_inner_batch_size": eval_inner_batch_size}.items():
            if size is not None and size < 1:
                raise ConfigError(f"model.{key} is {size}; expected 1 or more, or null")
        if strip_prefix(self.learnable(), "loss.") and not self.adapt_loss:
            raise ConfigError(
                "model.loss has parameters, and Reptile learns only what its inner loop adapts; set model.adapt_loss "
                "to true"
            )
        self.inner_batch_size = inner_batch_size
        self.eval_inner_batch_size = inner_batch_size if eval_inner_batch_size is None else eval_inner_batch_size
        self.inner_rule = inner_rule
        self._rule = sgd() if inner_rule == "sgd" else adam(beta1=0.0)
        if inner_rule == "adam":
            adapted, _ = partition(self.start(self.learnable()), self.adapts)
            start: AdamState = self._rule.init(adapted)
            self.register_buffer("steps_taken", start.steps)
            self.second_moments = as_module(start.second)

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> Objective:
        """``theta . (theta - phi)`` with ``theta - phi`` held constant, which is then the gradient."""
        theta = self.start(params)
        # theta is detached, so that no graph is kept while the queries are measured at phi.
        phi, state = last(self._adapt(detach(theta), buffers, task, self.inner_steps, self.inner_batch_size))
        pull = {name: (tensor - phi[name]).detach() for name, tensor in theta.items()}
        return Objective(dot(theta, pull), self.query_metrics(phi, task), _carried(state))

    def trajectory(
        self, params: Params, buffers: Buffers, task: Task, steps: int, *, first_order: bool
    ) -> Iterator[Params]:
        """Adaptation steps of evaluation, on mini-batches of ``eval_inner_batch_size``."""
        for phi, _ in self._adapt(self.start(params), buffers, task, steps, self.eval_inner_batch_size):
            yield phi

    def _adapt(
        self, theta: Params, buffers: Buffers, task: Task, steps: int, batch_size: int | None
    ) -> Iterator[tuple[Params, Any]]:
        """The net's parameters and the rule's state after 0, 1, ... steps."""
        batches = mini_batches(task.key, len(task.support.y), batch_size or len(task.support.y), steps)

        def loss(trial: Params, step: int) -> Tensor:
            return self.support_loss(trial, select_examples(task.support, batches[step]))

        state = None
        if self.inner_rule == "adam":
            state = AdamState(buffers["steps_taken"], {}, strip_prefix(buffers, "second_moments."))
        options: dict[str, Any] = {"state": state, "first_order": True, "adapts": self.adapts}
        return adapt(loss, theta, self._rule, self.inner_lr, steps, **options)


def mini_batches(key: Tensor, examples: int, size: int, steps: int) -> Tensor:
    """The examples of each adaptation step: a sequence of random permutations, cut into mini-batches.

    A mini-batch may hold the end of one permutation and the beginning of the next, as in the original code.

    Args:
        key: The task's key, a scalar, which alone determines the order.
        examples: The number of examples in the support set.
        size: The number of examples in a mini-batch.
        steps: The number of mini-batches.

    Returns:
        Indices of examples, int64, ``[steps, size]``.
    """
    passes = torch.arange(-(-steps * size // examples), device=key.device)
    order = random.choose(random.fold(random.fold(key, _ORDER), passes), examples, examples)
    return order.flatten()[: steps * size].view(steps, size)


def _carried(state: AdamState | None) -> Buffers:
    if state is None:
        return {}
    return {"steps_taken": state.steps, **{f"second_moments.{name}": value for name, value in state.second.items()}}
