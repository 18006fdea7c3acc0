"""Nets that torch differentiates wrongly, or not at all, are named before training starts."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning.algorithms import MAMLModule
from meta_lightning.algorithms.probe import check_gradient
from meta_lightning.errors import ConfigError
from meta_lightning.nets import MLP

from .problems import SINUSOIDS


class FunctionalNorm(nn.Module):
    """Calls the kernel itself, where no layer can be replaced: its second derivative under vmap is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 6), nn.Linear(6, 1)
        self.scale = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(F.layer_norm(self.first(x), (6,), self.scale)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[:, None])[0][:, -1])


class NoDerivative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return _Once.apply(self.first(x))


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def setup_context(*_: object, **__: object) -> None:
        pass

    @staticmethod
    def backward(*_: object) -> Tensor:
        raise RuntimeError("derivative for this is not implemented")


class OwnConstants(nn.Module):
    """Runs in single precision only: a constant that is no buffer stays behind when the net is converted."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)
        self.frequencies = torch.rand(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x @ self.frequencies))


def checked(net: nn.Module, **options: object) -> None:
    torch.manual_seed(0)
    check_gradient(MAMLModule(net, inner_lr=0.5, **options), SINUSOIDS.tasks(1))


def test_a_wrong_second_derivative_is_found_and_its_remedies_are_right() -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=r"under vmap is off by \d+\.\d%: .* set model.task_loop to loop"):
        checked(FunctionalNorm())
    checked(FunctionalNorm(), task_loop="loop")
    checked(FunctionalNorm(), first_order=True)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_layer_without_a_batching_rule_is_named_with_its_remedy() -> None:
    with pytest.raises(ConfigError, match=r"can't be differentiated as it is \(.+\); try with model.task_loop: loop"):
        checked(Recurrent())
    checked(Recurrent(), task_loop="loop")


def test_a_layer_without_a_derivative_is_named() -> None:
    with pytest.raises(ConfigError, match=r"derivative for this is not implemented"):
        checked(NoDerivative())


@pytest.mark.parametrize(
    "net", [MLP(1, 1, [8]), OwnConstants(), nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))]
)
def test_sound_nets_pass_and_are_left_as_they_were(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    checked(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
