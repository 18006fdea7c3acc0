"""A multilayer perceptron."""

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from meta_lightning.errors import ConfigError


class MLP(nn.Sequential):
    """Linear layers with an activation between them: the MAML paper's net for sinusoids is ``hidden=[40, 40]``.

    Args:
        in_features: Width of the input.
        out_features: Width of the output; null for no output layer, the last hidden layer itself. On the command line
            null takes ``data.ways``.
        hidden: Width of each hidden layer.
        activation: ``relu``, or ``tanh`` (Reptile's net for sinusoids, ``hidden=[64, 64]``).

    Raises:
        ConfigError: If a width is below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        hidden: Sequence[int] = (40, 40),
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        widths = [in_features, *hidden]
        if min(widths) < 1:
            raise ConfigError(f"net.in_features and net.hidden are {widths}; expected widths of 1 or more")
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU() if activation == "relu" else nn.Tanh()]
        if out_features is not None:
            layers.append(nn.Linear(widths[-1], out_features))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[examples, *shape]`` with ``in_features`` entries an example, to ``[examples, out_features]``."""
        out: Tensor = super().forward(x.flatten(1))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return out
