"""Losses of a user's: modules with and without parameters, on every path."""

from pathlib import Path

import pytest
import torch
from torch import nn

from meta_lightning.algorithms import MAMLModule, MetaSGDModule, ReptileModule
from meta_lightning.algorithms.inner_loop import InnerLoopModule
from meta_lightning.checks.gradient import check_gradient
from meta_lightning.errors import ConfigError
from meta_lightning.functional import GaussianLikelihood
from meta_lightning.functional.tasks import Backend
from meta_lightning.types import Task

from .problems import FACES, SINUSOIDS, Smooth

METHODS = {
    "maml": lambda net, **options: MAMLModule(net, inner_lr=0.1, inner_steps=3, **options),
    "meta-sgd": lambda net, **options: MetaSGDModule(net, init_lr=(0.05, 0.1), inner_steps=2, **options),
}


def problem(method: str, **options: object) -> tuple[InnerLoopModule, Task]:
    torch.manual_seed(0)
    module = METHODS[method](SINUSOIDS.net(), loss=GaussianLikelihood(std=0.7), **options).double()
    tasks = SINUSOIDS.tasks(4)
    doubled = (part._replace(x=part.x.double(), y=part.y.double()) for part in tasks[:2])
    return module, Task(*doubled, *tasks[2:])


def gradient_and_loss(module: InnerLoopModule, tasks: Task) -> tuple[float, float]:
    gradient, _, metrics = module.meta_step(module.learnable(), dict(module.named_buffers()), tasks, torch.tensor(0))
    return gradient["loss.log_std"].item(), metrics["loss"].mean().item()


