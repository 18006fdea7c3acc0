"""Pictures in TensorBoard: which, when, and that training never notices."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from meta_lightning import EpisodeShape
from meta_lightning.algorithms import MAMLModule, MetaModule, MetaSGDModule, ProtoNetModule, ReptileModule
from meta_lightning.callbacks import AdaptationPlots, adaptation_plots
from meta_lightning.callbacks.adaptation_plots import moved_by_layer
from meta_lightning.cli import main
from meta_lightning.data import Sinusoid
from meta_lightning.errors import ConfigError
from meta_lightning.reporting import plots

from ..algorithms.problems import FACES, SINUSOIDS, Problem

ALL = {"figures/task", "figures/curve", "figures/movement"}


def fit(module: MetaModule, problem: Problem, *callbacks: Any, steps: int = 2, **options: Any) -> Trainer:
    logger = TensorBoardLogger(".", name="run", version="")
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks],
        **{"logger": logger, "val_check_interval": 1, "default_root_dir": Path.cwd(), **options},
    )  # fmt: skip
    trainer.fit(module, datamodule=problem.data())
    return trainer


def drawn(tag: str | None = None) -> Any:
    events = EventAccumulator("run")
    events.Reload()
    return {*events.Tags()["images"]} if tag is None else [event.step for event in events.Images(tag)]


class Pairs(Sinusoid):
    """Two inputs to one value."""

    def load(self, split: Any) -> Any:
        family = super().load(split)
        draw = family.draw

        def doubled(keys: Tensor, shape: EpisodeShape) -> Any:
            task = draw(keys, shape)
            support, query = (part._replace(x=part.x.repeat(1, 1, 2)) for part in task[:2])
            return task._replace(support=support, query=query)

        family.draw = doubled
        return family


@pytest.mark.parametrize(
    ("make", "problem", "expected"),
    [
        (MAMLModule, SINUSOIDS, ALL),
        (MetaSGDModule, SINUSOIDS, ALL),
        (ReptileModule, FACES, ALL),
        (ProtoNetModule, FACES, {"figures/task"}),
        (MAMLModule, Problem(Pairs(), EpisodeShape(None, 5, 7), "mse", (2, 6, 1)), ALL - {"figures/task"}),
        (lambda net: MAMLModule(net, inner_steps=0), FACES, {"figures/task"}),
    ],
    ids=["functions", "meta-sgd", "pictures", "no inner loop", "two inputs", "no steps"],
)
def test_the_pictures_are_those_of_the_task_and_the_algorithm(make: Any, problem: Problem, expected: set[str]) -> None:
    fit(make(problem.net()), problem, AdaptationPlots(), steps=1)
    assert drawn() == expected


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_in_another_precision_too(precision: str) -> None:
    fit(MAMLModule(SINUSOIDS.net()), SINUSOIDS, AdaptationPlots(), steps=1, precision=precision)
    assert drawn() == ALL


def count_pixels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    true = plots.pixels
    monkeypatch.setattr(plots, "pixels", lambda figure: calls.append(figure) or true(figure))
    return calls


def test_the_first_validation_every_nth_and_the_end_are_drawn() -> None:
    fit(ProtoNetModule(FACES.net()), FACES, AdaptationPlots(every_n_validations=2), steps=9, val_check_interval=2)
    assert drawn("figures/task") == [2, 6, 9]


def test_where_the_last_validation_was_drawn_the_end_is_not_drawn_again() -> None:
    fit(ProtoNetModule(FACES.net()), FACES, AdaptationPlots(every_n_validations=2), steps=6, val_check_interval=2)
    assert drawn("figures/task") == [2, 6]


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"every_n_validations": 0}, {}),
        ({}, {"fast_dev_run": True}),
        ({}, {"limit_val_batches": 0}),
        ({}, {"val_check_interval": 5}),
        ({}, {"logger": "csv"}),
    ],
    ids=["switched off", "fast_dev_run", "no validation", "sanity check alone", "another logger"],
)
def test_otherwise_nothing_is_drawn(given: dict, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_pixels(monkeypatch)
    if options.get("logger") == "csv":
        options = {"logger": CSVLogger(".", name="run", version="")}
    fit(MAMLModule(FACES.net()), FACES, AdaptationPlots(**given), **options)
    assert calls == []


class Noisy(nn.Module):
    """Draws random numbers in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = FACES.net(dropout=0.2)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.net(x + 0.1 * torch.randn_like(x)))


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode")
def test_a_run_with_pictures_is_the_run_without_to_the_last_bit() -> None:
    states = []
    for callbacks in ([], [AdaptationPlots(every_n_validations=1, tasks=3)]):
        torch.manual_seed(0)
        module = MAMLModule(Noisy(), inner_lr=0.1)
        trainer = fit(module, FACES, *callbacks, steps=3, val_check_interval=2)
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        modes = {name: part.training for name, part in module.named_modules()}
        optimizer = trainer.optimizers[0].state_dict()["state"]
        states.append([module.state_dict(), optimizer, torch.get_rng_state(), values, modes])
    assert drawn() == ALL
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert states[0][-1]["net.net.dropout"] != states[0][-1]["net.frozen"]


