"""Nets are called with other parameters, whatever names their layers have."""

import pytest
import torch
from torch import Tensor, nn

from meta_lightning.functional.inputs import call


class Tied(nn.Module):
    """One layer under two names, and one parameter in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4, bias=False), nn.Linear(4, 3)
        self.decoder.weight = nn.Parameter(torch.rand(3, 4))
        self.again = self.decoder
        self.third = nn.Linear(4, 3)
        self.third.weight = self.decoder.weight

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        hidden = torch.tanh(self.encoder(x))
        return scale * (self.decoder(hidden) + 2 * self.again(hidden) + self.third(hidden))


def by_hand(params: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ params["encoder.weight"].T)
    return 4 * hidden @ params["decoder.weight"].T + 3 * params["decoder.bias"] + params["third.bias"]


def test_tied_layers_and_tied_parameters_are_replaced_everywhere_and_put_back() -> None:
    torch.manual_seed(0)
    net, x = Tied(), torch.rand(5, 3)
    own = dict(net.named_parameters())
    assert [*own] == ["encoder.weight", "decoder.weight", "decoder.bias", "third.bias"]
    params = {name: torch.randn_like(value) for name, value in own.items()}
    torch.testing.assert_close(call(net, params, x), by_hand(params, x))
    torch.testing.assert_close(call(net, {}, x), by_hand(own, x))
    assert all(value is own[name] for name, value in net.named_parameters())
    assert net.third.weight is net.decoder.weight is own["decoder.weight"]


def test_the_parameters_are_put_back_when_the_net_fails() -> None:
    net = Tied()
    own = dict(net.named_parameters())
    params = {name: torch.randn_like(value) for name, value in own.items()}
    with pytest.raises(RuntimeError):
        call(net, params, torch.rand(5, 2))
    assert all(value is own[name] for name, value in net.named_parameters())


def test_the_gradient_of_a_tied_parameter_is_the_sum_over_its_uses() -> None:
    torch.manual_seed(0)
    net, x = Tied(), torch.rand(5, 3)
    params = {name: value.detach().requires_grad_() for name, value in net.named_parameters()}
    actual = torch.autograd.grad(call(net, params, x).sum(), params.values())
    expected = torch.autograd.grad(by_hand(params, x).sum(), params.values())
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_dict_goes_to_the_net_by_keyword() -> None:
    net, x = Tied(), torch.rand(5, 3)
    torch.testing.assert_close(call(net, {}, {"x": x, "scale": torch.tensor(3.0)}), 3 * call(net, {}, x))
