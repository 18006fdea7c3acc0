"""Means, intervals and tails of one value per task or per training seed."""

from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

# The number of bins in Guo et al. 2017, "On calibration of modern neural networks".
_BINS = 15

# The bootstrap: the number of resamples, a fixed seed so that equal results give equal reports, and the number of
# values that are drawn at once, which bounds the memory.
_RESAMPLES, _SEED, _AT_ONCE = 4_000, 0, 2**18


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks.

    Attributes:
        mean: The mean over tasks.
        ci95: Half the width of the 95 % interval of the mean; NaN for a single task.
    """

    mean: float
    ci95: float


@dataclass(frozen=True)
class StepEstimate:
    """The metric after a number of adaptation steps.

    Attributes:
        step: The number of adaptation steps taken; 0 is before adaptation.
        mean: As in `Estimate`.
        ci95: As in `Estimate`.
    """

    step: int
    mean: float
    ci95: float


@dataclass(frozen=True)
class ProtocolResult:
    """The estimate under one batch-norm protocol.

    Attributes:
        mean: As in `Estimate`, after the last adaptation step.
        ci95: As in `Estimate`, after the last adaptation step.
        per_step: The estimates after 0, 1, ... adaptation steps.
    """

    mean: float
    ci95: float
    per_step: list[StepEstimate]


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """The mean of independent values, and half the width of its 95 % interval (Student's t).

    Args:
        values: One value for each task or for each training seed, ``[n]``.

    Returns:
        The mean and the half width, which is NaN for a single value.

    Example:
        >>> mean, half_width = mean_and_interval(torch.tensor([0.9, 0.8, 1.0]))
        >>> f"{mean:.2f} ± {half_width:.2f}"
        '0.90 ± 0.25'
    """
    count = len(values)
    values = values.double()
    if count < 2:
        return values.mean().item(), float("nan")
    return values.mean().item(), float(stdtrit(count - 1, 0.975)) * values.std().item() / count**0.5


def difference_and_interval(first: Tensor, second: Tensor) -> tuple[float, float]:
    """The mean of one sample minus that of another, and half the width of its 95 % interval (Welch 1947).

    The samples are independent of each other and may have unequal spread.

    Args:
        first: The values that are subtracted, ``[n]``.
        second: The values that they are subtracted from, ``[m]``.

    Returns:
        The difference and the half width, which is NaN where a sample has a single value.

    Example:
        >>> difference, half_width = difference_and_interval(torch.tensor([0.9, 0.8, 1.0]), torch.tensor([0.6, 0.7]))
        >>> f"{difference:.2f} ± {half_width:.2f}"
        '-0.25 ± 0.25'
    """
    first, second = first.double(), second.double()
    difference = (second.mean() - first.mean()).item()
    if min(len(first), len(second)) < 2:
        return difference, float("nan")
    parts = [(sample.var() / len(sample)).item() for sample in (first, second)]
    variance = sum(parts)
    if variance == 0:
        return difference, 0.0
    freedom = variance**2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (first, second), strict=True))
    return difference, float(stdtrit(freedom, 0.975)) * variance**0.5


def bootstrap_interval(values: Tensor, resamples: int = _RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of the mean by the percentile bootstrap, which assumes no distribution of the values.

    Args:
        values: One value for each task, ``[n]``.
        resamples: The number of resamples.

    Returns:
        The lower and the upper end, which are the same on every call; NaN for a single value.
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


def per_step(metric: Tensor) -> list[StepEstimate]:
    """The estimates after 0, 1, ... adaptation steps.

    Args:
        metric: The metric of each task after each step, ``[tasks, steps + 1]``.
    """
    return [StepEstimate(step, *mean_and_interval(column)) for step, column in enumerate(metric.unbind(1))]


def protocol_result(metric: Tensor) -> ProtocolResult:
    """The result of one protocol from the metric of each task after each step, ``[tasks, steps + 1]``."""
    curve = per_step(metric)
    return ProtocolResult(curve[-1].mean, curve[-1].ci95, curve)


def worst_tenth(values: Tensor, *, higher_is_better: bool) -> float:
    """The mean over the worst tenth of the tasks, at least one task.

    Args:
        values: The metric of each task, ``[tasks]``.
        higher_is_better: The direction of the metric.

    Example:
        >>> worst_tenth(torch.tensor([0.5, 0.25, 1.0]), higher_is_better=True)
        0.25
    """
    tail = max(1, round(len(values) / 10))
    return values.double().topk(tail, largest=not higher_is_better).values.mean().item()


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """The expected calibration error over all queries, in 15 bins (Guo et al. 2017, equation 3).

    Args:
        confidence: The probability of each answer, ``[tasks, queries]``.
        correct: 1 where the answer is right, else 0, ``[tasks, queries]``.
    """
    error = binary_calibration_error(confidence.flatten().float(), correct.flatten().int(), n_bins=_BINS, norm="l1")
    return float(error)
