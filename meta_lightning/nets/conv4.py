"""Conv4, the four-block convolutional net of few-shot image classification."""

import itertools
from typing import Literal

from torch import Tensor, nn

from meta_lightning.errors import ConfigError


def _block(in_channels: int, width: int, downsample: str) -> nn.Sequential:
    stride = 2 if downsample == "stride" else 1
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1),
        # Running statistics would mix tasks. `model.batch_norm` sets which statistics are used.
        nn.BatchNorm2d(width, track_running_stats=False),
        nn.ReLU(),
    ]
    if downsample == "max_pool":
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm and ReLU, followed by a linear head (Vinyals et al. 2016).

    With ``downsample="stride"`` the convolutions have stride 2 and the features are averaged over space, as in the
    Omniglot net of the MAML paper (width 64); Reptile's Omniglot net flattens them instead. With ``"max_pool"`` each
    block ends in a 2x2 max-pool and the features are flattened, as in the mini-ImageNet net of the MAML paper (width
    32) and in the nets of ProtoNet (width 64).

    Args:
        out_features: Width of the output. With null the net has no head and returns the features; the command line
            replaces null by ``data.ways``.
        in_channels: Channels of the images.
        width: Filters of each convolution.
        downsample: How a block halves the image: ``stride`` or ``max_pool``.
        image_size: Height and width of the images. It sets the input width of the head if features are flattened.
        features: How the last block's output becomes a vector: its ``mean`` over space, or ``flatten``. Null stands
            for ``mean`` with ``stride`` and for ``flatten`` with ``max_pool``.

    Raises:
        ConfigError: If the images are too small for ``max_pool``.

    Example:
        >>> net = Conv4(out_features=5, in_channels=1, width=64)
        >>> net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        out_features: int | None = None,
        in_channels: int = 1,
        width: int = 64,
        downsample: Literal["stride", "max_pool"] = "stride",
        image_size: int = 28,
        features: Literal["mean", "flatten"] | None = None,
    ) -> None:
        super().__init__()
        channels = [in_channels, width, width, width, width]
        self.blocks = nn.Sequential(
            *[_block(before, after, downsample) for before, after in itertools.pairwise(channels)]
        )
        if downsample == "max_pool" and image_size < 16:
            raise ConfigError(f"net.image_size is {image_size}; max_pool halves it four times: expected 16 or more")
        self.spatial_mean = (features or ("mean" if downsample == "stride" else "flatten")) == "mean"
        size = image_size
        for _ in range(4):
            size = size // 2 if downsample == "max_pool" else (size + 1) // 2
        in_features = width if self.spatial_mean else width * size**2
        self.head = nn.Identity() if out_features is None else nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``[examples, in_channels, height, width]`` to outputs ``[examples, out_features]``."""
        features: Tensor = self.blocks(x)
        out: Tensor = self.head(features.mean((-2, -1)) if self.spatial_mean else features.flatten(1))
        return out
