"""Second derivatives, layer by layer, against finite differences: torch 2.13 gets some of them silently wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meta_lightning.algorithms import MAMLModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional.layers import make_exact
from meta_lightning.types import Examples, Params, Task

from ..algorithms.problems import single

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
    "weight norm, old style": lambda: nn.utils.weight_norm(nn.Conv2d(4, 4, 1), dim=1),
    "weight norm of all": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1), dim=None),
}


def tasks() -> Task:
    generator = torch.Generator().manual_seed(0)

    def part() -> Examples:
        x = torch.rand(3, 6, 1, 8, 8, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(3).repeat(3, 2))

    return Task(part(), part(), *[torch.arange(3)] * 2)


def around(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), layer, nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    for parameter in net.parameters():  # away from scales of one and offsets of zero
        nn.init.normal_(parameter, std=0.5)
    return net.double()


def module_of(net: nn.Module, task_loop: str = "loop") -> MAMLModule:
    return MAMLModule(net, inner_lr=0.5, inner_steps=3, task_loop=task_loop)


def meta_gradient(net: nn.Module, task_loop: str, tasks: Task) -> Params:
    module = module_of(net, task_loop)
    return module.meta_step(module.learnable(), {}, tasks, torch.tensor(0))[0]


def slope_by_differences(net: nn.Module, tasks: Task, direction: Params, step: float = 1e-6) -> float:
    """The slope of the objective in a direction, without any derivative of torch's but the inner loop's first."""
    module = module_of(net)
    params = {name: tensor.clone() for name, tensor in module.learnable().items()}
    values = []
    for sign in (1, -1):
        moved = {name: tensor + sign * step * direction[name] for name, tensor in params.items()}
        losses = [module.objective(moved, {}, single(tasks, number), torch.tensor(0)).loss for number in range(3)]
        values.append(sum(loss.item() for loss in losses) / 3)
    return (values[0] - values[1]) / (2 * step)


def assert_right(make: Callable[[], nn.Module], tasks: Task) -> None:
    """The gradient is that of finite differences, task by task and under vmap."""
    expected = meta_gradient(make(), "loop", tasks)
    direction = {name: part * (1 + 0.3 * torch.sin(part * 1e3)) for name, part in expected.items()}
    slope = sum((part * direction[name]).sum().item() for name, part in expected.items())
    assert slope_by_differences(make(), tasks, direction) == pytest.approx(slope, rel=1e-5)
    largest = max(part.abs().max().item() for part in expected.values())
    for name, part in meta_gradient(make(), "vmap", tasks).items():
        torch.testing.assert_close(part, expected[name], rtol=1e-8, atol=1e-9 * largest)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_meta_gradient_through_a_layer_is_right(layer: Callable[[], nn.Module]) -> None:
    assert_right(lambda: around(layer()), tasks())


class Bag(nn.Module):
    """The mean of the embeddings of a sentence's words."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(6, 3, **options), nn.Linear(3, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x).sum(1)))


def sentences() -> Task:
    generator = torch.Generator().manual_seed(1)

    def part() -> Examples:
        return Examples(torch.randint(0, 6, (3, 6, 4), generator=generator), torch.arange(3).repeat(3, 2))

    return Task(part(), part(), *[torch.arange(3)] * 2)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}], ids=str)
def test_meta_gradient_through_embeddings_is_right(options: dict[str, Any]) -> None:
    assert_right(lambda: Bag(**options), sentences())
    gradient = meta_gradient(Bag(**options), "vmap", sentences())
    assert gradient["net.words.weight"][0].any() == ("padding_idx" not in options)


