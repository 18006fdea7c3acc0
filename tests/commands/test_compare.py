import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from meta_lightning.cli import main
from meta_lightning.commands.compare import paired


def report(per_task: list[float], **changes: object) -> dict:
    spread = stats.sem(per_task) * stats.t.ppf(0.975, len(per_task) - 1) if len(per_task) > 1 else None
    return {
        "algorithm": "MAML", "checkpoint": "best.ckpt", "source": "letters 28px", "episode_hash": "0123456789abcdef",
        "metric": "accuracy", "batch_norm": "transductive", "per_step": [{"step": 0}, {"step": 3}],
        "mean": sum(per_task) / len(per_task), "ci95": spread, "tasks": len(per_task), "per_task": per_task, **changes,
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
    for piece in ("MAML", "Reptile", "60.00%", "64.00%", "4.00%", "better on 2 tasks, worse on 1, equal on 2"):
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
            {"per_task": [1.0, 1.0, 1.0], "tasks": 3, "mean": 1.0, "ci95": 0.0},
            "the tasks differ: 5 and 3; expected two reports of the same tasks: test both with the same data settings",
        ),
        (
            {"source": "letters 84px"},
            "the data differ: letters 28px and letters 84px; expected two reports of the same",
        ),
        ({"mean": 0.9}, "b.json states mean 0.9, but its tasks give 0.64: the file was changed; test the checkpoint"),
        ({"ci95": 0.01}, "b.json states ci95 0.01, but its tasks give 0.40"),
        ({"mean": None}, "b.json states mean nan, but its tasks give 0.64"),
        ({"per_task": [1.0] * 5}, "b.json states mean 0.64, but its tasks give 1"),
        ({"mean": "high"}, "b.json holds a value that is not a number ('high'); test the checkpoint again"),
        ({"per_task": [1.0, 1.0, 1.0, 1.0, {}]}, "b.json holds a value that is not a number ("),
        ({"per_task": [10**400] * 5}, "b.json holds a value that is not a number (int too large"),
        ({"per_task": [1.0]}, "b.json does not hold one value for each of its tasks; test the checkpoint again"),
    ],
    ids=[
        "episodes",
        "metric",
        "tasks",
        "data",
        "mean",
        "interval",
        "no mean",
        "task",
        "word",
        "mapping",
        "huge",
        "short",
    ],
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


def test_what_else_differs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "batch_norm": "inductive", "per_step": [{"step": 0}, {"step": 10}], "trained_on": "letters 84px",
        "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    files = [write("a.json", report(ONE)), write("b.json", report(OTHER, **changes))]
    assert main(["compare", files[0], files[0]]) == 0
    assert "Note" not in capsys.readouterr().out
    assert main(["compare", *files]) == 0
    said = capsys.readouterr().out
    for line in (
        "batch norm: transductive in the first, inductive in the second",
        "inner steps: 3 in the first, 10 in the second",
        "trained on: not stated in the first, letters 84px in the second",
        "version of torch: not stated in the first, 2.13.0 in the second",
    ):
        assert f"  {line}\n" in said


def test_a_report_of_results_that_are_not_finite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    files = [write("a.json", report([0.5, 0.6])), write("b.json", report([0.5, float("nan")]))]
    Path("b.json").write_text(Path("b.json").read_text().replace("NaN", "null"))
    assert main(["compare", *files]) == 2
    assert (
        "b.json holds results that are not finite for tasks [1], so nothing can be compared" in capsys.readouterr().err
    )


def of_seeds(per_task_of_seeds: dict[int, list[float]], **changes: object) -> dict:
    """What `test` writes for several seeds, computed with scipy."""
    means = [sum(values) / len(values) for values in per_task_of_seeds.values()]
    per_task = [sum(values) / len(values) for values in zip(*per_task_of_seeds.values(), strict=True)]
    one = report(per_task)
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    return {
        "title": "MAML on letters", "metric": "accuracy", "inner_steps": 3, "source": "letters 28px",
        "episode_hash": "0123456789abcdef", "protocol": {"batch norm": "transductive"}, "tasks": len(per_task),
        "checkpoints": [
            {"checkpoint": f"{seed}.ckpt", "seed": seed, "mean": mean}
            for seed, mean in zip(per_task_of_seeds, means, strict=True)
        ],
        "mean": one["mean"], "ci95_over_tasks": one["ci95"], "ci95_over_seeds": (high - low) / 2, "per_task": per_task,
        **changes,
    }  # fmt: skip


