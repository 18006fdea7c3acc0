"""The files of a run: no command overwrites or drops what the user wrote or what an earlier command measured."""

import csv
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from meta_lightning.cli import main
from meta_lightning.runs.changes import command_line
from meta_lightning.runs.folders import claim_version, locked_run

from .tiny import TINY

CONFIG = f"""{TINY}
  enable_progress_bar: false
  logger: LOGGER
"""
TENSORBOARD = "{class_path: TensorBoardLogger, init_args: {save_dir: my logs, name: c}}"
CSV = TENSORBOARD.replace("TensorBoardLogger", "CSVLogger")
LOGGERS = {"tensorboard": TENSORBOARD, "csv": CSV, "both": f"[{TENSORBOARD}, {CSV}]", "false": "false", "null": "null"}
RUNS = {"false": Path("checkpoints"), "null": Path("lightning_logs/version_0")}
FIT = ["fit", "--config=config.yaml"]


def write_config(logger: str = CSV) -> None:
    Path("config.yaml").write_text(CONFIG.replace("LOGGER", logger))


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != ".lock"}


def rows() -> list[dict[str, str]]:
    return [
        row for path in sorted(Path().rglob("metrics.csv")) for row in csv.DictReader(path.read_text().splitlines())
    ]


def lost_rows(before: list[dict[str, str]]) -> list[dict[str, str]]:
    now = [{key: value for key, value in row.items() if value} for row in rows()]
    return [row for row in before if {key: value for key, value in row.items() if value} not in now]


