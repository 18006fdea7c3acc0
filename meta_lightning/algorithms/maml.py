"""Model-agnostic meta-learning (MAML) and its first-order approximation (FOMAML)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.inner import check_rate, check_steps
from meta_lightning.functional.adapt import last
from meta_lightning.functional.params import under
from meta_lightning.types import Buffers, Params, Prediction, Task


class MAMLModule(MetaModule):
    """Finn, Abbeel & Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.

    The inner loop takes ``inner_steps`` gradient steps on the support set (equation 1); the outer loop follows the
    gradient of the query loss of the adapted parameters through all of them (algorithm 1, line 10).

    Differences from the original code: the losses are means over examples, where the original sums over a task's
    examples and divides by the shots, so its rate for N-way classification is N times larger here; the meta-batch is
    averaged; batch-norm scales learn and are adapted too, not only the offsets.

    Args:
        net: The model to meta-learn.
        inner_lr: Inner learning rate, times the gradient of the mean loss over the support set.
        inner_steps: Adaptation steps in training.
        eval_inner_steps: Adaptation steps in validation and test; null for ``inner_steps``.
        first_order: Treat inner gradients as constants: FOMAML (section 5.2). Cheaper, and its memory does not grow
            with ``inner_steps``.
        **shared: The keys of `MetaModule`.

    Raises:
        ConfigError: If a number of steps or the rate is negative.
    """

    def __init__(
        self,
        net: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(net, **shared)
        self.inner_lr = check_rate(inner_lr)
        self.inner_steps, self.eval_inner_steps = check_steps(inner_steps, eval_inner_steps)
        self.first_order = first_order

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> tuple[Tensor, Any]:
        """The query loss after adaptation."""
        steps = self.inner_loop(
            under(params, "net."), task, self.inner_lr, self.inner_steps, first_order=self.first_order
        )
        figures = self.query_figures(last(steps), task)
        return figures["loss"], ({}, figures)

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predictions after 0 to ``eval_inner_steps`` steps."""
        for adapted in self.inner_loop(under(params, "net."), task, self.inner_lr, self.eval_inner_steps):
            yield Prediction(self.predict, adapted, task)
