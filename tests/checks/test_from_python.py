"""`Trainer.fit`, `validate` and `test` from Python refuse what the command line refuses, once and before writing."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning import ConfigError, EpisodicDataModule, MAMLModule
from meta_lightning.callbacks import LeakGuard
from meta_lightning.checks import preflight
from meta_lightning.cli import main
from meta_lightning.data import Sinusoid

from ..algorithms.problems import FACES, SINUSOIDS

Options = dict[str, Any]


def running(**options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    logger = TensorBoardLogger(".", name="run")
    return Trainer(**{"max_steps": 2, "max_epochs": -1, "logger": logger, **quiet, **options})


def sinusoids(**options: Any) -> EpisodicDataModule:
    return EpisodicDataModule(Sinusoid(), **{"shots": 5, "queries": 5, "val_tasks": 4, "test_tasks": 4, **options})


def written() -> list[Path]:
    return [*Path.cwd().iterdir()]


class ByFunction(nn.Module):
    """Calls layer norm as a function, whose second derivative under vmap is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 16), nn.Linear(16, 1)
        self.scale, self.shift = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(F.layer_norm(self.first(x), (16,), self.scale, self.shift)))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, 0]


def no_optimizer(_: Any) -> torch.optim.Optimizer:
    raise ValueError("rate")


REFUSED: dict[str, tuple[MAMLModule, Options, Options, str]] = {
    "gradient": (MAMLModule(ByFunction(), inner_lr=0.1), {}, {}, "under vmap is off by"),
    "gradient in double precision": (MAMLModule(ByFunction()), {"precision": "64-true"}, {}, "under vmap is off by"),
    "net": (MAMLModule(Flat()), {}, {}, r"model\.net gives float32 \[5\] for targets"),
    "optimizer": (MAMLModule(SINUSOIDS.net(), optimizer=no_optimizer), {}, {}, r"model\.optimizer or .* rate"),
    "monitor": (
        MAMLModule(SINUSOIDS.net()), {"callbacks": [ModelCheckpoint(monitor="val_loss")]}, {},
        r"the monitor of ModelCheckpoint in .* is val_loss; expected one of val/loss",
    ),
    "epochs": (
        MAMLModule(SINUSOIDS.net()), {"max_steps": -1, "max_epochs": 2}, {},
        r"trainer\.max_epochs is 2.*set max_steps.*val_check_interval with check_val_every_n_epoch=None",
    ),
    "Lightning's own number of epochs": (
        MAMLModule(SINUSOIDS.net()), {"max_steps": -1, "max_epochs": None}, {}, r"trainer\.max_epochs is 1000",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")
@pytest.mark.parametrize("case", REFUSED)
def test_fit_refuses_before_anything_is_written(case: str) -> None:
    module, options, of_data, message = REFUSED[case]
    trainer = running(**options)
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, sinusoids(**of_data))
    assert written() == []


def test_fit_refuses_tasks_that_processes_can_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "world_size", 3)
    with pytest.raises(ConfigError, match=r"data\.(meta_batch_size|val_tasks) is 4, which 3 processes can.t share"):
        running().fit(MAMLModule(SINUSOIDS.net()), sinusoids())
    assert written() == []


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_refuses_a_net_that_does_not_fit(stage: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.net gives float32 \[5\] for targets"):
        getattr(running(), stage)(MAMLModule(Flat()), sinusoids())
    assert written() == []


def count_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    true = preflight.check_net
    monkeypatch.setattr(preflight, "check_net", lambda *args: made.append("net") or true(*args))
    return made


def test_each_run_is_checked_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    made = count_checks(monkeypatch)
    trainer, module, data = (
        running(val_check_interval=1, check_val_every_n_epoch=None),
        MAMLModule(SINUSOIDS.net()),
        sinusoids(),
    )
    trainer.fit(module, data)
    assert len(made) == 1
    with caplog.at_level("INFO"):
        trainer.test(module, data, verbose=False)
    assert "will override existing callbacks" not in caplog.text
    assert len(made) == 2
    assert sum(isinstance(callback, LeakGuard) for callback in trainer.callbacks) == 1


def test_the_command_line_checks_once(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    made = count_checks(monkeypatch)
    arguments = ["--config", str(repository / "configs/sinusoid/maml.yaml"), "--trainer.max_steps=1"]
    arguments += ["--trainer.val_check_interval=1", "--data.val_tasks=2", "--data.eval_batch_size=2"]
    assert main(["fit", *arguments, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]) == 0
    assert len(made) == 1


def test_the_checks_change_neither_weights_nor_random_numbers() -> None:
    seen = []

    class Look(Callback):
        def setup(self, *_: Any, **__: Any) -> None:
            seen.append(torch.random.get_rng_state())

    module = MAMLModule(FACES.net(dropout=0.5))
    before, state = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    running(max_steps=0, logger=False, callbacks=[Look()]).fit(module, FACES.data())
    assert torch.equal(seen[0], state)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_a_fit_after_a_fit_in_double_precision_is_checked_as_it_is() -> None:
    module, data = MAMLModule(SINUSOIDS.net()), sinusoids()
    for _ in range(2):
        running(precision="64-true").fit(module, data)


def test_a_run_that_was_refused_is_checked_again() -> None:
    trainer, module = running(), MAMLModule(Flat())
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"model\.net gives float32"):
            trainer.fit(module, sinusoids())


def test_a_number_of_batches_ends_an_epoch() -> None:
    module = MAMLModule(SINUSOIDS.net())
    running(max_steps=-1, max_epochs=2, limit_train_batches=3).fit(module, sinusoids())
    assert module.record is not None
    assert module.record.meta_steps == 6


def test_the_command_line_runs_in_a_thread(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), "--trainer.max_steps=2"]
    arguments += ["--trainer.val_check_interval=1", "--data.val_tasks=2", "--data.eval_batch_size=2"]
    arguments += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(arguments)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert capsys.readouterr().out.count("Note: signals are not handled") == 1
