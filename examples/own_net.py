"""A net of your own: any `nn.Module`. docs/own_net.md runs it in place of the net of a config."""

from torch import Tensor, nn


class ResNet(nn.Module):
    """A small residual net for square pictures.

    Args:
        out_features: The number of logits. The command line fills in ``data.ways`` where it is null.
        in_channels: 1 for grey, 3 for colour.
        width: The channels of every block.
        blocks: The number of residual blocks.
    """

    def __init__(self, out_features: int | None = None, in_channels: int = 1, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, kernel_size=3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        # Without a head the outputs are features, which is what ProtoNetModule expects.
        self.head = nn.Identity() if out_features is None else nn.Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``[examples, out_features]``, of pictures, ``[examples, channels, height, width]``."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.layers(x))