def slope_by_differences(module: InnerLoopModule, tasks: Task, step: float = 1e-6) -> float:
    """The slope of the logged loss when the parameter of the loss itself is moved."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            module.loss.log_std += sign * step
        values.append(gradient_and_loss(module, tasks)[1])
        with torch.no_grad():
            module.loss.log_std -= sign * step
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("adapt_loss", [False, True], ids=["shared", "adapted"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", [Backend(), Backend(chunk=3), Backend("loop"), Backend("split")], ids=str)
def test_the_outer_loop_learns_a_loss_with_the_right_gradient(method: str, backend: Backend, adapt_loss: bool) -> None:
    module, tasks = problem(method, adapt_loss=adapt_loss)
    module.set_backend(backend)
    assert gradient_and_loss(module, tasks)[0] == pytest.approx(slope_by_differences(module, tasks), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("adapt_loss", [False, True], ids=["shared", "adapted"])
def test_a_loss_with_parameters_compiles(adapt_loss: bool) -> None:
    module, tasks = problem("maml", adapt_loss=adapt_loss)
    expected = gradient_and_loss(module, tasks)
    module.set_backend(module.backend, compiler="aot_eager")
    assert gradient_and_loss(module, tasks) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("backend", [Backend(), Backend("loop"), Backend("split")], ids=str)
def test_first_order_holds_the_inner_loop_constant_for_the_loss_too(backend: Backend) -> None:
    """The slope of ``error / (2 s^2) + log s`` in ``log s`` is ``1 - error / s^2``."""
    module, tasks = problem("maml", first_order=True)
    module.set_backend(backend)
    gradient, _, metrics = module.meta_step(module.learnable(), {}, tasks, torch.tensor(0))
    assert gradient["loss.log_std"].item() == pytest.approx((1 - metrics["mse"] / 0.49).mean().item(), rel=1e-6)


def test_an_adapted_loss_is_the_tasks_own_in_evaluation() -> None:
    module, tasks = problem("maml", adapt_loss=True)
    results = module.evaluate(tasks)
    adapted = [*module.trajectory(module.learnable(), {}, _first(tasks), 3, first_order=True)][-1]["loss:log_std"]
    assert adapted != module.loss.log_std
    expected = results["mse"][0, -1] / (2 * (2 * adapted).exp()) + adapted
    torch.testing.assert_close(results["loss"][0, -1], expected.detach())
    shared, _ = problem("maml")
    expected = shared.evaluate(tasks)["mse"] / (2 * 0.49) + shared.loss.log_std
    torch.testing.assert_close(shared.evaluate(tasks)["loss"], expected.detach())


def _first(tasks: Task) -> Task:
    return Task(*(type(part)(part.x[0], part.y[0]) for part in tasks[:2]), *(number[0] for number in tasks[2:]))


def test_reptile_moves_a_loss_that_its_inner_loop_adapts_and_refuses_another() -> None:
    with pytest.raises(ConfigError, match=r"^model.loss has parameters, and Reptile .*; set model.adapt_loss to true$"):
        ReptileModule(SINUSOIDS.net(), loss=GaussianLikelihood())
    module = ReptileModule(SINUSOIDS.net(), loss=GaussianLikelihood(), adapt_loss=True, inner_rule="sgd")
    gradient, _, _ = module.meta_step(module.learnable(), {}, SINUSOIDS.tasks(2), torch.tensor(0))
    assert gradient["loss.log_std"] != 0


def test_a_loss_without_parameters_is_not_adapted() -> None:
    with pytest.raises(ConfigError, match=r"^model.adapt_loss is true, but model.loss has no parameters; set it to f"):
        MAMLModule(SINUSOIDS.net(), loss=nn.SmoothL1Loss(), adapt_loss=True)


def test_a_net_may_have_a_layer_called_loss() -> None:
    net = nn.Sequential()
    net.add_module("loss", nn.Linear(1, 1))
    module = MAMLModule(net, loss=GaussianLikelihood(), adapt_loss=True)
    assert [*module.start(module.learnable())] == ["loss.weight", "loss.bias", "loss:log_std"]


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0])),
        nn.NLLLoss(),
    ],
    ids=["smoothing", "weights", "nll"],
)
def test_losses_of_torch_pass_the_check_under_vmap(loss: nn.Module) -> None:
    check_gradient(MAMLModule(Smooth(16, 6, 3), loss=loss), FACES.tasks(3))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    ("loss", "remedy"),
    [
        (nn.MultiMarginLoss(), "model.first_order: true"),
        (nn.CrossEntropyLoss(weight=torch.ones(3), label_smoothing=0.1), "model.task_loop: loop"),
    ],
    ids=["no second derivative", "no batching rule"],
)
def test_a_loss_that_can_not_be_differentiated_is_named(loss: nn.Module, remedy: str) -> None:
    expected = rf"^model.loss \({type(loss).__name__}\) can't be differentiated as it is \(.*\); try {remedy}"
    with pytest.raises(ConfigError, match=expected):
        check_gradient(MAMLModule(Smooth(16, 6, 3), loss=loss), FACES.tasks(3))
    key, _, value = remedy.partition(": ")
    option = {key.removeprefix("model."): {"true": True}.get(value, value)}
    check_gradient(MAMLModule(Smooth(16, 6, 3), loss=loss, **option), FACES.tasks(3))


def test_a_loss_is_part_of_the_settings_and_is_asked_for_again(tmp_path: Path) -> None:
    settings = MAMLModule(SINUSOIDS.net(), loss=nn.SmoothL1Loss(beta=0.5)).settings()
    assert settings["loss"] == "SmoothL1Loss(beta=0.5, reduction='mean')"
    assert MAMLModule(SINUSOIDS.net(), loss=nn.functional.l1_loss).settings()["loss"] == "torch.nn.functional.l1_loss"
    module = MAMLModule(SINUSOIDS.net(), loss=GaussianLikelihood(std=2.0))
    content = {
        "settings": module.settings(), "algorithm": "meta_lightning.algorithms.maml.MAMLModule",
        "state_dict": module.state_dict(),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match=r"with the loss GaussianLikelihood\(\); pass it: .*\(path, net=net, loss="):
        MAMLModule.load_from_checkpoint(tmp_path / "x.ckpt", net=SINUSOIDS.net())
    again = MAMLModule.load_from_checkpoint(tmp_path / "x.ckpt", net=SINUSOIDS.net(), loss=GaussianLikelihood())
    assert again.loss.log_std == module.loss.log_std
