"""Classes as points in feature space: prototypes, and how near a query lies to each."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from meta_lightning.functional.losses import metric
from meta_lightning.types import Task

Distance = Literal["euclidean", "cosine"]


def prototypes(features: Tensor, labels: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The mean of each class's features (Snell et al. 2017, equation 1).

    How many classes a task has is not known while it is mapped over, so there is room for ``columns`` of them.

    Args:
        features: ``[examples, features]``.
        labels: Integers from 0 to ``columns - 1``, ``[examples]``.
        columns: At least the number of classes.

    Returns:
        The prototypes ``[columns, features]``, 0 for a label without examples; and the examples of each, ``[columns]``.
    """
    members = (labels[:, None] == torch.arange(columns, device=labels.device)).to(features.dtype)
    counts = members.sum(0)
    return members.T @ features / counts.clamp(min=1)[:, None], counts


def nearness(queries: Tensor, points: Tensor, distance: Distance) -> Tensor:
    """Minus the distance from each query to each point.

    Args:
        queries: ``[queries, features]``.
        points: ``[points, features]``.
        distance: ``euclidean``: squared; ``cosine``: one minus the cosine, from 0 to 2.

    Returns:
        ``[queries, points]``, 0 at most but for rounding.
    """
    if distance == "cosine":
        return F.normalize(queries, dim=1) @ F.normalize(points, dim=1).T - 1
    # Spelt as products: differences would hold [queries, points, features] numbers. Products of features that lie
    # far from 0 cancel, so that all are first moved to lie around it.
    centre = queries.mean(0)
    queries, points = queries - centre, points - centre
    return 2 * queries @ points.T - queries.square().sum(1)[:, None] - points.square().sum(1)


def nearest_class_mean(task: Task) -> Tensor:
    """The accuracy on one task of what needs no training: each query gets the class whose mean input is nearest.

    Args:
        task: Of classes, with floats as inputs.

    Returns:
        A scalar.
    """
    labels = task.support.y
    points, counts = prototypes(task.support.x.flatten(1), labels, len(labels))
    near = nearness(task.query.x.flatten(1), points, "euclidean").masked_fill(counts == 0, -torch.inf)
    return metric(near, task.query.y)
