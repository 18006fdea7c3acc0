"""Meta-SGD: learned inner learning rates."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.inner import check_steps
from meta_lightning.errors import ConfigError
from meta_lightning.functional.adapt import last
from meta_lightning.functional.params import tree, under
from meta_lightning.types import Buffers, Params, Prediction, Task


class MetaSGDModule(MetaModule):
    """Li, Zhou, Chen & Li, "Meta-SGD: learning to learn quickly for few-shot learning", arXiv 1707.09835, 2017.

    The inner loop is that of MAML with a rate for every entry of every parameter, ``theta - rates * gradient``
    (equation 2). The rates are meta-learned with the net, by the same optimizer; nothing keeps them positive. Each
    validation logs them as histograms, ``rates/<parameter>``.

    Args:
        net: The model to meta-learn.
        init_lr: Range that the initial rates are drawn from, uniformly.
        inner_steps: Adaptation steps in training (1 in the paper).
        eval_inner_steps: Adaptation steps in validation and test; null for ``inner_steps``.
        first_order: Treat inner gradients as constants; the rates learn all the same.
        **shared: The keys of `MetaModule`.

    Raises:
        ConfigError: If a number of steps is negative or the range is no range.
    """

    def __init__(
        self,
        net: nn.Module,
        init_lr: tuple[float, float] = (0.005, 0.1),
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(net, **shared)
        self.inner_steps, self.eval_inner_steps = check_steps(inner_steps, eval_inner_steps)
        self.first_order = first_order
        self.init_lr = init_lr
        low, high = init_lr
        if not -torch.inf < low <= high < torch.inf:
            raise ConfigError(f"model.init_lr is {list(init_lr)}; expected the lower and the upper end of a range")
        learning = {name: param for name, param in self.net.named_parameters() if param.requires_grad}
        self.rates = tree(
            {name: nn.Parameter(torch.empty_like(param).uniform_(low, high)) for name, param in learning.items()}
        )

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> tuple[Tensor, Any]:
        """The query loss after adaptation, a function of initialisation and rates."""
        steps = self._adapt(params, task, self.inner_steps, first_order=self.first_order)
        figures = self.query_figures(last(steps), task)
        return figures["loss"], ({}, figures)

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predictions after 0 to ``eval_inner_steps`` steps."""
        for adapted in self._adapt(params, task, self.eval_inner_steps, first_order=True):
            yield Prediction(self.predict, adapted, task)

    def _adapt(self, params: Params, task: Task, steps: int, *, first_order: bool) -> Iterator[Params]:
        rates = under(params, "rates.")
        return self.inner_loop(under(params, "net."), task, rates, steps, first_order=first_order)

    def on_validation_epoch_end(self) -> None:
        """Logs the rates as histograms."""
        if self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, rates in self.rates.named_parameters():
                    logger.experiment.add_histogram(f"rates/{name}", rates.detach(), self.global_step)
