"""A class that is named gets its own defaults, whatever class it replaces."""

import warnings
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser, Namespace, _typehints

from meta_lightning import MAMLModule, ReptileModule
from meta_lightning.algorithms import MetaModule
from meta_lightning.cli.app import MetaCLI
from meta_lightning.cli.lightning_seams import own_defaults
from meta_lightning.data import Sinusoid

OPTIMIZERS = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
)
SCHEDULES = ("StepLR", "ExponentialLR", "CosineAnnealingLR", "OneCycleLR", "LinearLR", "PolynomialLR", "CyclicLR")
NEEDED: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 3}, "ExponentialLR": {"gamma": 0.5}, "CosineAnnealingLR": {"T_max": 9},
    "OneCycleLR": {"max_lr": 0.1}, "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
}  # fmt: skip
NET = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}


@pytest.fixture(scope="module", params=[MAMLModule, ReptileModule])
def parser(request: pytest.FixtureRequest) -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(MetaModule, "model")
    made.set_defaults({"model": {"class_path": f"meta_lightning.{request.param.__name__}"}})
    return made


def own(cls: type, *, skip: int) -> dict[str, Any]:
    parameters = [*signature(cls).parameters.values()][skip:]
    return {p.name: p.default for p in parameters if p.default is not Parameter.empty}


def parsed(parser: ArgumentParser, **model: Any) -> Namespace:
    with own_defaults():
        read = parser.parse_object({"model": {"init_args": {"net": NET, **model}}})
    arguments: Namespace = read.model.init_args
    return arguments


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch(parser: ArgumentParser, name: str) -> None:
    cls = getattr(torch.optim, name)
    found = parsed(parser, optimizer={"class_path": f"torch.optim.{name}"}).optimizer.init_args
    expected = own(cls, skip=1)
    if name == "SGD" and "ReptileModule" in str(parser.get_defaults()):
        expected["lr"] = 1.0  # of the class that the method itself has
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(parser: ArgumentParser, name: str) -> None:
    path = f"torch.optim.lr_scheduler.{name}"
    found = parsed(parser, lr_scheduler={"class_path": path, "init_args": NEEDED.get(name, {})}).lr_scheduler.init_args
    expected = own(getattr(torch.optim.lr_scheduler, name), skip=1) | NEEDED.get(name, {})
    assert {key: found[key] for key in expected} == expected


class Wide(torch.nn.Module):
    def __init__(self, in_features: int = 7, hidden: int = 9) -> None:
        super().__init__()


class Waves(Sinusoid):
    def __init__(self, amplitude: tuple[float, float] = (3.0, 4.0)) -> None:
        super().__init__()


class Usual(torch.nn.Module):
    def __init__(self, in_features: int = 1, hidden: int = 2) -> None:
        super().__init__()


def test_a_net_that_replaces_a_default_one() -> None:
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--net", type=torch.nn.Module, default={"class_path": f"{__name__}.Usual"})
    with own_defaults():
        read = made.parse_args([f"--net={__name__}.Wide"])
    assert read.net.init_args.as_dict() == {"in_features": 7, "hidden": 9}


@pytest.fixture
def settings(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the command line makes of a shipped config and of more arguments; nothing is built."""
    monkeypatch.setattr(MetaCLI, "before_instantiate_classes", lambda self: None)
    monkeypatch.setattr(MetaCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(MetaCLI, "run_command", lambda self, command: None)

    def read(*arguments: str) -> Namespace:
        config = repository / "configs" / "sinusoid" / "maml.yaml"
        with warnings.catch_warnings(action="ignore"):  # `main` filters Lightning's
            settings: Namespace = MetaCLI(["fit", f"--config={config}", *arguments]).config.fit
        return settings

    return read


def test_what_a_config_gives_to_one_class_is_not_another_ones(
    settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    read = settings("--model.optimizer=torch.optim.AdamW", f"--model.net={__name__}.Wide")
    assert read.model.init_args.optimizer.init_args.weight_decay == 0.01
    assert read.model.init_args.net.init_args.as_dict() == {"in_features": 7, "hidden": 9}
    said = capsys.readouterr().out
    assert "Note: AdamW replaces Adam and keeps none of its settings (lr)" in said
    assert "Note: Wide replaces MLP and keeps none of its settings (in_features, out_features, hidden)" in said


def test_a_source_replaces_another(settings: Any) -> None:
    read = settings("--data.source.amplitude=[1, 2]", f"--data.source={__name__}.Waves")
    assert read.data.source.init_args.as_dict() == {"amplitude": (3.0, 4.0)}


def test_an_algorithm_keeps_what_was_given_and_no_default_of_the_former_one(settings: Any) -> None:
    arguments = settings("--model=ReptileModule", "--model.optimizer=torch.optim.Adagrad").model.init_args
    assert (arguments.inner_lr, arguments.inner_steps, arguments.eval_inner_steps) == (0.01, 1, 10)
    assert (arguments.optimizer.init_args.lr, arguments.optimizer.init_args.eps) == (0.01, 1e-10)


def test_a_logger_keeps_its_folder(settings: Any) -> None:
    logger = settings("--trainer.logger=CSVLogger").trainer.logger
    assert (logger.init_args.save_dir, logger.init_args.name) == ("logs", "sinusoid/maml")


def test_the_parser_has_what_we_replace() -> None:
    assert [*signature(_typehints.discard_init_args_on_class_path_change).parameters] == [
        "parser_or_action", "prev_val", "value",
    ]  # fmt: skip
    assert _typehints.sub_defaults.get() is False
