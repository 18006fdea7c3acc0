import json
from pathlib import Path

import pytest
from scipy import stats

from meta_lightning.cli import main
from meta_lightning.commands.compare import paired


def report(per_task: list[float], **changes: object) -> dict:
    return {
        "algorithm": "MAML", "checkpoint": "best.ckpt", "episode_hash": "0123456789abcdef", "metric": "accuracy",
        "mean": sum(per_task) / len(per_task), "ci95": 0.1, "tasks": len(per_task), "per_task": per_task, **changes,
    }  # fmt: skip


ONE, OTHER = [0.2, 0.4, 0.6, 0.8, 1.0], [0.4, 0.4, 0.4, 1.0, 1.0]


def write(name: str, content: dict) -> str:
    Path(name).write_text(json.dumps(content))
    return name


def test_difference_is_that_of_a_paired_t_test() -> None:
    found = paired(report(ONE), report(OTHER))
    low, high = stats.ttest_rel(OTHER, ONE).confidence_interval(0.95)
    assert (found.difference - found.ci95, found.difference + found.ci95) == pytest.approx((low, high))
    assert (found.tasks, found.better, found.worse) == (5, 2, 1)


def test_less_error_is_better() -> None:
    found = paired(report(ONE, metric="mse"), report(OTHER, metric="mse"))
    assert found.difference == pytest.approx(0.04)
    assert (found.better, found.worse) == (1, 2)


def test_the_table_shows_both_and_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a.json", report(ONE)), write("b.json", report(OTHER, algorithm="Reptile"))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for piece in ("MAML", "Reptile", "60.00%", "64.00%", "4.00%", "better on 2 tasks, worse on 1, even on 2"):
        assert piece in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"episode_hash": "f" * 16},
            "the episodes differ: 0123456789abcdef and ffffffffffffffff; expected two reports of",
        ),
        ({"metric": "mse"}, "the metrics differ: accuracy and mse; expected two reports of the same tasks"),
        (
            {"per_task": [1.0, 1.0, 1.0], "tasks": 3},
            "the tasks differ: 5 and 3; expected two reports of the same tasks: test both with the same data settings",
        ),
        ({"mean": "high"}, "b.json holds a figure that is no number ('high'); test the checkpoint again"),
        ({"per_task": [1.0, 1.0, 1.0, 1.0, {}]}, "b.json holds a figure that is no number ("),
        ({"per_task": [10**400] * 5}, "b.json holds a figure that is no number (int too large"),
        ({"per_task": [1.0]}, "b.json does not hold a figure for each of its tasks; test the checkpoint again"),
    ],
    ids=["episodes", "metric", "tasks", "word", "mapping", "huge", "short"],
)
def test_reports_that_can_not_be_compared_are_refused(
    change: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", write("a.json", report(ONE)), write("b.json", {**report(OTHER), **change})]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("content", ["{", "[]", '{"metric": "mse"}', "3", json.dumps(report(ONE))[:-30], "[" * 100_000])
def test_files_that_are_no_report_are_refused(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("b.json").write_text(content)
    assert main(["compare", write("a.json", report(ONE)), "b.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: b.json ")
    assert "expected a test_report.json" in said


@pytest.mark.parametrize("arguments", [[], ["a.json"], ["a.json", "b.json", "c.json"], ["nowhere.json", "a.json"]])
def test_wrong_arguments_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write("a.json", report(ONE)), write("b.json", report(ONE))
    assert main(["compare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_a_report_of_one_task_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(name, report([0.5], ci95=None)) for name in ("a.json", "b.json")]
    assert main(["compare", *files]) == 0
    assert "± nan%" in capsys.readouterr().out
