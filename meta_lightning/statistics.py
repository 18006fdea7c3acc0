"""From one figure per task, or per training seed, to means, intervals and tails."""

from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

# As Guo et al. 2017, "On calibration of modern neural networks".
_BINS = 15

# The bootstrap: resamples, their seed (a report made again is the same), and how many values are drawn at once.
_RESAMPLES, _SEED, _AT_ONCE = 4_000, 0, 2**18


@dataclass(frozen=True)
class Figure:
    """A mean over tasks.

    Attributes:
        mean: Mean over tasks.
        ci95: Half the width of the 95 % interval of that mean; nan for a single task.
    """

    mean: float
    ci95: float


@dataclass(frozen=True)
class StepFigure:
    """The metric after a number of adaptation steps.

    Attributes:
        step: Adaptation steps taken; 0 is before adaptation.
        mean: As in `Figure`.
        ci95: As in `Figure`.
    """

    step: int
    mean: float
    ci95: float


@dataclass(frozen=True)
class Mode:
    """The figures under one batch-norm protocol; attributes as in `Figure`, with the curve of the inner loop."""

    mean: float
    ci95: float
    per_step: list[StepFigure]


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """The mean of independent figures, and half the width of its 95 % interval (Student's t).

    Args:
        values: ``[n]``: one for each task, or one for each training seed.

    Returns:
        Mean and half width; the latter is nan for a single value.
    """
    count = len(values)
    values = values.double()
    if count < 2:
        return values.mean().item(), float("nan")
    return values.mean().item(), float(stdtrit(count - 1, 0.975)) * values.std().item() / count**0.5


def bootstrap_interval(values: Tensor, resamples: int = _RESAMPLES) -> tuple[float, float]:
    """The ends of the percentile bootstrap's 95 % interval of the mean: assumes nothing of how tasks are distributed.

    Args:
        values: ``[n]``.
        resamples: How many.

    Returns:
        Its ends, the same whenever and wherever it is made; twice nan for a single value.
    """
    count = len(values)
    if count < 2:
        return float("nan"), float("nan")
    generator = torch.Generator().manual_seed(_SEED)
    values, rows = values.double(), max(1, _AT_ONCE // count)
    means = torch.empty(resamples, dtype=torch.float64)
    for part in torch.split(means, rows):
        part.copy_(values[torch.randint(count, (len(part), count), generator=generator)].mean(1))
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def per_step(metric: Tensor) -> list[StepFigure]:
    """The curve of the inner loop.

    Args:
        metric: ``[tasks, steps + 1]``.
    """
    return [StepFigure(step, *mean_and_interval(column)) for step, column in enumerate(metric.unbind(1))]


def mode(metric: Tensor) -> Mode:
    """The figures of one protocol from ``[tasks, steps + 1]``."""
    curve = per_step(metric)
    return Mode(curve[-1].mean, curve[-1].ci95, curve)


def worst_tenth(values: Tensor, *, more_is_better: bool) -> float:
    """The mean over the worst tenth of the tasks (at least one), ``[tasks]``."""
    tail = max(1, round(len(values) / 10))
    return values.double().topk(tail, largest=not more_is_better).values.mean().item()


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """How far confidence and frequency of being right lie apart, on average over queries, ``[tasks, queries]``."""
    error = binary_calibration_error(confidence.flatten().float(), correct.flatten().int(), n_bins=_BINS, norm="l1")
    return float(error)
