"""Prototypical networks."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional import losses, norm
from meta_lightning.functional.params import under
from meta_lightning.functional.prototypes import Distance, nearness, prototypes
from meta_lightning.types import Buffers, Params, Prediction, Task


class ProtoNetModule(MetaModule):
    """Snell, Swersky & Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.

    A class is the mean of its support features; a query's class scores are minus its distances to those means
    (equation 2). There is no inner loop, so a task may have any number of classes: train with more than you test.

    Differences from the original code: one forward pass takes support and queries together, as there, but evaluation
    follows ``batch_norm`` too, where the original uses running statistics of the training tasks.

    Args:
        net: From ``[examples, *shape]`` to features ``[examples, ...]`` of any width, flattened here: no classifier.
        distance: ``euclidean`` (squared, the paper's choice) or ``cosine``.
        scale: Multiplies the scores. Cosine distances lie between 0 and 2 and want about 10.
        **shared: The keys of `MetaModule`.

    Raises:
        ConfigError: If ``scale`` is not above 0.
    """

    has_inner_loop: ClassVar[bool] = False
    net_predicts: ClassVar[bool] = False

    def __init__(self, net: nn.Module, distance: Distance = "euclidean", scale: float = 1.0, **shared: Any) -> None:
        super().__init__(net, **shared)
        if not 0 < scale < torch.inf:
            raise ConfigError(f"model.scale is {scale}; expected a finite number above 0")
        self.distance: Distance = distance
        self.scale = scale

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> tuple[Tensor, Any]:
        """The query loss given the prototypes."""
        figures = self.figures(self._scores(params, task), task.query.y)
        return figures["loss"], ({}, figures)

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """The one prediction there is."""
        yield Prediction(self._scores, params, task)

    def _scores(self, params: Params, task: Task) -> Tensor:
        """``[queries, support]``: room for as many classes as there are support examples, -inf where there is none."""
        labels = task.support.y
        if not losses.is_classification(labels):
            raise ConfigError("ProtoNetModule classifies, but the targets are values; expected a source of classes")

        def scores(support: Tensor, queries: Tensor) -> Tensor:
            # Differences of large numbers: not in the lower precision that the net may run in.
            with torch.autocast(self.device.type, enabled=False):
                support, queries = (_at_least_float32(features.flatten(1)) for features in (support, queries))
                points, counts = prototypes(support, labels, len(labels))
                near = self.scale * nearness(queries, points, self.distance)
                return near.masked_fill(counts == 0, -torch.inf)

        inputs, net_params = (task.support.x, task.query.x), under(params, "net.")
        return norm.predict_jointly(
            self.net, net_params, *inputs, self.batch_norm, scores, batched=self.backend.batched
        )


def _at_least_float32(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
