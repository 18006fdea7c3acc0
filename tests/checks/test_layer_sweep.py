"""torch's layers and functions as nets: second-order MAML through each, against finite differences.

Each is tried on three tasks with three inner steps in double precision. What torch gets wrong must be refused by the
check before training; nothing may be wrong and pass.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning.algorithms import MAMLModule
from meta_lightning.checks.gradient import check_gradient
from meta_lightning.errors import ConfigError
from meta_lightning.types import Examples, Task

from ..algorithms.problems import single

WIDTH = 4


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Reshaped(nn.Module):
    """A layer between features ``[examples, 16]``, which it sees in a shape of its own."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x.view(len(x), *self.shape))
        return (out[0] if isinstance(out, tuple) else out).reshape(len(x), -1)


FLAT = {
    layer.__name__: layer
    for layer in [
        nn.ReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
        nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.LeakyReLU, nn.LogSigmoid, nn.PReLU, nn.Sigmoid,
        nn.Softplus, nn.Softsign, nn.Tanh, nn.Identity, nn.Dropout, nn.AlphaDropout,
    ]
}  # fmt: skip
FLAT |= {
    "GELU tanh": lambda: nn.GELU("tanh"),
    "Softmax": lambda: nn.Softmax(-1),
    "Softmin": lambda: nn.Softmin(-1),
    "LogSoftmax": lambda: nn.LogSoftmax(-1),
    "GLU": nn.GLU,
    "Threshold": lambda: nn.Threshold(0.1, 0.0),
    "Linear": lambda: nn.Linear(16, 8),
    "Bilinear": lambda: Function(lambda x: F.bilinear(x, x, torch.ones(3, 16, 16, dtype=x.dtype) / 9)),
    "LayerNorm": lambda: nn.LayerNorm(16),
    "RMSNorm": lambda: nn.RMSNorm(16),
    "GroupNorm": lambda: nn.GroupNorm(4, 16),
    "BatchNorm1d": lambda: nn.BatchNorm1d(16),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 8)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(16, 8)),
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda x: torch.exp(0.1 * x),
    "log1p": lambda x: torch.log1p(x.square()),
    "sqrt": lambda x: (x.square() + 1).sqrt(),
    "rsqrt": lambda x: (x.square() + 1).rsqrt(),
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "erf": torch.erf,
    "sinh": lambda x: torch.sinh(0.1 * x),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "pow": lambda x: (x.square() + 0.1).pow(1.5),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "cosine similarity": lambda x: F.cosine_similarity(x[:, :8], x[:, 8:], dim=-1)[:, None].expand(-1, 4),
    "pairwise distance": lambda x: F.pairwise_distance(x[:, :8], x[:, 8:])[:, None].expand(-1, 4),
    "cdist": lambda x: torch.cdist(x[:, :8, None].transpose(1, 2), x[:, 8:, None].transpose(1, 2)).flatten(1),
    "logsumexp": lambda x: x.view(-1, 4, 4).logsumexp(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "cumprod": lambda x: (0.5 * x).tanh().add(1.5).cumprod(-1).mul(0.01),
    "sort": lambda x: x.sort(-1).values,
    "topk": lambda x: x.topk(5, -1).values,
    "max": lambda x: x.view(-1, 4, 4).amax(-1),
    "min": lambda x: x.view(-1, 4, 4).min(-1).values,
    "median": lambda x: x.view(-1, 4, 4).median(-1).values,
    "var": lambda x: x.view(-1, 4, 4).var(-1),
    "std": lambda x: x.view(-1, 4, 4).std(-1),
    "norm": lambda x: torch.linalg.vector_norm(x.view(-1, 4, 4), dim=-1),
    "prod": lambda x: (0.5 * x).tanh().add(1.0).view(-1, 8, 2).prod(-1),
    "matmul": lambda x: (x.view(-1, 4, 4) @ x.view(-1, 4, 4)).flatten(1),
    "einsum": lambda x: torch.einsum("nij,nkj->nik", x.view(-1, 4, 4), x.view(-1, 4, 4)).flatten(1),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x.square()),
    "gather": lambda x: x.gather(1, torch.tensor([[3, 1, 1, 15]], device=x.device).expand(len(x), -1)),
    "index_select": lambda x: x.index_select(1, torch.tensor([0, 5, 5, 2])),
    "scatter_add": lambda x: torch.zeros_like(x[:, :4]).scatter_add(1, torch.arange(16).expand(len(x), -1) % 4, x),
    "index_add": lambda x: torch.zeros_like(x[:, :4]).index_add(1, torch.arange(16) % 4, x),
    "roll": lambda x: x.roll(3, -1),
    "flip": lambda x: x.flip(-1).mul(torch.arange(16, dtype=x.dtype)),
    "pad": lambda x: F.pad(x, (1, 1)).unfold(1, 3, 3).prod(-1),
    "tril": lambda x: x.view(-1, 4, 4).tril().flatten(1),
    "outer": lambda x: (x[:, :4, None] * x[:, None, 4:8]).flatten(1),
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "inverse": lambda x: torch.linalg.inv(x.view(-1, 4, 4).tanh() + 3 * torch.eye(4, dtype=x.dtype)).flatten(1),
    "solve": lambda x: torch.linalg.solve(
        x.view(-1, 4, 4).tanh() + 3 * torch.eye(4, dtype=x.dtype), x[:, :4, None]
    ).flatten(1),
    "det": lambda x: torch.linalg.det(x.view(-1, 4, 4).tanh() + 3 * torch.eye(4, dtype=x.dtype))[:, None].expand(-1, 4),
    "logdet": lambda x: torch.logdet(
        x.view(-1, 4, 4).tanh() @ x.view(-1, 4, 4).tanh().mT + torch.eye(4, dtype=x.dtype)
    )[:, None].expand(-1, 4),
    "cholesky": lambda x: torch.linalg.cholesky(
        x.view(-1, 4, 4).tanh() @ x.view(-1, 4, 4).tanh().mT + torch.eye(4, dtype=x.dtype)
    ).flatten(1),
    "lerp": lambda x: torch.lerp(x[:, :8], x[:, 8:], x[:, :8].sigmoid()),
    "addcmul": lambda x: torch.addcmul(x[:, :8], x[:, 8:], x[:, :8]),
    "logaddexp": lambda x: torch.logaddexp(x[:, :8], x[:, 8:]),
    "hypot": lambda x: torch.hypot(x[:, :8], x[:, 8:] + 3),
    "layer_norm": lambda x: F.layer_norm(x, (16,)),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
}
PICTURE = (1, 4, 4)
GRID = torch.linspace(-0.7, 0.8, 18).view(1, 3, 3, 2)
SHAPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 3, 3), (4, 4)),
    "Conv2d": (lambda: nn.Conv2d(1, 3, 3, padding=1), PICTURE),
    "Conv2d stride": (lambda: nn.Conv2d(1, 3, 2, stride=2), PICTURE),
    "Conv2d groups": (lambda: nn.Conv2d(4, 4, 2, groups=4), (4, 2, 2)),
    "Conv2d dilation": (lambda: nn.Conv2d(1, 3, 2, dilation=2), PICTURE),
    "Conv2d reflect": (lambda: nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"), PICTURE),
    "Conv2d circular": (lambda: nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), PICTURE),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 2, 2, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 2, 2), (4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(1, 2, 2), PICTURE),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), (4, 4)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), PICTURE),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (4, 4)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), PICTURE),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), PICTURE),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), PICTURE),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), PICTURE),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(2), (4, 4)),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_size=2), PICTURE),
    "Upsample nearest": (lambda: nn.Upsample(scale_factor=2), PICTURE),
    "Upsample bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), PICTURE),
    "Upsample bicubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), PICTURE),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (4, 2, 2)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), PICTURE),
    "Unfold": (lambda: nn.Unfold(2), PICTURE),
    "Fold": (lambda: nn.Fold((3, 3), (2, 2)), (4, 4)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (4, 2, 2)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), PICTURE),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(1), PICTURE),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), PICTURE),
    "CircularPad2d": (lambda: nn.CircularPad2d(1), PICTURE),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (4, 2, 2)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, affine=True), (2, 2, 4)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), (4, 2, 2)),
    "Softmax2d": (nn.Softmax2d, (4, 2, 2)),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), (4, 2, 2)),
    "RNN": (lambda: nn.RNN(4, 3, batch_first=True), (4, 4)),
    "GRU": (lambda: nn.GRU(4, 3, batch_first=True), (4, 4)),
    "LSTM": (lambda: nn.LSTM(4, 3, batch_first=True), (4, 4)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), (4, 4)),
    "TransformerEncoderLayer, norm first": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=True), (4, 4),
    ),
    "grid_sample": (
        lambda: Function(lambda x: F.grid_sample(x, GRID.to(x).expand(len(x), -1, -1, -1))),
        PICTURE,
    ),
    "scaled_dot_product_attention": (lambda: Function(lambda x: F.scaled_dot_product_attention(x, x, x)), (4, 4)),
}  # fmt: skip
LAYERS: dict[str, Callable[[], nn.Module]] = {
    **FLAT,
    **{name: lambda function=function: Function(function) for name, function in FUNCTIONS.items()},
    **{name: lambda make=make, shape=shape: Reshaped(make(), shape) for name, (make, shape) in SHAPED.items()},
}


