"""However a run is cut, what is resumed ends where the uninterrupted run ends, to the last bit."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import Checkpoints, GracefulStop

from ..algorithms.cases import CASES, Case

# As it should be, when a run is resumed; the command line leaves this warning out.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

STEPS = 25
ALGORITHMS = [case for case in CASES if case.name in ("maml, 3 steps", "fomaml, 3 steps", "meta-sgd, 1 step")]
ALGORITHMS += [case for case in CASES if case.name in ("reptile, adam", "protonet, euclidean")]
SIGNALS = {"sigterm": signal.SIGTERM, "ctrl-c": signal.SIGINT}


@pytest.fixture(autouse=True)
def _signals_given_back() -> Iterator[None]:
    former = {number: signal.getsignal(number) for number in SIGNALS.values()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


class Witness(Callback):
    """Keeps what a run saw, and cuts it where it is told to."""

    def __init__(self, how: str = "not at all", at: int = -1) -> None:
        self.how, self.at = how, at
        self.episodes: list[int] = []
        self.values: list[tuple[int, str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, module: MetaModule, tasks: Any, number: int) -> None:
        if trainer.global_step == self.at - 1 and self.how in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.how])
        self.episodes += tasks.index.tolist()

    def on_train_start(self, trainer: Trainer, module: MetaModule) -> None:
        step = module.meta_step

        def run(*arguments: Any) -> Any:
            if trainer.global_step == self.at and self.how == "exception":
                raise RuntimeError("cut")
            return step(*arguments)

        module.meta_step = run

    def on_validation_end(self, trainer: Trainer, module: MetaModule) -> None:
        self.values += [(trainer.global_step, name, value.item()) for name, value in trainer.callback_metrics.items()
                        if name.startswith("val/")]  # fmt: skip


def make(case: Case) -> MetaModule:
    torch.manual_seed(0)
    return case.make(
        case.problem.net(dropout=0.2),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10),
    )


def fit(
    case: Case, witness: Witness, steps: int = STEPS, workers: int = 0, **options: Any
) -> tuple[MetaModule, Trainer]:
    module, data = make(case), case.problem.data()
    data.num_workers = workers
    running = Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=4, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=Path.cwd(),
        callbacks=[witness, Checkpoints(), GracefulStop()],
    )  # fmt: skip
    running.fit(module, datamodule=data, weights_only=True, **options)
    return module, running


def cut(case: Case, how: str, at: int, workers: int) -> Witness:
    witness = Witness(how, at)
    if how == "max_steps":
        fit(case, witness, steps=at, workers=workers)
    elif how == "exception":
        with pytest.raises(RuntimeError, match="cut"):
            fit(case, witness, workers=workers)
    else:
        with pytest.raises(SystemExit) as ended:
            fit(case, witness, workers=workers)
        assert ended.value.code == {"sigterm": 143, "ctrl-c": 130}[how]
    return witness


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


CUTS = [("max_steps", 13), ("sigterm", 13), ("sigterm", 12), ("ctrl-c", 14), ("exception", 13)]


@pytest.mark.parametrize(("how", "at"), CUTS, ids=[f"{how} at {at}" for how, at in CUTS])
@pytest.mark.parametrize("case", ALGORITHMS, ids=lambda case: case.name)
def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(case: Case, how: str, at: int) -> None:
    check(case, how, at, workers=0)


def test_with_worker_processes_too() -> None:
    check(ALGORITHMS[0], "sigterm", 13, workers=2)


def check(case: Case, how: str, at: int, workers: int) -> None:
    seen = Witness()
    _, trainer = fit(case, seen)
    expected = trainer._checkpoint_connector.dump_checkpoint()
    Path("checkpoints").rename("whole")

    before, after = cut(case, how, at, workers), Witness()
    saved = torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert saved == (at - at % 4 if how == "exception" else at)  # an exception leaves the last validation
    _, trainer = fit(case, after, workers=workers, ckpt_path="checkpoints/last.ckpt")

    assert trainer.global_step == STEPS
    found = trainer._checkpoint_connector.dump_checkpoint()
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert equal(expected[part], found[part]), part
    first = before.episodes[: saved * 4]  # the step that failed had begun
    assert first + after.episodes == seen.episodes
    assert [value for value in before.values if value[0] <= saved] + [
        value for value in after.values if value[0] > saved
    ] == seen.values


def test_a_second_ctrl_c_is_the_systems_own() -> None:
    """The kernel then ends the process, whatever it waits for."""

    class Look(Witness):
        found: list[Any] = []  # noqa: RUF012 - read from outside

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            self.found.append(signal.getsignal(signal.SIGINT))

    with pytest.raises(SystemExit):
        fit(ALGORITHMS[0], Look("ctrl-c", 3))
    assert Look.found[0] not in (signal.SIG_DFL, signal.default_int_handler)
    assert Look.found[-1] == signal.SIG_DFL


@pytest.mark.parametrize("how", ["not at all", "exception"])
def test_the_signals_are_given_back(how: str) -> None:
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        fit(ALGORITHMS[0], Witness(how, 3), steps=5)
    except RuntimeError:
        assert how == "exception"
    assert former == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_notebook_that_goes_on_after_stops_is_not_ended_by_later_signals() -> None:
    """Such as an event loop's, which has its own handlers."""
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for how in ("sigterm", "sigterm", "ctrl-c"):
        with pytest.raises(SystemExit):
            fit(ALGORITHMS[0], Witness(how, 3))
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.5)  # the reaction that would be missed
    assert seen == 3 * [signal.SIGTERM]
    signal.signal(signal.SIGTERM, former[1])
    fit(ALGORITHMS[0], Witness(), steps=2)
    assert former[0] == signal.getsignal(signal.SIGINT), "what a stopped run had replaced"


def test_a_stop_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit(ALGORITHMS[0], Witness("sigterm", 7))
    said = capsys.readouterr().out
    last = Path.cwd() / "checkpoints/last.ckpt"
    python = f'trainer.fit(module, datamodule=data, ckpt_path="{last}")'
    assert f"Stopped by SIGTERM after meta-step 7. Resume: {python}" in said
    Path("checkpoints/config.yaml").write_text("a: 1")  # as the command line leaves it
    with pytest.raises(SystemExit):
        fit(ALGORITHMS[0], Witness("sigterm", 7))
    assert (
        f"Resume: python -m meta_lightning fit --config checkpoints/config.yaml --ckpt_path {last}\n"
        in capsys.readouterr().out
    )


def test_a_module_that_was_stopped_trains_again() -> None:
    module, data = make(ALGORITHMS[0]), ALGORITHMS[0].problem.data()
    for how, steps in (("sigterm", 3), ("not at all", 5)):
        running = Trainer(
            max_steps=5, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, callbacks=[Witness(how, 3), GracefulStop()],
        )  # fmt: skip
        try:
            running.fit(module, datamodule=data)
        except SystemExit:
            assert how == "sigterm"
        assert running.global_step == steps


def test_dropout_goes_on_drawing_from_the_seed_of_the_run() -> None:
    """Also from Python, where nothing but the generator's state knows it."""
    case = ALGORITHMS[0]
    fit(case, Witness(), steps=8)
    torch.manual_seed(99)
    other = case.make(case.problem.net(dropout=0.2))
    checkpoint = torch.load("checkpoints/last.ckpt", weights_only=True)
    assert other.step_seed != checkpoint["step_seed"]
    other.on_load_checkpoint(checkpoint)
    assert other.step_seed == checkpoint["step_seed"]