def test_pictures_are_made_of_what_evaluation_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        true = getattr(plots, name)
        return lambda *given: seen.setdefault(name, given) and true(*given)

    for name in ("curve", "movement"):
        monkeypatch.setattr(plots, name, keep(name))
    torch.manual_seed(0)
    module = MAMLModule(FACES.net(), inner_lr=0.1, inner_steps=2)
    trainer = fit(module, FACES, AdaptationPlots(tasks=3), steps=1)
    tasks = trainer.datamodule.on_after_batch_transfer(next(iter(trainer.datamodule.val_dataloader())), 0)
    steps, kind, count = seen["curve"]
    assert (kind.metric, count) == ("accuracy", 3)
    assert [at.mean for at in steps] == pytest.approx(module.evaluate(tasks)["accuracy"][:3].mean(0).tolist())

    moved, taken = seen["movement"]
    assert taken == 2
    for number in range(3):
        net = copy.deepcopy(module.net)
        for _ in range(2):
            loss = nn.functional.cross_entropy(net(tasks.support.x[number]), tasks.support.y[number])
            for param, gradient in zip(net.parameters(), torch.autograd.grad(loss, [*net.parameters()]), strict=True):
                param.data -= 0.1 * gradient
        for layer, values in moved.items():
            start, end = (parameters_to_vector(of.get_submodule(layer).parameters()) for of in (module.net, net))
            assert values[number].item() == pytest.approx(((end - start).norm() / start.norm()).item(), rel=1e-4)


def test_a_layer_moves_by_the_norm_of_its_change_over_its_own() -> None:
    start = {
        "a.weight": torch.tensor([[3.0]]),
        "a.bias": torch.tensor([4.0]),
        "b": torch.zeros(2),
        "c.d": torch.zeros(1),
    }
    end = {"a.weight": torch.tensor([[3.0]]), "a.bias": torch.tensor([6.0]), "b": torch.ones(2), "c.d": torch.zeros(1)}
    moved = {layer: value.item() for layer, value in moved_by_layer(start, end).items()}
    assert moved == {"a": pytest.approx(0.4), "b": torch.inf, "c": 0.0}


def test_a_second_fit_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, figures = count_pixels(monkeypatch), AdaptationPlots()
    for expected in (1, 2):
        fit(ProtoNetModule(FACES.net()), FACES, figures, steps=1)
        assert len(calls) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"every_n_validations": -1}, "figures.every_n_validations is -1; expected 1 or more, or 0 for no pictures"),
        ({"tasks": 0}, r"figures.tasks is 0; expected 1 or more \(no pictures: figures.every_n_validations 0\)"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        AdaptationPlots(**options)


def test_the_command_line_switches_them_off(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_pixels(monkeypatch)
    short = [
        "--config", str(repository / "configs/sinusoid/maml.yaml"), "--trainer.max_steps=1", "--data.val_tasks=2",
        "--trainer.val_check_interval=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert main(["fit", *short, "--figures.every_n_validations=0"]) == 0
    assert not calls
    assert main(["fit", *short, "--figures.tasks=2"]) == 0
    assert len(calls) == 3


def test_a_drawing_that_fails_warns_once_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever fails: matplotlib, what is computed for it, or the keeping of the tasks."""
    for place, name in (
        (plots, "pixels"),
        (plots, "curve"),
        (adaptation_plots, "_adaptation_curves"),
        (adaptation_plots, "tree_map"),
    ):

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise ValueError("no such font\n(in three files)")

        plotter, module = AdaptationPlots(every_n_validations=1), MAMLModule(SINUSOIDS.net())
        with monkeypatch.context() as patched:
            patched.setattr(place, name, fail)
            trainer = fit(module, SINUSOIDS, plotter, steps=3)
        assert trainer.global_step == 3
        assert module.training
        assert capsys.readouterr().out.count("Warning") == 1, name


def test_the_warning_of_a_drawing_names_the_reason_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "pixels", lambda figure: figure.no_such_attribute)
    fit(MAMLModule(SINUSOIDS.net()), SINUSOIDS, AdaptationPlots())
    assert (
        "Warning: pictures can't be made (AttributeError: 'Figure' object has no attribute 'no_such_attribute'), "
        "and are left out from here on; the run goes on (figures.every_n_validations 0 turns them off)\n"
    ) in capsys.readouterr().out
