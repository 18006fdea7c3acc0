"""Prototypes, the class means in feature space, and the nearness of queries to them."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning.functional.task_kind import CLASSIFICATION
from meta_lightning.types import Task

Distance = Literal["euclidean", "cosine"]


def prototypes(features: Tensor, labels: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The mean of each class's features (Snell et al. 2017, equation 1).

    Under `torch.func.vmap` the number of classes of a task can't be read from its labels, so the shape of the result
    comes from ``columns``.

    Args:
        features: ``[examples, features]``.
        labels: Integers from 0 to ``columns - 1``, ``[examples]``.
        columns: At least the number of classes.

    Returns:
        The prototypes ``[columns, features]``, 0 for a label without examples, and the number of examples of each
        label, ``[columns]``.

    Example:
        >>> means, counts = prototypes(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 1]), columns=2)
        >>> means.flatten(), counts
        (tensor([2., 8.]), tensor([2., 1.]))
    """
    members = (labels[:, None] == torch.arange(columns, device=labels.device)).to(features.dtype)
    counts = members.sum(0)
    return members.T @ features / counts.clamp(min=1)[:, None], counts


def nearness(queries: Tensor, points: Tensor, distance: Distance, centre: Tensor | None = None) -> Tensor:
    """The negative distance from each query to each point.

    Args:
        queries: ``[queries, features]``.
        points: ``[points, features]``.
        distance: ``euclidean`` for the squared Euclidean distance, ``cosine`` for one minus the cosine.
        centre: Where squared distances are computed from, which matters for rounding alone, ``[features]``; None for
            the mean of the queries.

    Returns:
        ``[queries, points]``, at most 0 up to rounding.
    """
    if distance == "cosine":
        return F.normalize(queries, dim=1) @ F.normalize(points, dim=1).T - 1
    # Expanded into products, because differences would need a [queries, points, features] tensor. Products of features
    # far from 0 cancel, so the features are centred first.
    centre = queries.mean(0) if centre is None else centre
    queries, points = queries - centre, points - centre
    return 2 * queries @ points.T - queries.square().sum(1)[:, None] - points.square().sum(1)


class Prototypes(nn.Module):
    """A classifier by the nearest of fixed prototypes.

    Args:
        points: The prototypes, ``[classes, features]``.
        distance: As in `nearness`.
        scale: The factor of the scores.

    Example:
        >>> Prototypes(torch.tensor([[0.0], [1.0]]))(torch.tensor([[0.2]]))
        tensor([[-0.0400, -0.6400]])
    """

    points: Tensor

    def __init__(self, points: Tensor, distance: Distance = "euclidean", scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("points", points)
        self.distance: Distance = distance
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Class scores ``[examples, classes]`` of features ``[examples, ...]``."""
        # The centre is no mean of the queries, so that a prediction is the same whatever it is made together with.
        queries = features.flatten(1).to(self.points.dtype)
        return self.scale * nearness(queries, self.points, self.distance, self.points.mean(0))


def nearest_class_mean(task: Task) -> Tensor:
    """The accuracy of the nearest-class-mean classifier on the inputs of one task, a baseline without training.

    Args:
        task: A classification task with floats as inputs.

    Returns:
        The accuracy, a scalar.
    """
    labels = task.support.y
    points, counts = prototypes(task.support.x.flatten(1), labels, len(labels))
    near = nearness(task.query.x.flatten(1), points, "euclidean").masked_fill(counts == 0, -torch.inf)
    return CLASSIFICATION.measure(near, task.query.y)
