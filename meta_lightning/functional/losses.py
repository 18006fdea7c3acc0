"""Losses with parameters of their own."""

import torch
from torch import Tensor, nn


class GaussianLikelihood(nn.Module):
    """The negative log-likelihood of targets under a normal distribution around the predictions.

    The logarithm of the standard deviation is one learned parameter, the homoscedastic uncertainty of Kendall et al.
    (2018), equation 5. The constant ``log(2 pi) / 2`` is left out.

    Args:
        std: The initial standard deviation, in units of the targets.

    Example:
        >>> loss = GaussianLikelihood(std=1.0)
        >>> loss(torch.tensor([[2.0]]), torch.tensor([[0.0]])).item()
        2.0
    """

    def __init__(self, std: float = 1.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.tensor(float(std)).log())

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean over all entries, a scalar."""
        return 0.5 * ((predictions - targets) / self.log_std.exp()).square().mean() + self.log_std
