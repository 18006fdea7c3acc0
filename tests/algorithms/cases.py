"""The conformance table: one row subjects an algorithm to every check in `test_conformance.py`.

A row states its algorithm's objective a second time, slowly and obviously: one task, plain autograd, no vmap, no
`functional_call`. Its derivative is taken by finite differences, which know nothing of how the library does it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meta_lightning.algorithms import MAMLModule, MetaModule
from meta_lightning.types import Task

INNER_LR = 0.1


class Smooth(nn.Module):
    """A net without kinks, so that finite differences are exact to rounding: 1-6-1 with tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 6)
        self.second = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def predict(theta: Tensor, x: Tensor) -> Tensor:
    """`Smooth` spelt out on its parameters laid flat, in the order of ``named_parameters()``."""
    w1, b1, w2, b2 = theta.split([6, 6, 6, 1])
    return torch.tanh(x @ w1.view(1, 6) + b1) @ w2.view(6, 1) + b2


def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (predict(theta, x) - y).square().mean()


def gradient(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta, x, y), theta)[0]


def adapted(theta: Tensor, task: Task, steps: int) -> Tensor:
    for _ in range(steps):
        theta = theta - INNER_LR * gradient(theta, *task.support)
    return theta


def maml(steps: int) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """The query loss after adapting from the very point at which the objective is evaluated."""
    return lambda theta, _, task: loss(adapted(theta, task, steps), *task.query)


def fomaml(steps: int) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """The query loss at the point moved by what adaptation from the origin moved, held constant."""
    return lambda theta, origin, task: loss(theta + adapted(origin, task, steps) - origin, *task.query)


@dataclass(frozen=True)
class Case:
    """One algorithm.

    Attributes:
        name: Shown in the test's name.
        make: The module around a net; keyword arguments go to the module.
        objective: ``(theta, origin, task) -> scalar``, whose derivative in ``theta`` at ``theta = origin`` is the
            task's meta-gradient.
    """

    name: str
    make: Callable[..., MetaModule]
    objective: Callable[[Tensor, Tensor, Task], Tensor]


def _maml(**fixed: object) -> Callable[..., MetaModule]:
    return lambda net, **options: MAMLModule(net, **{"inner_lr": INNER_LR, **fixed, **options})


CASES = [
    Case("maml, 1 step", _maml(inner_steps=1), maml(1)),
    Case("maml, 3 steps", _maml(inner_steps=3), maml(3)),
    Case("fomaml, 1 step", _maml(inner_steps=1, first_order=True), fomaml(1)),
    Case("fomaml, 3 steps", _maml(inner_steps=3, first_order=True), fomaml(3)),
]