FIRST = {0: [0.2, 0.4, 0.6], 1: [0.3, 0.5, 0.6], 2: [0.2, 0.6, 0.9]}
SECOND = {2: [0.3, 0.7, 0.8], 0: [0.5, 0.5, 0.6], 1: [0.4, 0.5, 0.9]}
MEANS = ([0.4, 1.4 / 3, 1.7 / 3], [1.6 / 3, 0.6, 0.6])  # of the seeds 0, 1, 2


def test_tests_of_the_same_seeds_are_paired_over_tasks_and_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a.json", of_seeds(FIRST)), write("b.json", of_seeds(SECOND))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    first, second = (torch.tensor([*values.values()]).mean(0) for values in (FIRST, SECOND))
    for name, (one, other) in {"task by task": (first, second), "seed by seed": MEANS}.items():
        low, high = stats.ttest_rel(other, one).confidence_interval(0.95)
        middle = f"{(low + high) / 2:.2%} │ ± {(high - low) / 2:.2%}"
        assert f"second minus first, {name} │ {middle}" in said
    assert "MAML on letters: 3 training seeds" in said


def test_tests_of_other_seeds_are_independent_samples(capsys: pytest.CaptureFixture[str]) -> None:
    other = {seed + 5: values for seed, values in SECOND.items()}
    assert main(["compare", write("a.json", of_seeds(FIRST)), write("b.json", of_seeds(other))]) == 0
    low, high = stats.ttest_ind(MEANS[1], MEANS[0], equal_var=False).confidence_interval(0.95)
    said = " ".join(capsys.readouterr().out.split())
    assert f"over seeds, which differ │ {(low + high) / 2:.2%} │ ± {(high - low) / 2:.2%}" in said


def test_what_else_differs_between_tests_of_several_seeds_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    changed = of_seeds(SECOND, inner_steps=5, protocol={"batch norm": "inductive"})
    assert main(["compare", write("a.json", of_seeds(FIRST)), write("b.json", changed)]) == 0
    said = capsys.readouterr().out
    assert "  inner steps: 3 in the first, 5 in the second\n" in said
    assert "  batch norm: transductive in the first, inductive in the second\n" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode_hash": "f" * 16}, "the episodes differ: 0123456789abcdef and ffffffffffffffff"),
        ({"ci95_over_seeds": 0.5}, "b.json states ci95_over_seeds 0.5, but its tasks give 0.0"),
        ({"per_task": [0.5, 0.5, 0.5]}, "b.json states mean 0.577778, but its tasks give 0.5"),
        ({"checkpoints": []}, "b.json does not name the training seeds of two checkpoints; test the checkpoints again"),
        ({"checkpoints": [{"seed": "0", "mean": 1}] * 2}, "b.json does not name the training seeds of two checkpoints"),
        ({"checkpoints": [3, 4]}, "b.json is no test of several seeds ("),
        ({"checkpoints": [{"seed": 0, "mean": 0.9}, {"seed": 1, "mean": 0.9}]}, "b.json states mean 0.577778, but its"),
    ],
)
def test_tests_of_several_seeds_that_can_not_be_compared_are_refused(
    change: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", write("a.json", of_seeds(FIRST)), write("b.json", of_seeds(SECOND, **change))]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_one_checkpoint_is_not_compared_with_several(capsys: pytest.CaptureFixture[str]) -> None:
    files = [write("a.json", of_seeds(FIRST)), write("b.json", report([0.2, 0.4, 0.6]))]
    assert main(["compare", *files]) == 2
    assert capsys.readouterr().err == (
        "error: b.json is a test of one checkpoint, a.json of several training seeds; expected two files of one kind\n"
    )
