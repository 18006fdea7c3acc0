"""Kinds of tasks: how predictions are measured, compared and printed.

A `TaskKind` holds everything that differs between classification and regression. A new kind is one more value in
`KINDS`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from meta_lightning.types import Metrics

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(predictions, targets) -> scalar``: the mean over examples."""

LossName = Literal["auto", "cross_entropy", "mse"]

LOSSES: dict[str, Loss] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}


class TaskKind(NamedTuple):
    """A kind of task.

    Attributes:
        name: The name of the kind.
        metric: The name of its metric.
        higher_is_better: The direction of the metric.
        percent: Whether the metric is printed in per cent.
        loss: The name of its default loss.
        measure: ``(predictions, targets) -> metric``; predictions ``[..., examples, out]`` give ``[...]``.
        certainty: ``(predictions, targets) -> {"confidence", "correct"}``: the confidence of each prediction and
            whether it is correct, ``[examples]`` each. The dict is empty if predictions carry no confidence.
        output_problem: ``(predictions, targets) -> expected shape`` as text, or None if the predictions fit.

    Example:
        >>> CLASSIFICATION.text(0.9312)
        '93.12%'
        >>> REGRESSION.higher_is_better
        False
    """

    name: str
    metric: str
    higher_is_better: bool
    percent: bool
    loss: str
    measure: Callable[[Tensor, Tensor], Tensor]
    certainty: Callable[[Tensor, Tensor], Metrics]
    output_problem: Callable[[Tensor, Tensor], str | None]

    def text(self, value: float) -> str:
        """Formats a value of the metric for printing."""
        return f"{value:.2%}" if self.percent else f"{value:.3f}"


def _accuracy(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions.argmax(-1) == targets).float().mean(-1)


def _mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).square().flatten(-targets.ndim).mean(-1)


def _class_certainty(predictions: Tensor, targets: Tensor) -> Metrics:
    probability, answer = predictions.softmax(-1).max(-1)
    return {"confidence": probability, "correct": (answer == targets).to(probability.dtype)}


def _no_certainty(predictions: Tensor, targets: Tensor) -> Metrics:
    return {}


def _class_output_problem(predictions: Tensor, targets: Tensor) -> str | None:
    fits = predictions.ndim == 2 and len(predictions) == len(targets) and predictions.shape[1] > int(targets.max())
    return None if fits and predictions.is_floating_point() else f"[{len(targets)}, classes]"


def _value_output_problem(predictions: Tensor, targets: Tensor) -> str | None:
    fits = predictions.shape == targets.shape and predictions.is_floating_point()
    return None if fits else str(list(targets.shape))


CLASSIFICATION = TaskKind(
    name="classification", metric="accuracy", higher_is_better=True, percent=True, loss="cross_entropy",
    measure=_accuracy, certainty=_class_certainty, output_problem=_class_output_problem,
)  # fmt: skip
REGRESSION = TaskKind(
    name="regression", metric="mse", higher_is_better=False, percent=False, loss="mse",
    measure=_mean_squared_error, certainty=_no_certainty, output_problem=_value_output_problem,
)  # fmt: skip
KINDS = (CLASSIFICATION, REGRESSION)


def kind_of(targets: Tensor) -> TaskKind:
    """The kind of a task by its targets: integers are class labels, floats are regression values."""
    return REGRESSION if targets.is_floating_point() else CLASSIFICATION


def kind_with_metric(name: str) -> TaskKind:
    """The kind whose metric has this name.

    Raises:
        KeyError: If no kind has this metric.
    """
    return {kind.metric: kind for kind in KINDS}[name]


def metric_text(name: str, value: float) -> str:
    """Formats a logged value by its name: in per cent if that is the metric's unit.

    Example:
        >>> metric_text("val/accuracy_before", 0.2), metric_text("train/loss", 1.60944)
        ('20.00%', '1.609')
    """
    metric = name.rpartition("/")[2].removesuffix("_before")
    kind = next((kind for kind in KINDS if kind.metric == metric), None)
    return f"{value:.4g}" if kind is None else kind.text(value)


def direction(monitor: str) -> Literal["min", "max"] | None:
    """The better direction of a logged value: ``max`` for ``val/accuracy``, ``min`` for ``val/loss``.

    Returns:
        None for the name of any other value, such as ``val/f1`` or ``val/accuracy_gap``, whose direction is not known.
    """
    name = monitor.rpartition("/")[2].removesuffix("_before")
    directions: dict[str, Literal["min", "max"]] = {
        kind.metric: "max" if kind.higher_is_better else "min" for kind in KINDS
    }
    return directions.get(name, "min" if name == "loss" else None)


def resolve_loss(loss: LossName | Loss, kind: TaskKind) -> Loss:
    """The loss function that a setting stands for.

    Args:
        loss: ``auto`` for the kind's own loss, another name, or a function ``(predictions, targets) -> scalar``.
        kind: The kind of the tasks.
    """
    if callable(loss):
        return loss
    return LOSSES[kind.loss if loss == "auto" else loss]
