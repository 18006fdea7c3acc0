"""The abstract base class of the algorithms that adapt to a task step by step."""

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional import norm
from meta_lightning.functional.adapt import adapt, last
from meta_lightning.functional.inputs import call
from meta_lightning.functional.one_task_at_a_time import one_task_at_a_time
from meta_lightning.functional.params import detach, strip_prefix
from meta_lightning.functional.rules import sgd
from meta_lightning.types import Buffers, Examples, Metrics, Objective, Params, Prediction, Rates, Rule, Task

_LOSS = "loss:"  # before the names of the loss's parameters in the inner loop


class InnerLoopModule(MetaModule):
    """A method that adapts a net to each task in steps, and learns from the query loss of the adapted net.

    A subclass implements `trajectory`, which adapts the parameters to one task. `objective` and `curve` follow from it.

    Args:
        net: The model to meta-learn.
        inner_steps: Adaptation steps in training.
        eval_inner_steps: Adaptation steps in validation and test; null for ``inner_steps``.
        first_order: Treat inner gradients as constants, which is cheaper; memory then does not grow with
            ``inner_steps``.
        adapt_only: The names of the parameters that the inner loop adapts; ``*`` stands for any characters, as in
            ``head.*``. Null for all. The other parameters are shared by all tasks and learned by the outer loop alone.
        adapt_loss: Adapt the parameters of ``loss`` too, if it has any: each task then has its own, in its support loss
            and in its query loss. Otherwise the outer loop alone learns them.
        **shared: The keys of `MetaModule`.

    Raises:
        ConfigError: If a number of steps is negative, ``adapt_only`` names no parameter that learns, or ``adapt_loss``
            is set and the loss has no parameters.

    Example:
        Gradient descent with a fixed inner rate:

        >>> class Fixed(InnerLoopModule):
        ...     def trajectory(self, params, buffers, task, steps, *, first_order):
        ...         return self.inner_loop(self.start(params), task, 0.01, steps, first_order=first_order)
        >>> Fixed(nn.Linear(4, 2), adapt_only=["bias"]).adapts("weight")
        False
    """

    has_inner_loop: ClassVar[bool] = True

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
        adapt_only: Sequence[str] | None = None,
        adapt_loss: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(net, **shared)
        for key, steps in {"inner_steps": inner_steps, "eval_inner_steps": eval_inner_steps}.items():
            if steps is not None and steps < 0:
                raise ConfigError(f"model.{key} is {steps}; expected 0 or more")
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps if eval_inner_steps is None else eval_inner_steps
        self.first_order = first_order
        self.adapt_only = None if adapt_only is None else list(adapt_only)
        self.adapt_loss = adapt_loss
        self._check_adapt_only()
        if adapt_loss and not strip_prefix(self.learnable(), "loss."):
            raise ConfigError("model.adapt_loss is true, but model.loss has no parameters; set it to false")

    @property
    def second_order(self) -> bool:
        """Whether inner gradients are differentiated."""
        return not self.first_order

    def _check_adapt_only(self) -> None:
        names = [*strip_prefix(self.learnable(), "net.")]
        for pattern in self.adapt_only or []:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"model.adapt_only is {self.adapt_only}, and {pattern} matches no parameter that learns; expected "
                    f"patterns of {', '.join(names) or 'which there is none'}"
                )
        if self.adapt_only == []:
            raise ConfigError("model.adapt_only is an empty list; expected names of parameters, or null for all")

    def adapts(self, name: str) -> bool:
        """Whether the inner loop adapts the parameter of this name, as `start` names it."""
        if name.startswith(_LOSS) or self.adapt_only is None:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.adapt_only)

    def start(self, params: Params) -> Params:
        """Where the inner loop starts: the net's parameters under their own names.

        With ``adapt_loss``, also the loss's parameters, named ``loss:...``, which is no name of a net's parameter.

        Args:
            params: The meta-learned parameters, as `trajectory` gets them.
        """
        net_params = strip_prefix(params, "net.")
        return net_params | _named_loss(strip_prefix(params, "loss.")) if self.adapt_loss else net_params

    @abstractmethod
    def trajectory(
        self, params: Params, buffers: Buffers, task: Task, steps: int, *, first_order: bool
    ) -> Iterator[Params]:
        """The net's parameters after 0, 1, ... ``steps`` adaptation steps on one task.

        Args:
            params: The meta-learned parameters, with the prefix ``net.`` for those of the net.
            buffers: The carried buffers.
            task: One episode.
            steps: The number of adaptation steps.
            first_order: Treat inner gradients as constants.
        """

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> Objective:
        """The query loss after adaptation."""
        steps = self.trajectory(params, buffers, task, self.inner_steps, first_order=self.first_order)
        metrics = self.query_metrics(last(steps), task)
        return Objective(metrics["loss"], metrics)

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predictions after 0 to ``eval_inner_steps`` steps."""
        for adapted in self.trajectory(params, buffers, task, self.eval_inner_steps, first_order=True):
            yield Prediction(self.predict, adapted, task)

    def inner_loop(
        self,
        net_params: Params,
        task: Task,
        rates: Rates,
        steps: int,
        *,
        first_order: bool,
        rule: Rule | None = None,
    ) -> Iterator[Params]:
        """Adapts the parameters that `adapts` selects by steps on the support set.

        Args:
            net_params: The initialisation, from `start`.
            task: One episode.
            rates: Inner learning rates.
            steps: The number of adaptation steps.
            first_order: Treat inner gradients as constants.
            rule: Turns gradients into updates; None for gradient descent.

        Yields:
            The net's parameters after 0, 1, ... ``steps`` steps.
        """

        def loss(trial: Params, step: int) -> Tensor:
            return self.support_loss(trial, task.support)

        options: dict[str, Any] = {"first_order": first_order, "adapts": self.adapts}
        for adapted, _ in adapt(loss, net_params, rule or sgd(), rates, steps, **options):
            yield adapted

    def support_loss(self, net_params: Params, support: Examples) -> Tensor:
        """The net's loss on support examples, with batch-norm statistics of these examples."""
        with nullcontext() if self.inner_autocast else torch.autocast(self.device.type, enabled=False):
            outputs = call(self.net, net_params, support.x)
            with self.loss_parameters(strip_prefix(net_params, _LOSS) or self._constant_loss_parameters()):
                return self.loss_of(outputs, support.y)

    def _constant_loss_parameters(self) -> Params:
        """The loss's own parameters where inner gradients are constants, so that none passes through them either."""
        if self.first_order and isinstance(self.loss, nn.Module):
            return detach(dict(self.loss.named_parameters()))
        return {}

    def query_metrics(self, net_params: Params, task: Task) -> Metrics:
        """The `metrics` of the net's predictions for the queries. The loss can be differentiated once."""
        if self.backend.loop != "split":
            return self._measure(net_params, task)[1]
        if isinstance(self.loss, nn.Module):  # their gradient must be found too, and only what is passed has one
            net_params = _named_loss(dict(self.loss.named_parameters())) | net_params
        with norm.fused(self.net):
            loss, metrics = one_task_at_a_time(self._measure, net_params, task)
        return metrics | {"loss": loss}

    def _measure(self, net_params: Params, task: Task) -> tuple[Tensor, Metrics]:
        metrics = self.judge(net_params, self.predict(net_params, task), task.query.y)
        return metrics["loss"], metrics

    def judge(self, adapted: Params, predictions: Tensor, targets: Tensor) -> Metrics:
        """The metrics under the task's own loss, if the loss was adapted to it."""
        with self.loss_parameters(strip_prefix(adapted, _LOSS)):
            return self.metrics(predictions, targets)

    def static_values(self) -> Hashable:
        """The settings that the compiled meta-step depends on and that a callback may change during a run."""
        return self.inner_steps, self.first_order


def _named_loss(params: Params) -> Params:
    return {_LOSS + name: tensor for name, tensor in params.items()}


def check_rate(inner_lr: float) -> float:
    """Returns the inner learning rate unchanged.

    Raises:
        ConfigError: If the rate is negative or not finite.
    """
    if not 0 <= inner_lr < math.inf:
        raise ConfigError(f"model.inner_lr is {inner_lr}; expected a finite number from 0")
    return inner_lr
