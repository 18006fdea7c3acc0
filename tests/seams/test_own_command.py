"""A command in one file: a function, and one line in the table."""

import pytest
from lightning.pytorch import LightningModule, Trainer

from meta_lightning.cli import main
from meta_lightning.commands import COMMANDS, Command
from meta_lightning.console import notify
from meta_lightning.data import EpisodicDataModule


def shout(word: str, times: int = 2) -> None:
    """Says a word several times.

    Args:
        word: The word.
        times: How often.
    """
    notify(" ".join([word.upper()] * times))


def describe(trainer: Trainer, model: LightningModule, datamodule: EpisodicDataModule, loud: bool = False) -> None:
    """Says what a config is about.

    Args:
        trainer: The trainer.
        model: The algorithm.
        datamodule: The episodes.
        loud: Say it loudly.
    """
    text = f"{type(model).__name__} on {type(datamodule.source).__name__} for {trainer.max_steps} meta-steps"
    notify(text.upper() if loud else text)


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "shout", Command(shout, "nothing", "Say a word several times."))
    monkeypatch.setitem(COMMANDS, "describe", Command(describe, "config", "Say what a config is about."))


def test_a_command_of_its_own_arguments_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shout", "--times=3", "hey"]) == 0
    assert capsys.readouterr().out == "HEY HEY HEY\n"


def test_a_command_on_a_config_gets_its_objects(repository, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(repository / "configs/sinusoid/maml.yaml")
    assert main(["describe", "--config", config, "--loud=true", "--trainer.max_steps=7"]) == 0
    assert "MAMLMODULE ON SINUSOID FOR 7 META-STEPS" in capsys.readouterr().out


def test_every_list_of_commands_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "Say a word several times." in printed
    assert "Say what a config is about." in printed
    assert main(["whisper"]) == 2
    assert "expected one of fit, validate, test, adapt, predict, compare, episodes, benchmark, shout, describe" in (
        capsys.readouterr().err
    )
    assert main(["shout", "--times=x", "hey"]) == 2
    assert "times is x; expected int" in capsys.readouterr().err
