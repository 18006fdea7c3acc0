"""Evaluation chooses how to map over tasks: the figures are those of a slow version, and memory is bounded."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning import Examples, MAMLModule, ProtoNetModule, Task
from meta_lightning.engine.evaluation_plan import EvaluationPlan
from meta_lightning.functional.tasks import Backend
from meta_lightning.nets import MLP, Conv4

PROTOCOLS = ["transductive", "inductive", "support_plus_one"]


def pictures(tasks: int, queries: int = 5, size: int = 28) -> Task:
    generator = torch.Generator().manual_seed(0)

    def part(per_class: int) -> Examples:
        x = torch.rand(tasks, 5 * per_class, 1, size, size, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(5).repeat(tasks, per_class))

    return Task(part(1), part(queries), *[torch.arange(tasks)] * 2)


def plan_of(module: MAMLModule, tasks: Task) -> EvaluationPlan:
    module.evaluate(tasks)
    (plan,) = module._plans.values()
    return plan


def net(width: int = 32) -> Conv4:
    torch.manual_seed(0)
    return Conv4(5, width=width).double()


def losses_by_hand(net: nn.Module, task: Task, protocol: str) -> list[float]:
    """Plain torch: one task, one gradient step after the other, a forward pass for each query where it needs one."""
    net = copy.deepcopy(net)

    def predict() -> Tensor:
        if protocol == "transductive":
            return net(task.query.x)
        if protocol == "support_plus_one":
            return torch.stack([net(torch.cat([task.support.x, one[None]]))[-1] for one in task.query.x])
        support, query = task.support.x, task.query.x
        for conv, norm, _ in net.blocks:
            support, query = conv(support), conv(query)
            var, mean = torch.var_mean(support, (0, 2, 3), correction=0)
            support, query = (
                F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps).relu() for x in (support, query)
            )
        return net.head(query.mean((2, 3)))

    losses = []
    for step in range(3):
        with torch.no_grad():
            losses.append(F.cross_entropy(predict(), task.query.y).item())
        if step < 2:
            grads = torch.autograd.grad(F.cross_entropy(net(task.support.x), task.support.y), [*net.parameters()])
            with torch.no_grad():
                for parameter, part in zip(net.parameters(), grads, strict=True):
                    parameter -= 0.5 * part
    return losses


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task_loop", ["vmap", "loop"])
def test_the_losses_are_those_of_one_task_and_one_query_at_a_time(protocol: str, task_loop: str) -> None:
    plain, tasks = net(), pictures(2, queries=3)
    module = MAMLModule(
        copy.deepcopy(plain), inner_lr=0.5, eval_inner_steps=2, batch_norm=protocol, task_loop=task_loop
    )
    module.eval()
    expected = [
        losses_by_hand(
            plain, Task(*[Examples(*[leaf[i] for leaf in part]) for part in tasks[:2]], *tasks[2:]), protocol
        )
        for i in range(len(tasks.index))
    ]
    found = module.evaluate(tasks)["loss"]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert plan_of(module, tasks).backend.loop == ("split" if task_loop == "vmap" else "loop")
    assert plan_of(module, tasks).side_by_side


@pytest.mark.parametrize(
    ("module", "tasks", "expected"),
    [
        # 25 queries of 14 x 14 x 64 doubles are 2.5 MB; 4 MB are 8 tasks' gradients of 5 pictures.
        (MAMLModule(net(64)), pictures(2), Backend("split", 8)),
        (MAMLModule(net(64), task_chunk=3), pictures(2), Backend("split", 3)),
        (MAMLModule(net(64), task_loop="loop"), pictures(2), Backend("loop")),
        (ProtoNetModule(net(64)), pictures(2), None),
    ],
    ids=["pictures", "chunks of one's own", "loop", "no inner loop"],
)
def test_a_convolutional_net_predicts_one_task_at_a_time(module: MAMLModule, tasks: Task, expected: Backend) -> None:
    chosen = plan_of(module, tasks).backend
    assert chosen.loop in ("split", "loop")
    assert expected in (None, chosen)


def test_a_small_net_takes_many_tasks_at_once() -> None:
    data = Examples(torch.rand(2, 10, 1), torch.rand(2, 10, 1))
    chosen = plan_of(MAMLModule(MLP(1, 1, [40, 40])), Task(data, data, *[torch.arange(2)] * 2)).backend
    assert chosen.loop == "vmap"
    assert chosen.chunk is not None
    assert chosen.chunk > 50


class Mixing(nn.Module):
    """Examples meet outside of batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.9 * x.mean(0)


class Regrouping(nn.Module):
    """The rows of batch norm are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(196, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.reshape(-1, 196)).reshape(x.shape)


@pytest.mark.parametrize("layer", [Mixing, Regrouping])
@pytest.mark.parametrize("task_loop", ["vmap", "loop"])
def test_queries_are_alone_where_examples_meet_elsewhere(layer: type[nn.Module], task_loop: str) -> None:
    mixed = nn.Sequential(layer(), net()).double()
    module = MAMLModule(mixed, inner_steps=0, batch_norm="support_plus_one", task_loop=task_loop).eval()
    tasks = pictures(1)
    found = module.evaluate(tasks)["loss"]
    assert plan_of(module, tasks).side_by_side is None
    support, queries = tasks.support.x[0], tasks.query.x[0]
    with torch.no_grad():
        alone = torch.stack([mixed(torch.cat([support, one[None]]))[-1] for one in queries])
    torch.testing.assert_close(found.squeeze(), F.cross_entropy(alone, tasks.query.y[0]))


def test_the_protocol_is_the_configured_one_again_after_an_evaluation() -> None:
    module = MAMLModule(net(), batch_norm="inductive")
    module.evaluate(pictures(1))
    assert module.batch_norm == "inductive"
    assert all(not getattr(layer, "fused", False) for layer in module.net.modules())


PROGRAM = """
import torch
from meta_lightning import Examples, MAMLModule, Task
from meta_lightning.engine.evaluation_plan import EvaluationPlan
from meta_lightning.nets import Conv4

def tasks(count):
    part = lambda n: Examples(torch.rand(count, 5 * n, 1, 28, 28), torch.arange(5).repeat(count, n))
    return Task(part(1), part(15), *[torch.arange(count)] * 2)

def peak():
    # Unlike `ru_maxrss`, this is not that of the process which started this one.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
module = MAMLModule(Conv4(5, width=32), batch_norm="support_plus_one", inner_steps=0).eval()
module.evaluate(tasks(1))
start = peak()
module.evaluate(tasks(4))
print(peak() - start)
module._plan_of = lambda tasks: EvaluationPlan(module.backend)
module.evaluate(tasks(4))
print(peak() - start)
"""


def test_memory_does_not_grow_with_the_tasks() -> None:
    """In a process of its own. Four tasks have 1,800 pictures in ``support_plus_one``: 45 MB after the first layer."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    chosen, as_in_training = map(float, run.stdout.split())
    assert chosen < 30
    assert as_in_training > 80  # the measurement sees what it should see
