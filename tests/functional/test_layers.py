"""Second derivatives under vmap, layer by layer: torch 2.13 gets some of them wrong without a word."""

import pytest
import torch
from torch import Tensor, nn

from meta_lightning.algorithms import MAMLModule
from meta_lightning.functional.layers import make_exact
from meta_lightning.types import Examples, Task

LAYERS = {
    "BatchNorm": lambda: nn.BatchNorm2d(4),
    "BatchNorm, no scale": lambda: nn.BatchNorm2d(4, affine=False),
    "frozen BatchNorm": lambda: nn.BatchNorm2d(4).eval(),
    "LayerNorm": lambda: nn.LayerNorm([4, 4, 4]),
    "LayerNorm, no offset": lambda: nn.LayerNorm(4, bias=False),
    "InstanceNorm": lambda: nn.InstanceNorm2d(4, affine=True),
    "InstanceNorm, no scale": lambda: nn.InstanceNorm2d(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "PReLU": lambda: nn.PReLU(4),
    "GELU": nn.GELU,
    "MaxPool": lambda: nn.MaxPool2d(1),
    "AvgPool": lambda: nn.AvgPool2d(1),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
}


def tasks() -> Task:
    generator = torch.Generator().manual_seed(0)

    def part() -> Examples:
        x = torch.rand(3, 6, 1, 8, 8, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(3).repeat(3, 2))

    return Task(part(), part(), torch.arange(3))


def meta_gradient(layer: nn.Module, task_loop: str) -> Tensor:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), layer, nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    for parameter in net.parameters():  # away from scales of one and offsets of zero
        nn.init.normal_(parameter, std=0.5)
    module = MAMLModule(net.double(), inner_lr=0.5, inner_steps=2, task_loop=task_loop)
    grads, _, _ = module.meta_step(module.learnable(), {}, tasks(), torch.tensor(0))
    return torch.cat([part.reshape(-1) for part in grads.values()])


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
def test_meta_gradient_through_a_layer_is_the_same_under_vmap_as_task_by_task(layer) -> None:
    expected = meta_gradient(layer(), "loop")
    torch.testing.assert_close(meta_gradient(layer(), "vmap"), expected, rtol=1e-8, atol=1e-9 * expected.abs().max())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm([3, 5]), (7, 3, 5)),
        (nn.LayerNorm(5, bias=False), (7, 3, 5)),
        (nn.InstanceNorm1d(3, affine=True), (7, 3, 5)),
        (nn.InstanceNorm1d(3, affine=True), (3, 5)),
        (nn.InstanceNorm2d(3, affine=True), (7, 3, 5, 4)),
        (nn.InstanceNorm3d(3, affine=True), (7, 3, 5, 4, 2)),
    ],
    ids=str,
)
def test_exact_layers_compute_what_torch_computes_and_stay_the_same_objects(layer: nn.Module, shape: tuple) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, kind, names = torch.randn(shape), type(layer), [name for name, _ in layer.named_parameters()]
    expected = layer(x)
    make_exact(nn.Sequential(layer))
    assert type(layer) is not kind
    assert isinstance(layer, kind)
    assert names == [name for name, _ in layer.named_parameters()]
    torch.testing.assert_close(layer(x), expected)


def test_layers_without_scale_or_with_running_statistics_are_left_alone() -> None:
    layers = [nn.LayerNorm(3, elementwise_affine=False), nn.InstanceNorm2d(3, affine=True, track_running_stats=True)]
    kinds = [type(layer) for layer in layers]
    make_exact(nn.Sequential(*layers))
    assert [type(layer) for layer in layers] == kinds
