"""MLP: shapes, parameter counts and values worked out by hand."""

import pytest
import torch
from torch import nn

from meta_lightning.nets import MLP


def size(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_sinusoid_net_of_the_maml_paper_has_its_parameters():
    net = MLP(1, 1)
    assert size(net) == (1 + 1) * 40 + (40 + 1) * 40 + (40 + 1) * 1 == 1_761
    assert net(torch.randn(7, 1)).shape == (7, 1)


@pytest.mark.parametrize(
    ("hidden", "out_features", "width"), [([8, 6], 3, 3), ([8, 6], None, 6), ([], 3, 3), ([], None, 4)]
)
def test_output_is_as_wide_as_asked(hidden, out_features, width):
    assert MLP(4, out_features, hidden)(torch.randn(5, 4)).shape == (5, width)


def test_pictures_are_flattened():
    net = MLP(12, 2, [3])
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(net(x), net(x.reshape(5, 12)))


def test_layers_are_relus_between_affine_maps():
    net = MLP(2, 1, [2])
    with torch.no_grad():
        for parameter, value in zip(
            net.parameters(), ([[1.0, 0.0], [0.0, -1.0]], [0.5, 0.0], [[2.0, 3.0]], [-1.0]), strict=True
        ):
            parameter.copy_(torch.tensor(value))
    # Hidden: relu(1 + .5) and relu(-4), then relu(-3 + .5) and relu(2).
    assert net(torch.tensor([[1.0, 4.0], [-3.0, -2.0]])).tolist() == [[2 * 1.5 - 1], [3 * 2.0 - 1]]


def test_the_last_layer_is_affine_with_a_head_and_a_relu_without():
    assert isinstance(MLP(2, 1, [3])[-1], nn.Linear)
    assert isinstance(MLP(2, None, [3])[-1], nn.ReLU)


def test_the_activation_may_be_tanh():
    torch.manual_seed(0)
    relu = MLP(2, 1, [3])
    torch.manual_seed(0)
    tanh = MLP(2, 1, [3], activation="tanh")
    x = torch.randn(5, 2)
    assert torch.equal(tanh(x), tanh[2](torch.tanh(tanh[0](x))))
    assert not torch.allclose(tanh(x), relu(x))
