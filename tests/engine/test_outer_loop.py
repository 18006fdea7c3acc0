"""The outer step."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from meta_lightning import MAMLModule
from meta_lightning.functional.params import flatten

from ..algorithms.problems import SINUSOIDS
from ..algorithms.test_conformance import trainer


class TwoBiases(nn.Module):
    """Adds two parameters, whose gradients are one tensor to autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 + (self.a + self.b)


def test_a_gradient_that_two_parameters_share_is_clipped_once() -> None:
    module = MAMLModule(
        TwoBiases(), inner_lr=0.0, first_order=True, task_loop="loop",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0), grad_clip=1e-3,
    )  # fmt: skip
    run: Trainer = trainer(1)
    run.limit_val_batches = 0
    data = SINUSOIDS.data()
    data.meta_batch_size = 1  # a mean over chunks would make tensors of its own
    run.fit(module, datamodule=data)
    moved = flatten([*module.parameters()]).detach().abs()
    torch.testing.assert_close(moved, torch.full((2,), 1e-3 / 2**0.5), rtol=1e-3, atol=0)
