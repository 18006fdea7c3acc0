"""Losses by name, and the figure of merit that people read beside each."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
LossName = Literal["auto", "cross_entropy", "mse"]


def is_classification(targets: Tensor) -> bool:
    """Integer targets are class labels; floats are values to regress."""
    return not targets.is_floating_point()


def resolve(loss: LossName | Loss, targets: Tensor) -> Loss:
    """The loss function for these targets.

    Args:
        loss: A name, or a function ``(predictions, targets) -> scalar`` that averages over examples.
        targets: Decide for ``auto``: cross-entropy for integers, mean squared error for floats.
    """
    if loss == "auto":
        loss = "cross_entropy" if is_classification(targets) else "mse"
    if loss == "cross_entropy":
        return F.cross_entropy
    return F.mse_loss if loss == "mse" else loss


def metric_name(targets: Tensor) -> str:
    """The name of the figure that `metric` gives for these targets."""
    return "accuracy" if is_classification(targets) else "mse"


def metric(predictions: Tensor, targets: Tensor) -> Tensor:
    """Accuracy for class labels, mean squared error for values.

    Args:
        predictions: ``[..., examples, out]``.
        targets: ``[examples]`` labels or ``[examples, out]`` values.

    Returns:
        One figure per leading index, ``[...]``.
    """
    if is_classification(targets):
        return (predictions.argmax(-1) == targets).float().mean(-1)
    return (predictions - targets).square().flatten(-targets.ndim).mean(-1)


def certainty(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """How sure a classifier is of its answers, and which of them are right; nothing for values.

    Args:
        predictions: Scores, ``[examples, classes]``.
        targets: Labels, ``[examples]``.

    Returns:
        ``confidence``, the probability of the answer, and ``correct``, 0 or 1; ``[examples]`` each.
    """
    if not is_classification(targets):
        return {}
    probability, answer = predictions.softmax(-1).max(-1)
    return {"confidence": probability, "correct": (answer == targets).to(probability.dtype)}
