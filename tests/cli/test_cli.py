"""The command line as a person uses it: fit, test, resume, override."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_lightning.cli import main
from meta_lightning.runs.checkpoint import Checkpoint

SHORT = [
    "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=2",
    "--trainer.accelerator=cpu", "--data.val_tasks=3", "--data.test_tasks=5", "--data.meta_batch_size=2",
]  # fmt: skip
RUN = Path("logs/sinusoid/maml/version_0")


@pytest.fixture
def config(repository: Path) -> list[str]:
    return ["--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return accumulator


def test_fit_leaves_a_run_and_says_where_and_what_next(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *config]) == 0
    assert {path.name for path in RUN.iterdir()} >= {"config.yaml", "checkpoints"}
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert load(RUN / "checkpoints/last.ckpt")["global_step"] == 4
    out = capsys.readouterr().out
    assert f"Run: {RUN}" in out
    line = re.search(r"Test it: python -m meta_lightning (.+)", out)
    assert line
    assert "tensorboard --logdir" in out
    assert main(line[1].split()) == 0  # the line works as it is printed
    assert (RUN / "test_report.json").is_file()


def test_scalars_stand_before_and_after_adaptation_at_meta_steps(config: list[str]) -> None:
    assert main(["fit", *config]) == 0
    assert main(["test", *config, "--ckpt_path=best"]) == 0
    scalars = events(RUN)
    for stage in ("train", "val", "test"):
        for name in ("loss", "mse", "loss_before", "mse_before"):
            assert f"{stage}/{name}" in scalars.Tags()["scalars"]
    assert [event.step for event in scalars.Scalars("train/loss")] == [2, 4]
    assert scalars.Scalars("val/mse_before")[0].value != scalars.Scalars("val/mse")[0].value


def test_report_holds_its_figures_and_circumstances(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *config]) == 0
    assert main(["test", *config, "--ckpt_path=best"]) == 0
    report = json.loads((RUN / "test_report.json").read_text())
    assert (report["algorithm"], report["benchmark"], report["metric"]) == ("MAML", "sinusoid", "mse")
    assert (report["tasks"], report["ways"], report["shots"], report["queries"]) == (5, None, 5, 100)
    assert [at["step"] for at in report["per_step"]] == list(range(11))
    assert (report["mean"], report["ci95"]) == (report["per_step"][-1]["mean"], report["per_step"][-1]["ci95"])
    assert report["mean"] == pytest.approx(events(RUN).Scalars("test/mse")[0].value, rel=1e-5)
    assert re.fullmatch("[0-9a-f]{16}", report["episode_hash"])
    assert report["checkpoint"].endswith("best.ckpt")
    markdown = (RUN / "test_report.md").read_text()
    assert f"| 10 | {report['mean']:.3f} | ± {report['ci95']:.3f} |" in markdown
    assert report["episode_hash"] in capsys.readouterr().out


def test_command_line_beats_yaml_and_checkpoint(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *config, "--model.eval_inner_steps=2", "--model.inner_lr=0.005"]) == 0
    yaml_of_run = ["--config", str(RUN / "config.yaml")]
    assert main(["test", *yaml_of_run, "--ckpt_path=last", "--model.eval_inner_steps=7"]) == 0
    assert len(json.loads((RUN / "test_report.json").read_text())["per_step"]) == 8
    assert "model.eval_inner_steps is 7 here, 2 in the checkpoint" in capsys.readouterr().out
    # Without the override the YAML counts, and nothing differs.
    assert main(["test", *yaml_of_run, "--ckpt_path=last"]) == 0
    assert len(json.loads((RUN / "test_report.json").read_text())["per_step"]) == 3
    assert "in the checkpoint" not in capsys.readouterr().out


def test_resume_goes_on_in_the_same_version_and_is_the_same_run(config: list[str]) -> None:
    assert main(["fit", *config, "--trainer.max_steps=7"]) == 0
    assert main(["fit", *config, "--trainer.max_steps=3"]) == 0
    assert main(["fit", *config, "--trainer.max_steps=7", "--ckpt_path=last"]) == 0
    runs = RUN.parent
    assert {path.name for path in runs.iterdir()} == {"version_0", "version_1"}
    whole, resumed = (load(runs / version / "checkpoints/last.ckpt") for version in ("version_0", "version_1"))
    assert resumed["global_step"] == 7
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name])
    curves = [events(runs / version).Scalars("val/mse") for version in ("version_0", "version_1")]
    assert [(at.step, at.value) for at in curves[0]] == [(at.step, at.value) for at in curves[1]]


def test_a_resumed_run_removes_what_a_killed_save_left(config: list[str]) -> None:
    assert main(["fit", *config, "--trainer.max_steps=1"]) == 0
    left = RUN / "checkpoints/.last-abc123.part"
    left.write_bytes(b"half of a checkpoint")
    os.utime(left, (0, 0))
    assert main(["test", *config, "--ckpt_path=last"]) == 0
    assert left.exists()
    assert main(["fit", *config, "--trainer.max_steps=2", "--ckpt_path=last"]) == 0
    assert not left.exists()


def test_a_resumed_run_heeds_the_outer_rate_of_the_command_line(config: list[str]) -> None:
    assert main(["fit", *config]) == 0
    assert main(["fit", *config, "--trainer.max_steps=6", "--ckpt_path=last", "--model.optimizer.lr=0.5"]) == 0
    (group,) = load(RUN / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.5


def test_the_config_of_a_resumed_run_starts_a_run_of_its_own(config: list[str]) -> None:
    assert main(["fit", *config, "--trainer.max_steps=2"]) == 0
    assert main(["fit", *config, "--trainer.max_steps=4", "--ckpt_path=last"]) == 0
    saved = yaml.safe_load((RUN / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 2  # as the run began: what changed stands beside it
    assert saved["ckpt_path"] is None
    assert main(["fit", "--config", str(RUN / "config.yaml")]) == 0
    assert load(RUN.with_name("version_1") / "checkpoints/last.ckpt")["global_step"] == 2


def test_the_hash_is_that_of_the_episodes_that_were_tested(config: list[str]) -> None:
    hashes = []
    for limit in (["--data.test_tasks=4"], ["--data.test_tasks=8", "--trainer.limit_test_batches=2"]):
        assert main(["test", *config, "--untrained=true", "--data.eval_batch_size=2", *limit]) == 0
        report = json.loads((RUN.with_name(f"version_{len(hashes)}") / "test_report.json").read_text())
        assert report["tasks"] == 4
        hashes.append(report["episode_hash"])
    assert hashes[0] == hashes[1]


def test_double_precision_reaches_pictures(repository: Path, omniglot_root: Path) -> None:
    arguments = ["--config", str(repository / "configs/omniglot_5w1s/maml.yaml"), *SHORT, "--trainer.max_steps=1"]
    source = [f"--data.source.root={omniglot_root}", "--data.source.download=false"]
    assert main(["fit", *arguments, *source, "--trainer.precision=64-true", "--data.eval_batch_size=3"]) == 0


def test_a_net_that_gives_features_is_not_made_as_wide_as_the_ways(repository: Path, omniglot_root: Path) -> None:
    config = str(repository / "configs/omniglot_5w1s/protonet.yaml")
    source = [f"--data.source.root={omniglot_root}", "--data.source.download=false", "--data.train_ways=7"]
    assert main(["fit", "--config", config, *SHORT, "--trainer.max_steps=1", *source]) == 0
    weights = load(Path("logs/omniglot_5w1s/protonet/version_0/checkpoints/last.ckpt"))["state_dict"]
    assert not [name for name in weights if "head" in name]


def test_last_means_the_newest_version_that_has_one(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["fit", *config]) == 0
    (RUN.parent / "version_10").mkdir()  # newer by number, but without a checkpoint
    assert main(["validate", *config, "--ckpt_path=last"]) == 0
    out = capsys.readouterr().out
    assert "Checkpoint: logs/sinusoid/maml/version_1/checkpoints/last.ckpt" in out
    assert "is newer" not in out


def test_an_older_best_is_not_passed_off_as_the_newest(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *config]) == 0
    assert main(["fit", *config, "--trainer.max_steps=1"]) == 0  # ends before its first validation
    assert main(["test", *config, "--ckpt_path=best"]) == 0
    out = capsys.readouterr().out
    assert "Checkpoint: logs/sinusoid/maml/version_0/checkpoints/best.ckpt" in out
    assert "Note: logs/sinusoid/maml/version_1 is newer, but has no best.ckpt" in out


def test_best_is_kept_by_the_validation_metric_across_a_resume(config: list[str]) -> None:
    assert main(["fit", *config, "--trainer.max_steps=6"]) == 0
    losses = {at.step: at.value for at in events(RUN).Scalars("val/loss")}
    best = load(RUN / "checkpoints/best.ckpt")["global_step"]
    assert losses[best] == min(losses.values())
    # Resumed with an outer rate that ruins the weights: the former best must stay.
    ruin = [*config, "--trainer.max_steps=10", "--ckpt_path=last", "--model.inner_lr=100.0"]
    assert main(["fit", *ruin, "--model.grad_clip=1.0"]) == 0
    assert load(RUN / "checkpoints/best.ckpt")["global_step"] == best


def test_training_seeds_share_their_evaluation_episodes(config: list[str]) -> None:
    hashes, initial = [], []
    for seed in (1, 2):
        assert main(["test", *config, f"--seed_everything={seed}", "--untrained=true"]) == 0
        report = json.loads((RUN.with_name(f"version_{seed - 1}") / "test_report.json").read_text())
        hashes.append(report["episode_hash"])
        initial.append(report["mean"])
        assert report["checkpoint"] == "none: the weights in memory, with no meta-step taken"
    assert hashes[0] == hashes[1]
    assert initial[0] != initial[1]


def test_data_seed_follows_seed_everything_unless_it_is_set(config: list[str]) -> None:
    assert main(["fit", *config, "--seed_everything=3"]) == 0
    assert main(["fit", *config, "--seed_everything=3", "--data.seed=5"]) == 0
    seeds = [
        yaml.safe_load((RUN.with_name(f"version_{i}") / "config.yaml").read_text())["data"]["seed"] for i in (0, 1)
    ]
    assert seeds == [None, 5]  # as given: the same file serves every seed
    states = [load(RUN.with_name(f"version_{i}") / "checkpoints/last.ckpt")["EpisodicDataModule"] for i in (0, 1)]
    assert [state["seed"] for state in states] == [3, 5]


def test_print_config_is_complete_and_can_be_read_back(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *config, "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    Path("printed.yaml").write_text(printed)
    assert yaml.safe_load(printed)["model"]["init_args"]["task_loop"] == "vmap"
    assert main(["fit", "--config", "printed.yaml"]) == 0


def test_fast_dev_run_leaves_nothing(config: list[str]) -> None:
    assert main(["fit", *config, "--trainer.fast_dev_run=true"]) == 0
    assert not Path("logs").exists()


def test_somebody_elses_net_is_named_by_its_path(config: list[str]) -> None:
    assert main(["fit", *config, '--model.net={"class_path": "tests.cli.test_cli.Theirs"}']) == 0


class Theirs(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))


def test_an_unexpected_exception_is_not_dressed_up(config: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meta_lightning.cli.app.link_ways", None)  # a defect of the package, not of the user's code
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        main(["fit", *config])


def test_a_run_that_diverges_stops_before_the_weights_are_touched(
    config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *config, "--trainer.max_steps=2"]) == 0
    before = load(RUN / "checkpoints/last.ckpt")
    assert main(["fit", *config, "--ckpt_path=last", "--model.inner_lr=1e30"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"error: meta-step 3: the loss or the meta-gradient is not finite \(tasks \[4, 5\]\)", error)
    after = load(RUN / "checkpoints/last.ckpt")
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())


def test_checks_that_are_made_rarely_say_what_that_costs(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    every = ["--model.check_finite_every=3", "--trainer.max_steps=5", "--model.inner_lr=1e30"]
    assert main(["fit", *config, *every]) == 1
    said = capsys.readouterr()
    assert "Note: model.check_finite_every is 3: weights and checkpoints may be spoilt before the run stops" in said.out
    assert "error: meta-step 3: the loss or the meta-gradient is not finite" in said.err
    assert "check_finite_every is 3, so the weights and later checkpoints may be spoilt" in said.err


def test_the_screen_shows_neither_tips_nor_devices_that_are_not_there(config: list[str]) -> None:
    line = [sys.executable, "-m", "meta_lightning", "fit", *config]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    for words in ("💡", "TPU available", "stopped: `max_steps", "Restor", "Loaded model weights"):
        assert words not in done.stdout + done.stderr


def test_a_resumed_run_says_where_it_lies_and_what_next(
    config: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fit", *config]) == 0
    capsys.readouterr()
    read: list[Path] = []
    plain = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda path: read.append(path) or plain(path))
    assert main(["fit", *config, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    out = capsys.readouterr().out
    assert f"Run: {RUN}" in out
    assert "Test it: " in out
    # For the checks, for the number of meta-steps, and for that of the best validation.
    assert [path.name for path in read] == ["last.ckpt", "last.ckpt", "best.ckpt"]
