"""The conformance table: one row subjects an algorithm to every check in `test_conformance.py`.

A row states its algorithm's objective a second time, slowly and obviously: one task, plain autograd, no vmap, no
`functional_call`. Its derivative is taken by finite differences, which know nothing of how the library does it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from meta_lightning.algorithms import MAMLModule, MetaModule, MetaSGDModule, ProtoNetModule, ReptileModule
from meta_lightning.types import Task

from .problems import FACES, SINUSOIDS, Problem

INNER_LR = 0.1
RATES = (-0.05, 0.1)  # learned rates may become negative


def forward(theta: Tensor, x: Tensor, widths: tuple[int, int, int]) -> Tensor:
    """`Smooth` spelt out on its parameters laid flat, in the order of ``named_parameters()``."""
    before, inside, after = widths
    w1, b1, w2, b2 = theta.split([inside * before, inside, after * inside, after])
    return torch.tanh(x.flatten(1) @ w1.view(inside, before).T + b1) @ w2.view(after, inside).T + b2


def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (forward(theta, x, SINUSOIDS.widths) - y).square().mean()


def gradient(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta, x, y), theta)[0]


def adapted(theta: Tensor, task: Task, steps: int, rates: Tensor | float = INNER_LR) -> Tensor:
    for _ in range(steps):
        theta = theta - rates * gradient(theta, *task.support)
    return theta


def maml(steps: int) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """The query loss after adapting from the very point at which the objective is evaluated."""
    return lambda theta, _, task: loss(adapted(theta, task, steps), *task.query)


def fomaml(steps: int) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """The query loss at the point moved by what adaptation from the origin moved, held constant."""
    return lambda theta, origin, task: loss(theta + adapted(origin, task, steps) - origin, *task.query)


def meta_sgd(steps: int) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """MAML's, with the rates in the second half of what is learned."""

    def objective(theta: Tensor, _: Tensor, task: Task) -> Tensor:
        start, rates = theta.chunk(2)
        return loss(adapted(start, task, steps, rates), *task.query)

    return objective


def by_torch_adam(theta: Tensor, task: Task, steps: int) -> Tensor:
    leaf = theta.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=INNER_LR, betas=(0.0, 0.999))
    for _ in range(steps):
        leaf.grad = gradient(leaf, *task.support)
        optimizer.step()
    return leaf.detach()


def reptile(steps: int, end: Callable[[Tensor, Task, int], Tensor]) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """Half the squared distance to where adaptation from the origin ends, held constant."""
    return lambda theta, origin, task: 0.5 * (theta - end(origin, task, steps)).square().sum()


def protonet(cosine: bool) -> Callable[[Tensor, Tensor, Task], Tensor]:
    """Cross-entropy over minus the distances to the class means, class by class; cosine distances ten times."""

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return 10 * (1 - F.cosine_similarity(one, other, dim=0)) if cosine else (one - other).square().sum()

    def objective(theta: Tensor, _: Tensor, task: Task) -> Tensor:
        support, queries = (forward(theta, part.x, FACES.widths) for part in (task.support, task.query))
        means = [support[task.support.y == label].mean(0) for label in range(3)]
        scores = torch.stack([torch.stack([-distance(query, mean) for mean in means]) for query in queries])
        return F.cross_entropy(scores, task.query.y)

    return objective


@dataclass(frozen=True)
class Case:
    """One algorithm.

    Attributes:
        name: Shown in the test's name.
        make: The module around a net; keyword arguments go to the module.
        objective: ``(theta, origin, task) -> scalar``, whose derivative in ``theta`` at ``theta = origin`` is the
            task's meta-gradient.
        problem: What it is tried on.
        rounding: What two ways of computing the same may differ by in float64. Adam divides by the size of a gradient
            plus 1e-8, so where the gradient is zero but for rounding (a bias before a batch norm) that is enlarged.
    """

    name: str
    make: Callable[..., MetaModule]
    objective: Callable[[Tensor, Tensor, Task], Tensor]
    problem: Problem = SINUSOIDS
    rounding: float = 1e-11


def _of(kind: type[MetaModule], **fixed: object) -> Callable[..., MetaModule]:
    return lambda net, **options: kind(net, **{**fixed, **options})


CASES = [
    Case("maml, 1 step", _of(MAMLModule, inner_lr=INNER_LR, inner_steps=1), maml(1)),
    Case("maml, 3 steps", _of(MAMLModule, inner_lr=INNER_LR, inner_steps=3), maml(3)),
    Case("fomaml, 1 step", _of(MAMLModule, inner_lr=INNER_LR, inner_steps=1, first_order=True), fomaml(1)),
    Case("fomaml, 3 steps", _of(MAMLModule, inner_lr=INNER_LR, inner_steps=3, first_order=True), fomaml(3)),
    Case("meta-sgd, 1 step", _of(MetaSGDModule, init_lr=RATES, inner_steps=1), meta_sgd(1)),
    Case("meta-sgd, 3 steps", _of(MetaSGDModule, init_lr=RATES, inner_steps=3), meta_sgd(3)),
    Case("reptile, sgd", _of(ReptileModule, inner_lr=INNER_LR, inner_steps=3, inner_rule="sgd"), reptile(3, adapted)),
    Case(
        "reptile, adam", _of(ReptileModule, inner_lr=INNER_LR, inner_steps=3), reptile(3, by_torch_adam), rounding=1e-8
    ),
    Case("protonet, euclidean", _of(ProtoNetModule), protonet(cosine=False), FACES),
    Case("protonet, cosine", _of(ProtoNetModule, distance="cosine", scale=10.0), protonet(cosine=True), FACES),
]