class SpeltOut(nn.Module):
    """What `Bag` computes with ``scale_grad_by_freq``, with the scale as a product of its own in each derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Bag()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.inner.words.weight
        rows = torch.nn.functional.one_hot(x, 6).double() @ weight
        counts = torch.nn.functional.one_hot(x, 6).sum((0, 1)).double()
        if rows.requires_grad:
            rows.register_hook(lambda gradient: gradient / counts[x][..., None])
        return self.inner.head(torch.tanh(rows.sum(1)))


def test_the_gradient_of_an_embedding_is_scaled_by_frequency_in_both_loops() -> None:
    """Against hooks of plain autograd, which apply at each order, in an inner loop written out."""
    tasks, net = sentences(), SpeltOut()
    params = list(net.parameters())
    total = 0.0
    for number in range(3):
        task, adapted = single(tasks, number), dict(net.named_parameters())
        for _ in range(3):
            out = torch.func.functional_call(net, adapted, (task.support.x,))
            loss = torch.nn.functional.cross_entropy(out, task.support.y)
            grads = torch.autograd.grad(loss, [*adapted.values()], create_graph=True)
            adapted = {name: value - 0.5 * grad for (name, value), grad in zip(adapted.items(), grads, strict=True)}
        out = torch.func.functional_call(net, adapted, (task.query.x,))
        total = total + torch.nn.functional.cross_entropy(out, task.query.y) / 3
    expected = dict(zip([name for name, _ in net.named_parameters()], torch.autograd.grad(total, params), strict=True))
    for task_loop in ("loop", "vmap"):
        for name, part in meta_gradient(Bag(scale_grad_by_freq=True), task_loop, tasks).items():
            torch.testing.assert_close(part, expected[f"inner.{name.removeprefix('net.')}"])


@pytest.mark.parametrize("options", [{"sparse": True}, {"max_norm": 1.0}], ids=str)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_options_of_embeddings_without_meta_gradients_are_refused(kind: type[nn.Module], options: dict) -> None:
    (option,) = options
    with pytest.raises(
        ConfigError, match=rf"^model.net: layer 0 \({kind.__name__}\) has {option}.*; expected {option}="
    ):
        MAMLModule(nn.Sequential(kind(3, 3, **options)))


def test_an_embedding_with_padding_is_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"compiler can't trace .* layer words of .*; set model.compile to false"):
        MAMLModule(Bag(padding_idx=0), compile=True)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_weight_norm_of_the_old_style_becomes_a_parametrization_that_learns_the_same(dim: int | None) -> None:
    torch.manual_seed(0)
    layer = nn.utils.weight_norm(nn.Linear(4, 3), dim=dim)
    nn.init.normal_(layer.weight_g)
    layer.weight_g.requires_grad_(False)
    x = torch.randn(5, 4)
    expected, direction = layer(x).detach(), layer.weight_v.detach().clone()
    assert make_exact(nn.Sequential(layer)) == ["0"]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.parametrizations.weight.original1.detach(), direction)
    assert not layer.parametrizations.weight.original0.requires_grad


class Attention(nn.Module):
    def __init__(self, make_layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layer, self.head = nn.Linear(8, 4), make_layer(), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        words = self.embed(x[:, 0])
        if isinstance(self.layer, nn.MultiheadAttention):
            words = self.layer(words, words, words, need_weights=False)[0]
        else:
            words = self.layer(words)
        return self.head(words.mean(1))


class PlainAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


ATTENTION = {
    "function": PlainAttention,
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, activation="gelu"), 2
    ),
}


@pytest.mark.parametrize("mode", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("layer", ATTENTION.values(), ids=ATTENTION)
def test_meta_gradient_through_attention_is_right(layer: Callable[[], nn.Module], mode: bool) -> None:
    assert_right(lambda: Attention(layer).train(mode), tasks())


def test_attention_keeps_its_fused_kernel_where_first_derivatives_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fused = torch.backends.cuda.flash_sdp_enabled
    monkeypatch.setattr(PlainAttention, "forward", lambda _, x: (seen.append(fused()), x)[1])
    for first_order in (True, False):
        module = MAMLModule(Attention(PlainAttention), first_order=first_order)
        module.meta_step(module.learnable(), {}, tasks(), torch.tensor(0))
        assert set(seen) == {first_order}
        seen.clear()
        module.evaluate(tasks())
        assert set(seen) == {True}
        seen.clear()
    assert fused()


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
