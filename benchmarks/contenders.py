"""One meta-step of each library, written as in that library's documentation."""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.work import Work, make_net, make_tasks
from meta_lightning.algorithms import MAMLModule
from meta_lightning.functional.tasks import Backend, Loop
from meta_lightning.types import Params, Task

# A contender runs one meta-step and returns the meta-gradient by parameter name.
Contender = Callable[[], Params]


def _loss(work: Work) -> Callable[[Tensor, Tensor], Tensor]:
    return F.mse_loss if work.ways is None else F.cross_entropy


def _each(tasks: Task) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    for number in range(len(tasks.index)):
        yield tasks.support.x[number], tasks.support.y[number], tasks.query.x[number], tasks.query.y[number]


def _gradient_of(net: nn.Module) -> Params:
    return {name: param.grad for name, param in net.named_parameters() if param.grad is not None}


def ours(
    work: Work, loop: Loop = "vmap", chunk: int | None = None, *, compile: bool = False, bf16: bool = False
) -> Contender:
    """`MAMLModule.meta_step` with a given backend; ``bf16`` stands for ``trainer.precision: bf16-mixed``."""
    net, tasks = make_net(work), make_tasks(work)
    module = MAMLModule(net, inner_lr=work.inner_lr, inner_steps=work.inner_steps).to(work.device)
    module.set_backend(Backend(loop, chunk), compiler="inductor" if compile else None)
    params, buffers, step = module.learnable(), dict(module.named_buffers()), torch.tensor(0, device=work.device)

    def meta_step() -> Params:
        with torch.autocast(work.device, torch.bfloat16, enabled=bf16):
            gradient, _, _ = module.meta_step(params, buffers, tasks, step)
        return {name.removeprefix("net."): value for name, value in gradient.items()}

    return meta_step


def plain_loop(work: Work) -> Contender:
    """A handwritten loop over tasks in plain torch."""
    net, tasks, loss = make_net(work), make_tasks(work), _loss(work)

    def meta_step() -> Params:
        net.zero_grad()
        start = dict(net.named_parameters())
        for sx, sy, qx, qy in _each(tasks):
            fast: dict[str, Tensor] = {**start}
            for _ in range(work.inner_steps):
                support_loss = loss(functional_call(net, fast, (sx,)), sy)
                grads = torch.autograd.grad(support_loss, [*fast.values()], create_graph=True)
                moved = [value - work.inner_lr * grad for value, grad in zip(fast.values(), grads, strict=True)]
                fast = dict(zip(fast, moved, strict=True))
            torch.autograd.backward(loss(functional_call(net, fast, (qx,)), qy) / work.tasks)
        return _gradient_of(net)

    return meta_step


def higher(work: Work) -> Contender:
    """`higher.innerloop_ctx`, one task at a time."""
    with warnings.catch_warnings(action="ignore"):
        library: Any = importlib.import_module("higher")
    net, tasks, loss = make_net(work), make_tasks(work), _loss(work)
    inner = torch.optim.SGD(net.parameters(), lr=work.inner_lr)

    def meta_step() -> Params:
        net.zero_grad()
        for sx, sy, qx, qy in _each(tasks):
            with library.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, optimizer):
                for _ in range(work.inner_steps):
                    optimizer.step(loss(fast(sx), sy))
                torch.autograd.backward(loss(fast(qx), qy) / work.tasks)
        return _gradient_of(net)

    return meta_step


def torchopt(work: Work) -> Contender:
    """`torchopt.MetaSGD`, one task at a time."""
    library: Any = importlib.import_module("torchopt")
    net, tasks, loss = make_net(work), make_tasks(work), _loss(work)
    inner = library.MetaSGD(net, lr=work.inner_lr)
    start: list[Any] = [library.extract_state_dict(part, by="reference") for part in (net, inner)]

    def meta_step() -> Params:
        net.zero_grad()
        for sx, sy, qx, qy in _each(tasks):
            for _ in range(work.inner_steps):
                inner.step(loss(net(sx), sy))
            torch.autograd.backward(loss(net(qx), qy) / work.tasks)
            for part, state in zip((net, inner), start, strict=True):
                library.recover_state_dict(part, state)
        return _gradient_of(net)

    return meta_step


def learn2learn(work: Work, folder: Path) -> Contender:
    """`learn2learn.algorithms.MAML`, one task at a time, from a source folder because the package no longer builds."""
    library = _learn2learn(folder)
    net, tasks, loss = make_net(work), make_tasks(work), _loss(work)
    maml = library.MAML(net, lr=work.inner_lr)

    def meta_step() -> Params:
        net.zero_grad()
        for sx, sy, qx, qy in _each(tasks):
            fast = maml.clone()
            for _ in range(work.inner_steps):
                fast.adapt(loss(fast(sx), sy))
            torch.autograd.backward(loss(fast(qx), qy) / work.tasks)
        return _gradient_of(net)

    return meta_step


def _learn2learn(folder: Path) -> Any:
    """Imports ``learn2learn.algorithms.maml`` without the package's ``__init__``, which needs its compiled parts."""
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, package)
    spec = importlib.util.find_spec("learn2learn.algorithms.maml")
    if spec is None:
        raise SystemExit(
            f"--learn2learn {folder}: it has no learn2learn/algorithms/maml.py; expected the library's source folder"
        )
    return importlib.import_module("learn2learn.algorithms.maml")


class _MetalearnNet(nn.Module):
    """Wraps a net in the interface that `metalearn` requires."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, **_: Any) -> dict[str, Any]:
        return {"logits": self.net(x), "buffers": {}}

    def get_fast_weights(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())


def parallel_metalearn(work: Work, backend: str) -> Contender:
    """`metalearn.MAML.step` with its ``vmap`` or ``sequential`` backend. Its outer step has learning rate 0."""
    from metalearn.algorithms.MAML import MAML
    from metalearn.inner_optimizers.optimizers import InnerSGD
    from metalearn.loss.base import BaseLoss

    from meta_lightning.functional.norm import apply_protocol

    class Loss(BaseLoss):  # type: ignore[misc]  # metalearn ships no types
        def forward(self, out_dict: Any, targets: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            value = _loss(work)(out_dict["logits"], targets)
            return value, value.detach()

    net, tasks = make_net(work), make_tasks(work)
    if backend == "vmap":
        apply_protocol(net, "transductive")  # with torch's own batch norm its meta-gradient under vmap would be wrong
    model = _MetalearnNet(net)
    maml = MAML(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        inner_optimizer=InnerSGD(model.get_fast_weights(), inner_lr=work.inner_lr, learn_lr=False),
        support_loss_fn=Loss(), inner_steps=work.inner_steps, chunk_size=work.tasks, backend=backend,
        device=torch.device(work.device),
    )  # fmt: skip
    batch = tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y

    def meta_step() -> Params:
        maml.step(iter([batch]))
        return _gradient_of(net)

    return meta_step
