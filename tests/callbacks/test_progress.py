"""What a run shows: on a terminal, in a file, from the command line and from Python."""

import logging
import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichModelSummary, RichProgressBar, TQDMProgressBar
from torch import nn

from meta_lightning import EpisodicDataModule, MAMLModule, MetaSGDModule
from meta_lightning.callbacks.live_lines import LiveLines
from meta_lightning.callbacks.net_summary import summary
from meta_lightning.cli import main
from meta_lightning.data import Sinusoid
from meta_lightning.nets import MLP
from tests.cli.tiny import TINY

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
EARLY = [
    "--trainer.callbacks=EarlyStopping",
    "--trainer.callbacks.monitor=val/loss",
    "--trainer.callbacks.verbose=true",
]
LINE = (
    r"Meta-step 4/4: train/loss [\d.]+, val/loss [\d.]+, val/mse [\d.]+, best val/loss [\d.]+ at [24], [\d,.]+ tasks/s"
)
TRAINER = {"max_steps": 4, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 2, "logger": False}
NOISE = ("💡", "available", "FLOPs", "eval mode", "Restor", "Loaded", "treespec", "Epoch", "v_num")


def module() -> MAMLModule:
    return MAMLModule(MLP(1, 1, hidden=[4]), check_derivative=False)


def data() -> EpisodicDataModule:
    return EpisodicDataModule(Sinusoid(), shots=5, queries=5, meta_batch_size=2, val_tasks=2, test_tasks=2)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return ["--config=tiny.yaml"]


def plain(capfd: pytest.CaptureFixture[str]) -> str:
    said = "".join(capfd.readouterr())
    assert not CONTROL.search(said)
    assert not [word for word in NOISE if word in said]
    return said


@pytest.mark.parametrize("coloured", [False, True])
def test_in_a_file_a_validation_is_a_line(
    tiny: list[str], coloured: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if coloured:  # asks for colours, not for lines that change
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["fit", *tiny, *EARLY]) == 0
    said = plain(capfd)
    assert said.count("Meta-step ") == 2
    assert re.search(LINE, said)
    assert "MAMLModule learns 13 parameters: net (MLP) 13\n" in said


def test_from_python_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    model = module()
    trainer = Trainer(**TRAINER, log_every_n_steps=1, accelerator="cpu")
    trainer.fit(model, data())
    trainer.test(model, datamodule=data(), verbose=False)
    trainer.save_checkpoint("x.ckpt")
    trainer.validate(model, datamodule=data(), verbose=False, ckpt_path="x.ckpt")
    said = plain(capfd)
    assert said.count("Meta-step ") == 2
    assert re.search(LINE, said)


