import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from meta_lightning.report import (
    Report,
    calibration_error,
    mean_and_interval,
    per_step,
    to_markdown,
    to_screen,
    worst_tenth,
    write,
)


def report(metric: str = "accuracy") -> Report:
    curve = per_step(torch.tensor([[0.2, 0.8], [0.4, 0.9], [0.3, 1.0]]))
    return Report(
        algorithm="MAML", benchmark="omniglot_5w1s", checkpoint="best.ckpt", tasks=3, ways=5, shots=1, queries=1,
        batch_norm="transductive", metric=metric, mean=curve[-1].mean, ci95=curve[-1].ci95, per_step=curve,
        episode_hash="0123456789abcdef", seconds_per_task=0.00123, versions={"torch": "2.13.0"}, worst_tenth=0.8,
    )  # fmt: skip


def test_interval_is_students_t_from_a_table() -> None:
    # Mean 3, standard deviation sqrt(2.5); t with 4 degrees of freedom at 97.5 % is 2.776.
    mean, interval = mean_and_interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3.0
    assert interval == pytest.approx(2.776 * 2.5**0.5 / 5**0.5, rel=1e-3)


def test_interval_covers_the_mean_19_times_in_20() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        mean, interval = mean_and_interval(torch.randn(8, generator=generator) + 1)
        covered += abs(mean - 1) <= interval
    assert 0.94 <= covered / 2000 <= 0.96


def test_a_single_task_has_no_interval() -> None:
    mean, interval = mean_and_interval(torch.tensor([0.5]))
    assert mean == 0.5
    assert interval != interval  # nan


def test_curve_has_a_figure_per_inner_step() -> None:
    curve = report().per_step
    assert [at.step for at in curve] == [0, 1]
    assert [at.mean for at in curve] == pytest.approx([0.3, 0.9])


def test_markdown_and_table_show_percent_and_circumstances() -> None:
    console = Console(record=True, width=120)
    console.print(to_screen(report()))
    for text in (to_markdown(report()), console.export_text()):
        for piece in ("MAML on omniglot_5w1s", "90.00%", "± 24.84%", "3 of 5-way 1-shot, 1 query a class",
                      "0123456789abcdef", "transductive", "best.ckpt", "0.0012"):  # fmt: skip
            assert piece in text
    assert "| 1 | 0.900 | ± 0.248 |" in to_markdown(report("mse"))


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    write(dataclasses.replace(report(), mean=float("nan"), ci95=float("inf")), tmp_path)
    found = json.loads((tmp_path / "test_report.json").read_text(), parse_constant=pytest.fail)
    assert found["mean"] is None
    assert found["ci95"] is None


def test_json_reads_back(tmp_path: Path) -> None:
    write(report(), tmp_path)
    found = json.loads((tmp_path / "test_report.json").read_text())
    assert found["per_step"][1] == {"step": 1, "mean": pytest.approx(0.9), "ci95": pytest.approx(0.2484, abs=1e-4)}
    assert found["episode_hash"] == "0123456789abcdef"


def test_a_long_curve_is_thinned_out_where_it_is_read_and_whole_where_it_is_kept() -> None:
    long = dataclasses.replace(report(), per_step=per_step(torch.rand(3, 34)))
    shown = re.findall(r"^\| (\d+) \|", to_markdown(long), re.MULTILINE)
    assert shown == ["0", "1", "2", "5", "10", "20", "30", "33"]
    write(long, Path())
    assert [at["step"] for at in json.loads(Path("test_report.json").read_text())["per_step"]] == [*range(34)]


@pytest.mark.parametrize(("more_is_better", "expected"), [(True, 0.5), (False, 18.5)])
def test_worst_tenth_is_the_mean_of_the_worst(more_is_better: bool, expected: float) -> None:
    values = torch.arange(20.0)[torch.randperm(20)]
    assert worst_tenth(values, more_is_better=more_is_better) == expected


def test_the_worst_of_few_tasks_is_one() -> None:
    assert worst_tenth(torch.tensor([0.3, 0.1, 0.2]), more_is_better=True) == pytest.approx(0.1)


def test_calibration_error_by_hand() -> None:
    # Two bins in use: 4 queries at 0.9 of which 2 are right, and 6 at 0.5 of which 3 are right.
    confidence = torch.tensor([[0.9, 0.9, 0.5, 0.5, 0.5], [0.9, 0.9, 0.5, 0.5, 0.5]])
    correct = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert calibration_error(confidence, correct) == pytest.approx(0.4 * (0.9 - 0.5) + 0.6 * 0.0)


def test_interval_of_student_and_bootstrap_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(600, generator=generator) ** 0.3  # skewed, as accuracies are
    draws = torch.randint(600, (4000, 600), generator=generator)
    low, high = values[draws].mean(1).quantile(torch.tensor([0.025, 0.975]))
    mean, interval = mean_and_interval(values)
    assert (mean - interval, mean + interval) == pytest.approx((low.item(), high.item()), abs=0.1 * interval)
