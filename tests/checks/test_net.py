"""Nets that torch differentiates wrongly, or not at all, are named before training starts."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning import EpisodicDataModule
from meta_lightning.algorithms import MAMLModule
from meta_lightning.checks import gradient
from meta_lightning.checks.gradient import check_gradient
from meta_lightning.checks.net import check_learns
from meta_lightning.data import Sinusoid
from meta_lightning.errors import ConfigError
from meta_lightning.nets import MLP

from ..algorithms.problems import SINUSOIDS


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
    check_gradient(MAMLModule(net, inner_lr=0.5, **options), SINUSOIDS.tasks(3))


def test_a_wrong_second_derivative_is_found_and_its_remedies_are_right() -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=r"under vmap is off by \d+\.\d%: .* set model.task_loop to loop"):
        checked(FunctionalNorm())
    checked(FunctionalNorm(), task_loop="loop")
    checked(FunctionalNorm(), first_order=True)


class Tokens(nn.Module):
    """Values to the numbers of two tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] > 0, x[:, 0] > 1], 1).long()


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
    expected = r"^model.net: layer 1 \(EmbeddingBag\) can.t be .*; try model.first_order: true"
    net = nn.Sequential(Tokens(), nn.EmbeddingBag(5, 3), nn.Linear(3, 1))
    with pytest.raises(ConfigError, match=expected):
        checked(net, task_loop="loop")
    checked(net, task_loop="loop", first_order=True)


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


class _Doubled(torch.autograd.Function):
    """The identity, with twice the derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(*_: object, **__: object) -> None:
        pass

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Doubled.apply(x)


@pytest.mark.parametrize("options", [{}, {"task_loop": "loop"}, {"first_order": True}], ids=str)
def test_a_wrong_derivative_is_found_by_finite_differences_and_its_layer_named(options: dict[str, object]) -> None:
    expected = r"^model.net: layer 1 \(Doubled\) has a wrong derivative: .* off by \d+\.\d+% .*check_derivative: false$"
    with pytest.raises(ConfigError, match=expected) as refused:
        checked(between(Doubled()), **options)
    assert ("model.first_order" in str(refused.value)) == ("first_order" not in options)
    checked(between(Doubled()), check_derivative=False, **options)


class OwnLayerNorm(nn.LayerNorm):
    """A subclass, which is not corrected."""


def test_the_layer_that_vmap_gets_wrong_is_named() -> None:
    net = between(OwnLayerNorm(4))
    nn.init.normal_(net[1].weight)
    expected = r"under vmap is off by .*: model.net: layer 1 \(OwnLayerNorm\) has a wrong derivative there; .* loop$"
    with pytest.raises(ConfigError, match=expected):
        checked(net)


@pytest.mark.parametrize("freeze", ["eval", "gradient", "both"])
@pytest.mark.parametrize("task_loop", ["vmap", "loop"])
def test_a_frozen_batch_norm_passes_and_stays(freeze: str, task_loop: str) -> None:
    torch.manual_seed(0)
    net = between(nn.BatchNorm1d(4))
    net[1].running_mean.normal_()
    if freeze != "gradient":
        net[1].eval()
    if freeze != "eval":
        net[1].requires_grad_(False)
    before = net[1].running_mean.clone()
    checked(net, task_loop=task_loop)
    assert torch.equal(net[1].running_mean, before)
    assert not net[1].training
    assert net[0].training


def test_a_net_without_anything_to_learn_is_refused_for_training() -> None:
    with pytest.raises(ConfigError, match=r"no parameter that learns, so there is nothing to train: .* command test"):
        check_learns(MAMLModule(MLP(1, 1, [8]).requires_grad_(False)))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


def test_what_can_not_be_compared_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    checked(OwnConstants())
    assert "Note: model.net does not run in double precision" in capsys.readouterr().out
    checked(between(Noisy()))
    assert "Note: model.net is random in eval mode" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_nets_train_task_by_task(kind: type[nn.Module]) -> None:
    net = Recurrent()
    net.cell = kind(1, 4, batch_first=True)
    checked(net, task_loop="loop")
    with pytest.raises(ConfigError, match=rf"layer cell \({kind.__name__}\) .* try model.task_loop: loop"):
        checked(net)


def test_an_unstable_inner_loop_is_not_taken_for_a_wrong_layer(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    tasks = EpisodicDataModule(Sinusoid(), shots=10, queries=10).small_sample(3)
    check_gradient(MAMLModule(MLP(1, 1, [40, 40]), inner_lr=30.0), tasks)
    assert "Note: the inner loop amplifies rounding errors" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "said"), [(0.1, ""), (0.5, "takes about 5 seconds"), (3.0, "one takes 3 seconds")])
def test_a_long_comparison_is_announced_and_a_longer_one_left_out(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = itertools.count(0.0, seconds)
    monkeypatch.setattr(gradient.time, "process_time", lambda: next(times))
    compared: list[object] = []
    monkeypatch.setattr(gradient, "_compare", lambda *arguments: compared.append(arguments))
    checked(MLP(1, 1, [8]))
    assert said in capsys.readouterr().out
    assert len(compared) == (seconds < 2.0)
