"""Tests of several training seeds of one experiment at once."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_lightning.cli import main

RUNS = Path("logs/sinusoid/maml")
SHORT = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=6",
    "--data.meta_batch_size=2", "--data.queries=5", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip

TIMES = {"seconds": 0, "seconds_per_task": 0}


@pytest.fixture(scope="module")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three training seeds and one of another inner rate, which each test copies."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("seeds")
    os.chdir(folder)
    try:
        for options in ([], ["--seed_everything=1"], ["--seed_everything=2"], ["--model.inner_lr=0.02"]):
            assert main(["fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT, *options]) == 0
    finally:
        os.chdir(here)
    return folder / "logs"


@pytest.fixture
def test(repository: Path, trained: Path) -> list[str]:
    shutil.copytree(trained, "logs")
    return ["test", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT]


def best(version: int) -> Path:
    return RUNS / f"version_{version}/checkpoints/best.ckpt"


def reports(*versions: int) -> list[dict]:
    return [json.loads((RUNS / f"version_{version}/test_report.json").read_text()) for version in versions]


def test_a_list_gives_each_its_own_report_and_the_spread_over_seeds(
    test: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = []
    for version in (2, 0, 1):
        assert main([*test, f"--ckpt_path={best(version)}"]) == 0
        alone += reports(version)
        (RUNS / f"version_{version}/test_report.json").unlink()
    assert not list(RUNS.glob("test_seeds*"))

    assert main([*test, f"--ckpt_path=[{best(2)}, {best(0)}, {best(1)}]"]) == 0
    together = reports(2, 0, 1)
    for single, joint in zip(alone, together, strict=True):
        assert {**single, **TIMES} == {**joint, **TIMES}
        scalars = EventAccumulator(str(Path(single["checkpoint"]).parents[1]))
        scalars.Reload()
        assert len(scalars.Scalars("test/mse")) == 2  # one from the test alone, one from the test of all

    content = json.loads((RUNS / "test_seeds.json").read_text())
    assert [estimate["seed"] for estimate in content["checkpoints"]] == [2, 0, 1]
    assert [estimate["meta_steps"] for estimate in content["checkpoints"]] == [2, 2, 2]
    means = [report["mean"] for report in together]
    assert [estimate["mean"] for estimate in content["checkpoints"]] == means
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (
        content["mean"] - content["ci95_over_seeds"],
        content["mean"] + content["ci95_over_seeds"],
    ) == pytest.approx((low, high))
    assert content["std_over_seeds"] == pytest.approx(stats.tstd(means))
    task_means = torch.tensor([report["per_task"] for report in together], dtype=torch.float64).mean(0)
    low, high = stats.ttest_1samp(task_means, 0).confidence_interval(0.95)
    assert content["ci95_over_tasks"] == pytest.approx((high - low) / 2)

    assert content["per_task"] == pytest.approx(task_means.tolist())
    out = capsys.readouterr().out
    line = f"over 3 training seeds: {content['mean']:.3f} ± {content['ci95_over_seeds']:.3f}"
    assert line in " ".join(out.split())
    assert line in (RUNS / "test_seeds.md").read_text()
    assert f"Over training seeds: {RUNS}/test_seeds.md and test_seeds.json" in out

    assert main(["compare", str(RUNS / "test_seeds.json"), str(RUNS / "test_seeds.json")]) == 0
    assert "second minus first, seed by seed" in capsys.readouterr().out


def test_a_pattern_is_sorted_by_number_and_nothing_unrelated_is_overwritten(test: list[str]) -> None:
    best(1).parents[1].rename(RUNS / "version_10")
    shutil.move(RUNS / "version_3", "elsewhere")
    pattern = f"--ckpt_path={RUNS}/version_*/checkpoints/best.ckpt"
    for _ in range(2):  # a repeated test replaces its own files
        assert main([*test, pattern]) == 0
    content = json.loads((RUNS / "test_seeds.json").read_text())
    assert [Path(estimate["checkpoint"]).parts[-3] for estimate in content["checkpoints"]] == [
        "version_0",
        "version_2",
        "version_10",
    ]
    before = (RUNS / "test_seeds.json").read_bytes()
    assert main([*test, pattern, "--data.eval_seed=5"]) == 0
    assert main([*test, f"--ckpt_path=[{best(0)},{best(2)}]"]) == 0
    assert (RUNS / "test_seeds.json").read_bytes() == before
    others = [json.loads((RUNS / f"test_seeds_{number}.json").read_text()) for number in (2, 3)]
    assert [len(other["checkpoints"]) for other in others] == [3, 2]
    assert others[0]["episode_hash"] != content["episode_hash"] == others[1]["episode_hash"]
    assert not (RUNS / "test_seeds_4.json").exists()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    return line.removeprefix("error: ")


def test_checkpoints_that_are_not_seeds_of_one_experiment_are_refused(
    test: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def several(*paths: object) -> list[str]:
        return [*test, f"--ckpt_path=[{','.join(map(str, paths))}]"]

    last = best(0).with_name("last.ckpt")
    Path("copy").mkdir()
    shutil.copy(best(1), "copy/best.ckpt")
    torch.save({"state_dict": {}}, "weights.ckpt")
    assert refused(several(best(0), best(1), f"./{best(0)}"), capsys) == (
        f"--ckpt_path names {best(0)} twice; expected each checkpoint once"
    )
    assert refused(several(best(1), "copy/best.ckpt"), capsys) == (
        f"{best(1)} and copy/best.ckpt hold the same weights; expected a checkpoint of each training seed in "
        "--ckpt_path"
    )
    weights = torch.load(last, weights_only=True)
    weights["state_dict"] = {name: value + 1 for name, value in weights["state_dict"].items()}
    torch.save(weights, last)
    assert refused(several(best(0), last), capsys) == (
        f"{best(0)} and {last} are of the same run, which has a single report; expected one checkpoint of each run "
        "in --ckpt_path, each run in a folder of its own"
    )
    assert refused(several(best(0), best(1), best(3)), capsys) == (
        f"{best(0)} and {best(3)} are not training seeds of one experiment: model.inner_lr is 0.01 in the first and "
        "0.02 in the other; test them one by one, and compare the reports with `compare`"
    )
    reptile = {key: value for key, value in weights.items() if key != "settings"}
    torch.save({**reptile, "settings": {**weights["settings"], "inner_batch_size": 5}}, best(2))
    assert "model.inner_batch_size is not a key in the first and 5 in the other" in refused(
        several(best(0), best(2)), capsys
    )
    data = {**weights["EpisodicDataModule"], "train_shape": [None, 3, 10]}
    torch.save({**weights, "EpisodicDataModule": data}, best(2))
    assert "data.train_shape is [None, 10, 10] in the first and [None, 3, 10]" in refused(
        several(best(0), best(2)), capsys
    )
    torch.save({**weights, "step_seed": 0}, best(2))
    assert refused(several(best(0), best(2)), capsys) == (
        f"{best(0)} and {best(2)} have the same training seed: seed_everything is 0 in both; expected a checkpoint of "
        "each training seed in --ckpt_path"
    )
    weights["step_seed"] = 2
    net = {"class_path": "meta_lightning.MLP", "init_args": {"activation": "tanh"}}
    recipe = {**weights["recipe"], "model": {"class_path": "x", "init_args": {"net": net}}}
    for changes, message in (
        ({"max_steps": 9}, "trainer.max_steps is 2 in the first and 9 in the other"),
        ({"algorithm": "own.Method"}, "algorithm is meta_lightning.algorithms.maml.MAMLModule in the first and own"),
        ({"recipe": recipe}, "model.net is {"),
        ({"EpisodicDataModule": {**weights["EpisodicDataModule"], "val_tasks": 9}}, "data.val_tasks is 2 in the first"),
    ):
        best(2).with_name("last.ckpt").unlink(missing_ok=True)
        torch.save({**weights, **changes}, best(2))
        assert message in refused(several(best(0), best(2)), capsys)
    torch.save(weights, best(2).with_name("last.ckpt"))
    assert "the file of the checkpoint is best.ckpt in the first and last.ckpt in the other" in refused(
        several(best(0), best(2).with_name("last.ckpt")), capsys
    )
    assert refused(several(best(0), "weights.ckpt"), capsys).startswith("weights.ckpt holds weights alone; expected")
    assert refused(several(best(0), "nowhere.ckpt"), capsys) == (
        "--ckpt_path nowhere.ckpt: no such file; expected last, best or the path of a checkpoint"
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("logs/*/nothing.ckpt", "--ckpt_path logs/*/nothing.ckpt matches no file; expected the path of a checkpoint"),
        ("[]", "--ckpt_path is an empty list; expected last, best or paths of checkpoints"),
        ("logs/**x/[", "--ckpt_path logs/**x/["),
    ],
)
def test_what_matches_nothing_is_refused(
    test: list[str], wanted: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused([*test, f"--ckpt_path={wanted}"], capsys).startswith(message)


def test_a_run_that_ended_early_is_noted(test: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    last = best(1).with_name("last.ckpt")
    torch.save({**torch.load(last, weights_only=True), "meta_steps": 1}, last)
    assert main([*test, f"--ckpt_path=[{best(0)},{best(1)}]"]) == 0
    assert f"Note: the run of {best(1)} took 1 of its 2 meta-steps" in capsys.readouterr().out


def test_validation_and_training_take_one_checkpoint(test: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("validate", "fit"):
        arguments = [command, *test[1:], f"--ckpt_path={RUNS}/version_*/checkpoints/best.ckpt"]
        assert refused(arguments, capsys) == f"--ckpt_path names 4 checkpoints, and {command} takes one"


def test_a_pattern_without_quotes_is_explained(test: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused([*test, "--ckpt_path", str(best(0)), str(best(1))], capsys)
    assert said == f"unexpected argument {best(1)}; put a pattern in quotes, and a list in brackets: '[a, b]'"