@pytest.mark.parametrize("name", LOGGERS)
def test_no_command_takes_anything_away(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fit, resume, test, test again: files stay, if under another name, and rows do."""
    write_config(LOGGERS[name])
    Path("model_card.md").write_text("The user's own.")
    run = RUNS.get(name, Path("my logs/c/version_0"))
    resume = [*FIT, "--ckpt_path=last", "--trainer.max_steps=6"]
    before: dict[str, bytes] = {}
    for command in (
        FIT,
        resume,
        ["test", *FIT[1:], "--ckpt_path=last"],
        ["test", *FIT[1:], "--ckpt_path=last", "--data.shots=3"],
    ):
        measured, capsys_text = rows(), capsys.readouterr().out
        assert main(command) == 0, capsys_text
        after = files()
        assert not lost_rows(measured)
        for path, content in before.items():
            if path.endswith((".ckpt", "metrics.csv")):
                continue  # a newer state of the same run
            assert content in (after[path], *after.values()), f"{command[0]} changed {path}"
        before = after
    assert {str(path.parent) for path in Path().rglob("best.ckpt")} == {
        str(run if name == "false" else run / "checkpoints")
    }
    others = [path for path in before if not path.startswith(f"{run}/")]
    assert sorted(others) == ["config.yaml", "model_card.md"]
    saved, changes = (yaml.safe_load((run / file).read_text()) for file in ("config.yaml", "config_changes.yaml"))
    assert saved["trainer"]["max_steps"] == 4
    assert [entry["changed"] for entry in changes] == [{"trainer.max_steps": {"began": 4, "now": 6}}]
    assert command_line(run, Path("x.ckpt")) == shlex.join(
        ["--config", f"{run}/config.yaml", "--trainer.max_steps=6", "--ckpt_path", "x.ckpt"]
    )
    assert len([*run.glob("test_report*.json")]) == 2
    if name in ("csv", "both"):
        assert [row["step"] for row in rows() if row["train/loss"]] == [str(step) for step in range(1, 7)]
        assert [row["step"] for row in rows() if row["val/loss"]] == ["2", "4", "6"]
        assert len([row for row in rows() if row["test/loss"]]) >= 2


def test_the_printed_command_works_with_spaces_and_the_last_changes(capsys: pytest.CaptureFixture[str]) -> None:
    write_config()
    assert main(FIT) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Test it: "))
    arguments = shlex.split(line.partition("meta_lightning ")[2])
    assert arguments == [
        "test",
        "--config",
        "my logs/c/version_0/config.yaml",
        "--ckpt_path",
        "my logs/c/version_0/checkpoints/best.ckpt",
    ]


@pytest.mark.parametrize("steps", [2, 4])
def test_a_finished_run_says_so_and_stays_as_it_is(steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    write_config()
    assert main(FIT) == 0
    before = files()
    assert main([*FIT, "--ckpt_path=last", f"--trainer.max_steps={steps}"]) == 0
    captured = capsys.readouterr()
    assert (
        "Nothing to do: my logs/c/version_0/checkpoints/last.ckpt has taken 4 meta-steps, and trainer.max_steps is "
        f"{steps}. Nothing was changed; to go on, set trainer.max_steps above 4" in captured.out
    )
    assert files() == before


def test_without_a_logger_a_second_run_is_refused_and_the_advice_works(capsys: pytest.CaptureFixture[str]) -> None:
    write_config("false")
    assert main(FIT) == 0
    assert main(FIT) == 2
    assert capsys.readouterr().err == (
        "error: checkpoints holds the checkpoints of another run; resume that run with --ckpt_path last, or set "
        "trainer.default_root_dir\n"
    )
    assert main([*FIT, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_a_resume_from_elsewhere_does_not_overwrite_the_run_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    write_config()
    assert main(FIT) == 0
    write_config("false")
    assert main(FIT) == 0
    elsewhere = "my logs/c/version_0/checkpoints/last.ckpt"
    assert main([*FIT, f"--ckpt_path={elsewhere}", "--trainer.max_steps=6"]) == 2
    assert "checkpoints holds the checkpoints of another run" in capsys.readouterr().err


def test_simultaneous_starts_get_a_folder_each() -> None:
    """Two roots, as of two loggers with names of their own; one has runs already."""
    (Path("b") / "version_2").mkdir(parents=True)
    with ThreadPoolExecutor(16) as pool:
        claimed = list(pool.map(lambda _: claim_version([Path("a"), Path("b"), Path("a")]), range(16)))
    assert len({*claimed}) == 16
    assert min(claimed) == 3
    for root, runs in (("a", 16), ("b", 17)):
        assert len([*Path(root).glob("version_*")]) == runs


def test_loggers_with_other_names_get_one_number() -> None:
    other = CSV.replace("name: c", "name: rows")
    write_config(f"[{TENSORBOARD}, {other}]")
    Path("my logs/rows/version_4").mkdir(parents=True)
    assert main(FIT) == 0
    assert {path.parent.name for path in Path().rglob("metrics.csv")} == {"version_5"}
    assert Path("my logs/c/version_5/checkpoints/last.ckpt").is_file()


def test_a_run_that_is_trained_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    write_config()
    assert main(FIT) == 0
    before = files()
    resume = [*FIT, "--ckpt_path=last", "--trainer.max_steps=6"]
    with locked_run(Path("my logs/c/version_0")):
        assert main(resume) == 2
    assert capsys.readouterr().err == (
        "error: my logs/c/version_0 is in use: another process trains this run; wait for its end, or start a new run: "
        "leave out --ckpt_path, and give the logger another version or name\n"
    )
    assert files() == before
    assert main(resume) == 0


class Deletes(Callback):
    """Somebody deletes the run folder during training."""

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == 1:
            shutil.rmtree("my logs")


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_a_run_whose_folder_is_deleted_ends_with_one_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_config(LOGGERS[name])
    Path("callback.yaml").write_text("trainer: {callbacks: [{class_path: tests.cli.test_run_files.Deletes}]}")
    assert (
        main([*FIT, "--config=callback.yaml", "--trainer.max_steps=300", "--trainer.enable_model_summary=false"]) == 2
    )
    err = capfd.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "my logs/c/version_0" in errors[0]
    assert errors[0].endswith("was deleted while its run was trained; start a new run")
    assert "Traceback" not in err
