import math

import numpy as np
import pytest
import torch
from scipy import stats

from meta_lightning.reporting import statistics
from meta_lightning.reporting.statistics import bootstrap_interval, calibration_error, mean_and_interval, worst_tenth


def test_interval_is_students_t_from_a_table() -> None:
    # Mean 3, standard deviation sqrt(2.5); t with 4 degrees of freedom at 97.5 % is 2.776.
    mean, interval = mean_and_interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3.0
    assert interval == pytest.approx(2.776 * 2.5**0.5 / 5**0.5, rel=1e-3)


def skewed(repeats: int, tasks: int) -> torch.Tensor:
    """Values distributed like accuracies: many near 1, few far below, with mean 0.8."""
    return torch.rand(repeats, tasks, generator=torch.Generator().manual_seed(0)) ** 0.25


def test_students_interval_finds_the_true_mean_19_times_in_20() -> None:
    intervals = [mean_and_interval(values) for values in skewed(2000, 100)]
    covered = sum(abs(mean - 0.8) <= interval for mean, interval in intervals)
    assert 0.93 <= covered / 2000 <= 0.97


def test_the_bootstraps_interval_finds_the_true_mean_19_times_in_20() -> None:
    intervals = [bootstrap_interval(values, resamples=300) for values in skewed(1000, 100)]
    covered = sum(low <= 0.8 <= high for low, high in intervals)
    assert 0.93 <= covered / 1000 <= 0.97


def test_the_bootstrap_is_that_of_scipy() -> None:
    (values,) = skewed(1, 200)
    reference = stats.bootstrap(
        (values.double().numpy(),), np.mean, n_resamples=4000, method="percentile", random_state=0
    )
    low, high = bootstrap_interval(values)
    width = high - low
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=0.05 * width)
    mean, interval = mean_and_interval(values)
    assert (mean - interval, mean + interval) == pytest.approx((low, high), abs=0.05 * width)


def test_the_bootstrap_is_the_same_every_time_and_in_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    (values,) = skewed(1, 50)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    intervals = bootstrap_interval(values)
    assert torch.equal(torch.random.get_rng_state(), state), "the bootstrap drew from what dropout draws from"
    monkeypatch.setattr(statistics, "_AT_ONCE", 700)
    assert bootstrap_interval(values) == intervals


def test_a_single_task_has_no_interval() -> None:
    mean, interval = mean_and_interval(torch.tensor([0.5]))
    assert mean == 0.5
    assert math.isnan(interval)
    assert all(math.isnan(end) for end in bootstrap_interval(torch.tensor([0.5])))


@pytest.mark.parametrize(("higher_is_better", "expected"), [(True, 0.5), (False, 18.5)])
def test_worst_tenth_is_the_mean_of_the_worst(higher_is_better: bool, expected: float) -> None:
    values = torch.arange(20.0)[torch.randperm(20)]
    assert worst_tenth(values, higher_is_better=higher_is_better) == expected


def test_the_worst_of_few_tasks_is_one() -> None:
    assert worst_tenth(torch.tensor([0.3, 0.1, 0.2]), higher_is_better=True) == pytest.approx(0.1)


def test_calibration_error_by_hand() -> None:
    # Two bins in use: 4 queries at 0.9 of which 2 are right, and 6 at 0.5 of which 3 are right.
    confidence = torch.tensor([[0.9, 0.9, 0.5, 0.5, 0.5], [0.9, 0.9, 0.5, 0.5, 0.5]])
    correct = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert calibration_error(confidence, correct) == pytest.approx(0.4 * (0.9 - 0.5) + 0.6 * 0.0)
