"""The report of `test`, through the command line, on real configs."""

import json
import os
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_lightning import MetaModule
from meta_lightning.cli import main

RUN = Path("logs/glyphs_5w1s/maml/version_0")
SHORT = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=20",
    "--data.meta_batch_size=2", "--data.eval_batch_size=8", "--model.net.width=4", "--trainer.accelerator=cpu",
]  # fmt: skip
QUICK = ["--report.all_batch_norms=false", "--report.baselines=false"]
FIGURES = (
    "mean",
    "ci95",
    "per_step",
    "modes",
    "baselines",
    "per_task",
    "worst_tenth",
    "calibration_error",
    "bootstrap95",
)


@pytest.fixture(scope="module")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to test copies of."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("trained")
    os.chdir(folder)
    try:
        assert main(["fit", "--config", str(repository / "configs/glyphs_5w1s/maml.yaml"), *SHORT]) == 0
    finally:
        os.chdir(here)
    return folder / "logs"


@pytest.fixture
def config(repository: Path, trained: Path) -> list[str]:
    shutil.copytree(trained, "logs")
    return ["--config", str(repository / "configs/glyphs_5w1s/maml.yaml"), *SHORT]


def report_of(config: list[str], *options: str) -> dict:
    assert main(["test", *config, "--ckpt_path=last", *options]) == 0
    return json.loads((RUN / "test_report.json").read_text())


def test_every_protocol_stands_beside_the_others_from_one_checkpoint(config: list[str]) -> None:
    report = report_of(config)
    assert [*report["modes"]] == ["transductive", "inductive", "support_plus_one"]
    for protocol, mode in report["modes"].items():
        alone = report_of(config, f"--model.batch_norm={protocol}", "--report.all_batch_norms=false")
        assert alone["modes"] == {}
        assert (alone["mean"], alone["ci95"], alone["per_step"]) == (mode["mean"], mode["ci95"], mode["per_step"])
    assert report["mean"] == report["modes"]["transductive"]["mean"]


def test_baselines_are_those_of_their_own_tests(config: list[str], repository: Path) -> None:
    baselines = report_of(config)["baselines"]
    assert [*baselines] == ["chance", "nearest class mean", "untrained net"]
    assert baselines["chance"] == {"mean": 0.2, "ci95": 0.0}
    assert main(["test", *config, "--untrained=true"]) == 0
    (untrained,) = Path("logs").rglob("version_1/test_report.json")
    assert baselines["untrained net"]["mean"] == json.loads(untrained.read_text())["mean"]
    example = runpy.run_path(str(repository / "examples/nearest_class_mean.py"))
    data = example["glyphs"]()
    data.test_tasks = 20
    assert baselines["nearest class mean"]["mean"] == pytest.approx(example["main"](data), abs=1e-6)


def test_what_was_not_asked_for_is_not_measured(config: list[str]) -> None:
    report = report_of(config, *QUICK)
    assert report["modes"] == report["baselines"] == {}


def test_a_report_of_another_name_leaves_the_runs_own_and_its_card(config: list[str]) -> None:
    own = report_of(config, *QUICK)
    card = (RUN / "model_card.md").read_text()
    assert main(["test", *config, "--ckpt_path=last", *QUICK, "--data.eval_seed=9", "--report.name=other"]) == 0
    assert json.loads((RUN / "test_report.json").read_text()) == own
    assert (RUN / "model_card.md").read_text() == card
    assert json.loads((RUN / "other.json").read_text())["episode_hash"] != own["episode_hash"]
    assert (RUN / "other.md").is_file()


@pytest.mark.parametrize("name", ["", "a/b", "../test_report"])
def test_a_reports_name_has_no_folder(config: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *config, "--ckpt_path=last", f"--report.name={name}"]) == 2
    assert f"report.name is {name!r}; expected a file name without folder" in capsys.readouterr().err


