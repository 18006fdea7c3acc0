"""Meta-gradients on a convolutional net beside other libraries, which share no code with this one."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning.algorithms import MAMLModule
from meta_lightning.nets import Conv4
from meta_lightning.types import Task

from .test_conformance import flat, meta_step, pictures

INNER_LR = 0.4


def net() -> Conv4:
    torch.manual_seed(0)
    return Conv4(3, width=8, downsample="stride").double()


def ours(**options) -> Tensor:
    return meta_step(MAMLModule(net(), inner_lr=INNER_LR, **options), pictures())[0]


def each_task(tasks: Task):
    for i in range(len(tasks.index)):
        yield tasks.support.x[i], tasks.support.y[i], tasks.query.x[i], tasks.query.y[i]


def by_higher(steps: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old, and not ours to mend
        import higher

        model = net()
        inner = torch.optim.SGD(model.parameters(), lr=INNER_LR)
        for sx, sy, qx, qy in each_task(pictures()):
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (fast, optimizer):
                for _ in range(steps):
                    optimizer.step(F.cross_entropy(fast(sx), sy))
                (F.cross_entropy(fast(qx), qy) / 6).backward()
        return flat({name: p.grad for name, p in model.named_parameters()})


def by_torchopt(steps: int) -> Tensor:
    import torchopt

    model = net()
    inner = torchopt.MetaSGD(model, lr=INNER_LR)
    start = torchopt.extract_state_dict(model, by="reference"), torchopt.extract_state_dict(inner, by="reference")
    for sx, sy, qx, qy in each_task(pictures()):
        for _ in range(steps):
            inner.step(F.cross_entropy(model(sx), sy))
        (F.cross_entropy(model(qx), qy) / 6).backward()
        torchopt.recover_state_dict(model, start[0])
        torchopt.recover_state_dict(inner, start[1])
    return flat({name: p.grad for name, p in model.named_parameters()})


def first_order_by_copies(steps: int) -> Tensor:
    """FOMAML as everybody writes it by hand: a copy per task, and the gradient at the adapted weights."""
    total = None
    for sx, sy, qx, qy in each_task(pictures()):
        model: nn.Module = copy.deepcopy(net())
        inner = torch.optim.SGD(model.parameters(), lr=INNER_LR)
        for _ in range(steps):
            inner.zero_grad()
            F.cross_entropy(model(sx), sy).backward()
            inner.step()
        inner.zero_grad()
        F.cross_entropy(model(qx), qy).backward()
        gradient = flat({name: p.grad for name, p in model.named_parameters()}) / 6
        total = gradient if total is None else total + gradient
    return total


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("peer", [by_higher, by_torchopt])
def test_maml_agrees_with(peer, steps: int) -> None:
    torch.testing.assert_close(ours(inner_steps=steps), peer(steps), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
def test_fomaml_agrees_with_copies_of_the_net(steps: int) -> None:
    expected = first_order_by_copies(steps)
    torch.testing.assert_close(ours(inner_steps=steps, first_order=True), expected, rtol=1e-5, atol=1e-9)
    assert (ours(inner_steps=steps) - expected).norm() > 1e-3 * expected.norm()  # the second order does matter here
