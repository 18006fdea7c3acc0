"""Prototypical networks."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional import norm
from meta_lightning.functional.params import strip_prefix
from meta_lightning.functional.prototypes import Distance, Prototypes, nearness, prototypes
from meta_lightning.functional.task_kind import CLASSIFICATION
from meta_lightning.types import Buffers, Objective, Params, Prediction, Task


class ProtoNetModule(MetaModule):
    """Snell, Swersky & Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.

    The prototype of a class is the mean of its support features (equation 1). A query's score for a class is minus its
    distance to the prototype (equation 2). There is no inner loop and no classifier, so tasks may differ in their
    number of classes; the paper trains with more classes than it tests with.

    Differences from the original code: evaluation follows ``batch_norm`` as training does, where the original uses
    running statistics of the training tasks. As in the original, support and queries share one forward pass.

    Args:
        net: A feature extractor from ``[examples, *shape]`` to ``[examples, ...]``, of any width and without a
            classifier. The features are flattened.
        distance: ``euclidean`` (squared, as in the paper) or ``cosine``.
        scale: The factor of the scores. Cosine distances lie between 0 and 2 and need about 10.
        **shared: The keys of `MetaModule`.

    Raises:
        ConfigError: If ``scale`` is not above 0 and finite.

    Example:
        Classes with prototypes 0 and 1, and one query at 0.2:

        >>> from meta_lightning.types import Examples
        >>> support = Examples(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
        >>> query = Examples(torch.tensor([[0.2]]), None)
        >>> task = Task(support, query, index=torch.tensor(0), key=torch.tensor(0))
        >>> next(ProtoNetModule(nn.Identity()).curve({}, {}, task))()
        tensor([[-0.0400, -0.6400]])
    """

    net_predicts: ClassVar[bool] = False

    def __init__(self, net: nn.Module, distance: Distance = "euclidean", scale: float = 1.0, **shared: Any) -> None:
        super().__init__(net, **shared)
        if not 0 < scale < torch.inf:
            raise ConfigError(f"model.scale is {scale}; expected a finite number above 0")
        self.distance: Distance = distance
        self.scale = scale

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> Objective:
        """The query loss, with prototypes of the support set."""
        metrics = self.metrics(self._scores(params, task), task.query.y)
        return Objective(metrics["loss"], metrics)

    @property
    def second_order(self) -> bool:
        """False: without an inner loop first derivatives are enough."""
        return False

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """The only prediction, made from the prototypes."""
        yield Prediction(self._scores, params, task)

    def adapted_head(self, outputs: Tensor, labels: Tensor) -> nn.Module:
        """The prototypes of the support set."""
        features = _at_least_float32(outputs.flatten(1))
        points, _ = prototypes(features, labels, int(labels.max()) + 1)
        return Prototypes(points, self.distance, self.scale)

    def _scores(self, params: Params, task: Task) -> Tensor:
        """Class scores ``[queries, support]``: one column per possible label, -inf for labels without an example."""
        labels = task.support.y
        if self.task_kind(labels) is not CLASSIFICATION:
            raise ConfigError("ProtoNetModule classifies, but the targets are values; expected a source of classes")

        def scores(support: Tensor, queries: Tensor) -> Tensor:
            # Distances are differences of large numbers, which need more precision than autocast may leave.
            with torch.autocast(self.device.type, enabled=False):
                support, queries = (_at_least_float32(features.flatten(1)) for features in (support, queries))
                centers, counts = prototypes(support, labels, len(labels))
                near = self.scale * nearness(queries, centers, self.distance)
                return near.masked_fill(counts == 0, -torch.inf)

        inputs, net_params = (task.support.x, task.query.x), strip_prefix(params, "net.")
        return norm.predict_jointly(
            self.net, net_params, *inputs, self.batch_norm, scores, batched=self.backend.batched
        )


def _at_least_float32(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