def test_what_stands_beside_is_measured_in_the_precision_of_the_test(
    config: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered = []
    evaluate = MetaModule.evaluate

    def noted(self: MetaModule, *arguments: Any, **options: Any) -> Any:
        lowered.append(torch.is_autocast_enabled("cpu"))
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(MetaModule, "evaluate", noted)
    report_of(config, "--trainer.precision=bf16-mixed")
    assert len(lowered) == 4 * 3  # three batches: as trained, two other protocols, untrained
    assert all(lowered)


def test_a_test_made_again_gives_the_same_bytes(config: list[str]) -> None:
    first, second = report_of(config), report_of(config)
    for key in FIGURES:
        assert json.dumps(first[key]) == json.dumps(second[key]), key


def test_the_loop_over_tasks_finds_the_same(config: list[str]) -> None:
    mapped, looped = report_of(config, *QUICK), report_of(config, *QUICK, "--model.task_loop=loop")
    assert looped["mean"] == pytest.approx(mapped["mean"], abs=1e-6)
    assert looped["per_task"] == pytest.approx(mapped["per_task"], abs=1e-6)


def test_tasks_are_kept_one_by_one(config: list[str]) -> None:
    report = report_of(config, *QUICK)
    assert len(report["per_task"]) == report["tasks"] == 20
    assert sum(report["per_task"]) / 20 == pytest.approx(report["mean"], abs=1e-7)
    assert report["worst_tenth"] == pytest.approx(sum(sorted(report["per_task"])[:2]) / 2, abs=1e-7)
    assert 0 <= report["calibration_error"] <= 1


def test_functions_have_no_classes_to_be_sure_of(repository: Path) -> None:
    config = ["--config", str(repository / "configs/sinusoid/maml.yaml"), *(o for o in SHORT if "net" not in o)]
    assert main(["test", *config, "--untrained=true"]) == 0
    (path,) = Path("logs/sinusoid").rglob("test_report.json")
    report = json.loads(path.read_text())
    assert report["calibration_error"] is None
    assert report["modes"] == report["baselines"] == {}


def test_the_model_card_says_what_it_is_of(config: list[str]) -> None:
    # Another seed and other rates than the model was trained with: the card is about the training.
    report = report_of(config, "--seed_everything=7", "--model.optimizer.lr=0.5", "--model.eval_inner_steps=2")
    card = (RUN / "model_card.md").read_text()
    for piece in (
        "# MAML on glyphs_5w1s",
        f"accuracy {report['mean']:.2%} ± {report['ci95']:.2%} over 20 tasks",
        f"`{report['episode_hash']}`",
        "measured on 5-way 1-shot, 15 queries a class of `glyphs ",
        "- A task must have exactly 5 classes.",
        "- The result above needs all queries of a task at once.",
        "- data: `glyphs ",
        "- inputs: `{'image_size': 28, 'channels': 1, ",
        "- episodes: `5-way 1-shot, 5 queries a class`",
        "- tasks per meta-step: `2`",
        "- meta-steps: `2`",
        "- training seed: `0`",
        'MAML: Finn, Abbeel & Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.',
        "- inner_lr: `2.0`",
        "- optimizer.lr: `0.001`",
        "- model.eval_inner_steps is 2 here, 3 in the checkpoint",
        "Conv2d(1, 4, kernel_size=(3, 3), stride=(2, 2)",
        " parameters\n```",
        "| nearest class mean |",
        "- bootstrap's 95 % interval: ",
        "- torch: `",
        "best.ckpt" if "best" in report["checkpoint"] else "last.ckpt",
    ):
        assert piece in card, piece
    assert "amsgrad" not in card


def test_on_omniglot_report_tensorboard_and_json_agree(
    repository: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("logs/omniglot_5w1s/maml/version_0")
    config = ["--config", str(repository / "configs/omniglot_5w1s/maml.yaml"), *SHORT, "--data.source.download=false"]
    config += [f"--data.source.root={real_data / 'omniglot'}", "--model.eval_inner_steps=2"]
    assert main(["fit", *config]) == 0
    capsys.readouterr()
    assert main(["test", *config, "--ckpt_path=last"]) == 0
    first = json.loads((run / "test_report.json").read_text())

    events = EventAccumulator(str(run))
    events.Reload()
    # JSON holds doubles to the last digit; TensorBoard holds the floats that are nearest to them.
    low, high = first["bootstrap95"]
    expected = {
        "accuracy": first["mean"], "accuracy_before": first["per_step"][0]["mean"], "accuracy_ci95": first["ci95"],
        "accuracy_bootstrap_low": low, "accuracy_bootstrap_high": high, "accuracy_worst_tenth": first["worst_tenth"],
        "calibration_error": first["calibration_error"],
        **{f"accuracy_{name}": mode["mean"] for name, mode in first["modes"].items()},
        **{f"accuracy_{name.replace(' ', '_')}": at["mean"] for name, at in first["baselines"].items()},
    }  # fmt: skip
    assert len(expected) == 13
    for name, value in expected.items():
        (scalar,) = events.Scalars(f"test/{name}")
        assert scalar.value == np.float32(value), name
        assert scalar.step == events.Scalars("test/accuracy")[0].step
    printed, markdown = capsys.readouterr().out, (run / "test_report.md").read_text()
    for name in (
        "accuracy",
        "accuracy_inductive",
        "accuracy_worst_tenth",
        "calibration_error",
        "accuracy_untrained_net",
    ):
        assert f"{expected[name]:.2%}" in printed, name
        assert f"{expected[name]:.2%}" in markdown, name

    assert main(["test", *config, "--ckpt_path=last"]) == 0
    again = json.loads((run / "test_report.json").read_text())
    assert [json.dumps(again[key]) for key in FIGURES] == [json.dumps(first[key]) for key in FIGURES]
    assert main(["test", *config, *QUICK, "--ckpt_path=last", "--model.task_loop=loop"]) == 0
    looped = json.loads((run / "test_report.json").read_text())
    assert looped["per_task"] == pytest.approx(first["per_task"], abs=1e-6)
    assert looped["mean"] == pytest.approx(first["mean"], abs=1e-6)
    assert looped["episode_hash"] == first["episode_hash"]