def tasks() -> Task:
    generator = torch.Generator().manual_seed(0)

    def part() -> Examples:
        return Examples(torch.rand(3, 6, 3, generator=generator) - 0.5, torch.rand(3, 6, 2, generator=generator))

    return Task(part(), part(), *[torch.arange(3)] * 2)


def net_around(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), make())
    with torch.no_grad():
        width = net.eval()(torch.rand(2, 3)).shape[1]
    net.train().append(nn.Linear(width, 2))
    for parameter in net.parameters():  # away from scales of one and offsets of zero
        nn.init.normal_(parameter, std=0.5)
    return net


def is_right(net: nn.Module, task_loop: str) -> bool:
    """Compares the meta-gradient with differences of the loss, which the inner loop's first derivatives alone make."""
    module = MAMLModule(net.double().eval(), inner_lr=0.1, inner_steps=3, task_loop=task_loop)
    meta_batch = tasks()
    parts = (part._replace(x=part.x.double(), y=part.y.double()) for part in meta_batch[:2])
    meta_batch = Task(*parts, *meta_batch[2:])
    gradient, _, _ = module.meta_step(module.learnable(), {}, meta_batch, torch.tensor(0))
    plain = MAMLModule(net, inner_lr=0.1, inner_steps=3, task_loop="loop")
    params = {name: tensor.clone() for name, tensor in module.learnable().items()}
    size = sum(part.square().sum().item() for part in gradient.values()) ** 0.5
    direction = {name: part / size for name, part in gradient.items()}
    values = []
    for sign in (1, -1):
        moved = {name: tensor + sign * 1e-6 * direction[name] for name, tensor in params.items()}
        losses = [plain.objective(moved, {}, single(meta_batch, number), torch.tensor(0)).loss for number in range(3)]
        values.append(sum(loss.item() for loss in losses) / 3)
    return (values[0] - values[1]) / 2e-6 == pytest.approx(size, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("task_loop", ["vmap", "loop"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_is_right_or_refused(make: Callable[[], nn.Module], task_loop: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slow batching rules
        try:
            check_gradient(MAMLModule(net_around(make), inner_lr=0.1, task_loop=task_loop), tasks())
        except ConfigError as refused:
            pytest.skip(f"refused: {refused}")
        assert is_right(net_around(make), task_loop)


def test_the_sweep_is_broad() -> None:
    assert len(LAYERS) >= 100
