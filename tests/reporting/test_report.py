import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from meta_lightning.files import write_whole
from meta_lightning.reporting.report import Report, files, to_markdown, to_scalars, to_screen
from meta_lightning.reporting.statistics import Estimate, per_step, protocol_result


def report(metric: str = "accuracy") -> Report:
    curve = per_step(torch.tensor([[0.2, 0.8], [0.4, 0.9], [0.3, 1.0]]))
    return Report(
        algorithm="MAML", benchmark="omniglot_5w1s", checkpoint="best.ckpt", tasks=3, ways=5, shots=1, queries=1,
        batch_norm="transductive", metric=metric, mean=curve[-1].mean, ci95=curve[-1].ci95, per_step=curve,
        episode_hash="0123456789abcdef", seconds_per_task=0.00123, seconds=842.0, versions={"torch": "2.13.0"},
        source="omniglot 1234 28px", trained_on="omniglot 1234 28px", bootstrap95=(0.7, 0.99), worst_tenth=0.8,
        calibration_error=0.125,
    )  # fmt: skip


def test_curve_has_an_estimate_per_inner_step() -> None:
    curve = report().per_step
    assert [estimate.step for estimate in curve] == [0, 1]
    assert [estimate.mean for estimate in curve] == pytest.approx([0.3, 0.9])


def test_markdown_and_table_show_percent_and_circumstances() -> None:
    console = Console(record=True, width=120)
    console.print(to_screen(report()))
    for text in (to_markdown(report()), console.export_text()):
        for piece in ("MAML on omniglot_5w1s", "90.00%", "± 24.84%", "3 of 5-way 1-shot, 1 query a class",
                      "0123456789abcdef", "transductive", "best.ckpt", "0.0012 s a task", "842 s, with",
                      "data: omniglot 1234 28px",
                      "bootstrap's 95 % interval: 70.00% to 99.00%", "expected calibration error: 12.50%"):  # fmt: skip
            assert piece in text
    assert "| 1 | 0.900 | ± 0.248 |" in to_markdown(report("mse"))


def test_values_that_are_not_finite_are_null_in_json(tmp_path: Path) -> None:
    write_whole(files(dataclasses.replace(report(), mean=float("nan"), ci95=float("inf")), tmp_path))
    content = json.loads((tmp_path / "test_report.json").read_text(), parse_constant=pytest.fail)
    assert content["mean"] is None
    assert content["ci95"] is None


def test_json_reads_back(tmp_path: Path) -> None:
    write_whole(files(report(), tmp_path))
    content = json.loads((tmp_path / "test_report.json").read_text())
    assert content["per_step"][1] == {"step": 1, "mean": pytest.approx(0.9), "ci95": pytest.approx(0.2484, abs=1e-4)}
    assert content["episode_hash"] == "0123456789abcdef"


def test_a_long_curve_is_thinned_out_in_tables_and_whole_in_json() -> None:
    long = dataclasses.replace(report(), per_step=per_step(torch.rand(3, 34)))
    rows = re.findall(r"^\| (\d+) \|", to_markdown(long), re.MULTILINE)
    assert rows == ["0", "1", "2", "5", "10", "20", "30", "33"]
    write_whole(files(long, Path()))
    assert [estimate["step"] for estimate in json.loads(Path("test_report.json").read_text())["per_step"]] == [
        *range(34)
    ]


def test_a_test_on_other_data_says_so() -> None:
    assert "trained on" not in to_markdown(report())
    other = to_markdown(dataclasses.replace(report(), trained_on="glyphs 5678 28px"))
    assert other.startswith("# MAML of omniglot_5w1s, tested on omniglot\n")
    assert "- data: omniglot 1234 28px\n- trained on: glyphs 5678 28px\n" in other


def test_every_value_besides_the_mean_has_a_scalar() -> None:
    curve = torch.tensor([[0.25], [0.75]])
    full = dataclasses.replace(
        report(),
        ci95=0.5,
        by_batch_norm={"inductive": protocol_result(curve)},
        baselines={"nearest class mean": Estimate(0.25, 0.125)},
    )
    assert to_scalars(full) == {
        "test/accuracy_inductive": 0.5,
        "test/accuracy_nearest_class_mean": 0.25,
        "test/accuracy_ci95": 0.5,
        "test/accuracy_bootstrap_low": 0.7,
        "test/accuracy_bootstrap_high": 0.99,
        "test/accuracy_worst_tenth": 0.8,
        "test/calibration_error": 0.125,
    }