def test_the_first_command_of_the_readme_writes_little_to_a_file(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = [
        "--trainer.val_check_interval=1",
        "--trainer.max_steps=8",
        "--data.val_tasks=2",
        "--data.meta_batch_size=2",
    ]
    config = ["--config", str(repository / "configs/glyphs_5w1s/maml.yaml"), "--figures.every_n_validations=0"]
    assert main(["fit", *config, *short, "--trainer.accelerator=cpu", "--model.check_derivative=false"]) == 0
    lines = plain(capfd).splitlines()
    assert sum(line.startswith("Meta-step ") for line in lines) == 8  # the whole run has 8 validations
    assert len(lines) <= 60


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Makes a terminal of 200 columns the standard output and error; yields what is written to it."""
    ours, theirs = pty.openpty()
    content: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while part := os.read(ours, 1 << 16):
                content.append(part)

    reader = Thread(target=read)
    reader.start()
    lightning = logging.getLogger("lightning.pytorch")
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
        for name, value in {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"}.items():
            patch.setenv(name, value)
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, stream)
        # As Lightning makes when it is imported. Pytest's own handlers are not to print too.
        patch.setattr(lightning, "handlers", [logging.StreamHandler()])
        patch.setattr(lightning, "propagate", False)
        yield content
        assert sys.stdout is sys.stderr is lightning.handlers[0].stream is stream
    reader.join()
    os.close(ours)


def screen(content: list[bytes]) -> list[str]:
    """What such bytes leave on a terminal that is wide enough: a small emulator of the codes that are used."""
    lines, row, column = [""], 0, 0
    for code in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", b"".join(content).decode()):
        if code == "\r":
            column = 0
        elif code == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code.endswith("A") and code[0] == "\x1b":
            row -= int(code[2:-1] or 1)
            assert row >= 0
        elif code == "\x1b[2K":
            lines[row] = ""
        elif code[0] == "\x1b":
            assert code[-1] == "m", repr(code)  # colours
        else:
            lines[row] = lines[row].ljust(column)[:column] + code + lines[row][column + len(code) :]
            column += len(code)
    return lines


def test_on_a_terminal_nothing_tears_the_lines(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as content:
        assert main(["fit", *tiny, *EARLY]) == 0
    lines = screen(content)
    said = [line for line in lines if line.startswith(("Metric val/loss", "Meta-steps", "train/loss", "Valid"))]
    early = [line for line in said if line.startswith("Metric")]
    assert re.fullmatch(r"Metric val/loss improved\. New best score: [\d.]+", early[0])
    assert said[: len(early)] == early
    bar, figures = said[len(early) :]  # one of each is left: the others were replaced
    assert re.fullmatch(r"Meta-steps [━╸╺ ]+ 4/4 *", bar)
    assert re.fullmatch(
        r"train/loss [\d.]+ {2}val/loss [\d.]+ {2}val/mse [\d.]+ {2}best val/loss [\d.]+ at [24] {2}[\d,.]+ tasks/s",
        figures,
    )


def test_all_that_is_printed_stands_above_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[str] = []
    with terminal(monkeypatch) as content:
        lines = LiveLines()
        for number in range(3):
            lines.draw(f"bar {number}")
            print("printed", number)
            lines.draw(f"bar {number}")
            print("error", number, file=sys.stderr)
            lines.draw(f"bar {number}")
            logging.getLogger("lightning.pytorch.x").warning("logged %d", number)
            lines.draw(f"bar {number}")
            sys.stdout.writelines(["a", "b", "\n"])
            expected += [f"printed {number}", f"error {number}", f"logged {number}", "ab"]
        lines.draw("bar")
        print("y" * 300)  # one line to paste, however narrow the terminal is
        lines.draw("bar 3\nof two lines")
        lines.leave()
        print("after")
    expected += ["y" * 300, "bar 3", "of two lines", "after", ""]
    assert [line.rstrip() for line in screen(content)] == expected


@pytest.mark.parametrize(("seconds", "left"), [(1e9, ["(Pdb)", ""]), (0, ["(Pdb)", "bar 2", ""])])
def test_a_prompt_is_not_overwritten(seconds: float, left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meta_lightning.callbacks.live_lines._UNFINISHED_LINE_S", seconds)
    with terminal(monkeypatch) as content:
        lines = LiveLines()
        lines.draw("bar 1")
        print("(Pdb) ", end="")
        lines.draw("bar 2")
        lines.leave()
    assert [line.rstrip() for line in screen(content)] == left


def test_lines_leave_streams_that_are_no_terminal_alone() -> None:
    before = sys.stdout, sys.stderr, [*logging.getLogger("lightning.pytorch").handlers]
    lines = LiveLines()
    lines.draw("bar")
    assert (sys.stdout, sys.stderr, [*logging.getLogger("lightning.pytorch").handlers]) == before


@pytest.mark.parametrize(
    ("callback", "kind"),
    [(TQDMProgressBar(), ProgressBar), (RichProgressBar(leave=True), ProgressBar), (ModelSummary(), ModelSummary),
     (RichModelSummary(max_depth=2), ModelSummary)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_the_user_configures_stays(callback: ProgressBar | ModelSummary, kind: type) -> None:
    trainer = Trainer(max_steps=1, max_epochs=-1, logger=False, enable_checkpointing=False, limit_val_batches=0,
                      callbacks=[callback], accelerator="cpu")  # fmt: skip
    trainer.fit(module(), data())
    assert [part for part in trainer.callbacks if isinstance(part, kind)] == [callback]


def test_nothing_is_shown_where_that_is_asked_for(tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    assert main(["fit", *tiny, *quiet]) == 0
    said = plain(capfd)
    assert "Meta-step " not in said
    assert "learns" not in said


def test_the_summary_counts_what_is_learned_and_what_stays() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    assert summary(MetaSGDModule(net)) == (
        "MetaSGDModule learns 8 parameters: net (Sequential) 4, rates 4; 9 more stay as they are"
    )


def test_the_end_says_what_was_best_and_what_to_do_next(tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=my logs", "--trainer.logger.name=a"]
    assert main(["fit", *tiny, *logger]) == 0
    run = "my logs/a/version_0"
    assert re.search(
        rf"\n\nBest validation: val/loss [\d.]+ at meta-step [24]\nRun: {run}\nTest it: python -m meta_lightning test "
        rf"--config '{run}/config.yaml' --ckpt_path '{run}/checkpoints/best.ckpt'\n"
        rf"See its curves: tensorboard --logdir '{run}'\n$",
        plain(capfd),
    )


def test_the_end_says_why_training_ended_early(tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    never = ["--trainer.callbacks.min_delta=1000", "--trainer.callbacks.patience=1", "--trainer.max_steps=10"]
    csv = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"]
    assert main(["fit", *tiny, *EARLY, *never, *csv]) == 0
    said = plain(capfd)
    assert "\nTraining ended after meta-step 4 of 10; EarlyStopping: Monitored metric val/loss did not improve" in said
    assert "tensorboard" not in said
    assert main(["fit", *tiny, "--trainer.max_steps=1000000", "--trainer.max_time=00:00:00:01", *csv]) == 0
    assert re.search(r"Training ended after meta-step \d+ of 1000000; trainer.max_time is over\n", plain(capfd))


def test_validate_prints_its_results_beside_those_before_adaptation(
    tiny: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *tiny, "--untrained=true", "--trainer.logger=false"]) == 0
    said = plain(capfd)
    assert re.search(r"metric ┃ mean over tasks ┃ before adaptation", said)
    assert re.search(r"val/mse │ +[\d.]+ │ +[\d.]+ │", said)
    assert "DataLoader" not in said
