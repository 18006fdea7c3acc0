"""A multilayer perceptron."""

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from meta_lightning.errors import ConfigError


class MLP(nn.Sequential):
    """Linear layers with an activation between them.

    With ``hidden=[40, 40]`` it is the MAML paper's net for sinusoids; with ``hidden=[64, 64]`` and
    ``activation="tanh"`` it is Reptile's.

    Args:
        in_features: Width of the input; the command line replaces null by the number of entries of an example.
        out_features: Width of the output. With null the net has no output layer and returns the last hidden layer; the
            command line replaces null by ``data.ways``, or in regression by the width of the targets.
        hidden: Width of each hidden layer.
        activation: ``relu`` or ``tanh``.

    Raises:
        ConfigError: If a width is below 1, or the width of the input is not given.

    Example:
        >>> net = MLP(in_features=1, out_features=1, hidden=[40, 40])
        >>> net(torch.zeros(10, 1)).shape
        torch.Size([10, 1])
    """

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        hidden: Sequence[int] = (40, 40),
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        if in_features is None:
            raise ConfigError(
                "net.in_features is not set; expected the number of entries of an example (the command line takes it "
                "from the data)"
            )
        widths = [in_features, *hidden]
        if min(widths) < 1:
            raise ConfigError(f"net.in_features and net.hidden are {widths}; expected widths of 1 or more")
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU() if activation == "relu" else nn.Tanh()]
        if out_features is not None:
            layers.append(nn.Linear(widths[-1], out_features))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[examples, *shape]``, with ``in_features`` entries per example, to ``[examples, out_features]``."""
        out: Tensor = super().forward(x.flatten(1))  # type: ignore[no-untyped-call]  # `nn.Sequential.forward` has no types
        return out
