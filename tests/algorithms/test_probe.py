"""Nets that torch differentiates wrongly, or not at all, are named before training starts."""

from collections.abc import Callable

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


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x) if x.sum() > 0 else self.inside(-x)


def between(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 4), layer, nn.Linear(4, 1))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (Recurrent, r"layer cell \(LSTM\)"),
        (lambda: between(Branching()), r"layer 1 \(Branching\)"),
        (
            lambda: between(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))),
            r"layer 1.parametrizations.weight.0 \(_SpectralNorm\)",  # changes itself, in training only
        ),
    ],
    ids=["lstm", "data-dependent branch", "spectral norm"],
)
def test_a_layer_without_a_batching_rule_is_named_with_its_remedy(make: Callable[[], nn.Module], layer: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^model.net: {layer} can't be .* as it is \(.+\); try model.task_loop: loop$"
    ):
        checked(make())
    checked(make(), task_loop="loop")


def test_a_layer_without_a_second_derivative_is_named_with_its_remedy() -> None:
    attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    expected = r"^model.net: layer 1.self_attn \(MultiheadAttention\) can.t be .*; try model.first_order: true"
    with pytest.raises(ConfigError, match=expected):
        checked(between(attention), task_loop="loop")
    checked(between(attention), task_loop="loop", first_order=True)


def test_an_operation_of_the_net_itself_without_a_derivative_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^model.net can't be .* \(derivative for this is not implemented\)"):
        checked(NoDerivative())


@pytest.mark.parametrize(
    "net", [MLP(1, 1, [8]), OwnConstants(), nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))]
)
def test_sound_nets_pass_and_are_left_as_they_were(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    checked(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
