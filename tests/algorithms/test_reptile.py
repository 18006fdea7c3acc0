"""Reptile beside the paper's algorithm written out: one task after the other, torch's optimizers, copies of the net."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning import ConfigError
from meta_lightning.algorithms import ReptileModule
from meta_lightning.algorithms.reptile import mini_batches
from meta_lightning.types import Task

from .problems import SINUSOIDS, single
from .test_conformance import flat, meta_step, trainer


def module(**options: object) -> ReptileModule:
    torch.manual_seed(0)
    return ReptileModule(SINUSOIDS.net(), **{"inner_lr": 0.05, "inner_steps": 4, "inner_batch_size": 3, **options})


def tasks(count: int = 3) -> Task:
    return SINUSOIDS.tasks(count)


def walk(net: nn.Module, task: Task, optimizer: torch.optim.Optimizer, steps: int, size: int) -> None:
    """Trains a net on one task, on mini-batches in the task's order."""
    for rows in mini_batches(task.key, len(task.support.x), size, steps):
        optimizer.zero_grad()
        F.mse_loss(net(task.support.x[rows]), task.support.y[rows]).backward()
        optimizer.step()


def each(tasks: Task) -> list[Task]:
    return [single(tasks, i) for i in range(len(tasks.index))]


def weights(net: nn.Module) -> Tensor:
    return flat({name: param.detach() for name, param in net.named_parameters()})


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_pseudo_gradient_with_sgd_is_where_sequential_training_leads() -> None:
    found, changed, _ = meta_step(module(inner_rule="sgd"), tasks())
    ends = []
    for task in each(tasks()):
        net = copy.deepcopy(module().net)
        walk(net, task, torch.optim.SGD(net.parameters(), lr=0.05), 4, 3)
        ends.append(weights(net))
    torch.testing.assert_close(found, weights(module().net) - torch.stack(ends).mean(0), rtol=1e-12, atol=1e-14)
    assert changed == {}


def test_adam_inside_starts_from_the_carried_moments_and_hands_on_their_mean() -> None:
    start = module()
    _, carried, _ = meta_step(start, tasks(5))  # so that the moments are not all zero
    for name, value in carried.items():
        start.get_buffer(name).copy_(value)
    found, changed, _ = meta_step(start, tasks())
    ends, moments = [], []
    for task in each(tasks()):
        net = copy.deepcopy(start.net)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.0, 0.999))
        for name, param in net.named_parameters():
            optimizer.state[param] = {
                "step": torch.tensor(4.0),
                "exp_avg": torch.zeros_like(param),
                "exp_avg_sq": carried[f"second_moments.{name}"].clone(),
            }
        walk(net, task, optimizer, 4, 3)
        ends.append(weights(net))
        moments.append(torch.cat([optimizer.state[param]["exp_avg_sq"].flatten() for param in net.parameters()]))
    torch.testing.assert_close(found, weights(start.net) - torch.stack(ends).mean(0), rtol=1e-6, atol=1e-12)
    assert changed.pop("steps_taken") == 8
    torch.testing.assert_close(flat(changed), torch.stack(moments).mean(0), rtol=1e-9, atol=1e-14)


def test_one_step_of_sgd_on_the_whole_support_set_is_joint_training() -> None:
    found, _, _ = meta_step(module(inner_rule="sgd", inner_steps=1, inner_batch_size=None), tasks())
    net = copy.deepcopy(module().net)
    x, y = (tensor.flatten(0, 1) for tensor in tasks().support)
    F.mse_loss(net(x), y).backward()
    torch.testing.assert_close(found, 0.05 * flat({name: param.grad for name, param in net.named_parameters()}))


def test_the_outer_step_moves_the_fraction_epsilon_of_the_way() -> None:
    reptile = module(inner_rule="sgd", optimizer=lambda params: torch.optim.SGD(params, lr=0.25))
    before, data = weights(reptile.net), SINUSOIDS.data()
    data.meta_batch_size = 1
    net = copy.deepcopy(reptile.net)
    trainer(1).fit(reptile, datamodule=data)
    (task,) = each(data.draw("train", torch.arange(1)))
    walk(net, task, torch.optim.SGD(net.parameters(), lr=0.05), 4, 3)
    torch.testing.assert_close(weights(reptile.net), before + 0.25 * (weights(net) - before))


def test_queries_of_training_tasks_are_never_learned_from() -> None:
    given = tasks()
    other = given._replace(query=given.query._replace(x=given.query.x + 1, y=given.query.y * 2))
    assert torch.equal(meta_step(module(), given)[0], meta_step(module(), other)[0])


def test_evaluation_has_its_own_steps_and_mini_batches_and_leaves_the_moments_alone() -> None:
    reptile = module(eval_inner_steps=6, eval_inner_batch_size=2)
    reptile.second_moments.first.weight.fill_(0.3)
    before = {name: value.clone() for name, value in reptile.named_buffers()}
    losses = reptile.evaluate(tasks())["loss"]
    assert losses.shape == (3, 7)
    task = each(tasks())[1]
    net = copy.deepcopy(reptile.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.0, 0.999))
    for param in net.parameters():
        moments = torch.full_like(param, 0.3 if param is net.first.weight else 0.0)
        optimizer.state[param] = {"step": torch.tensor(0.0), "exp_avg": moments * 0, "exp_avg_sq": moments}
    walk(net, task, optimizer, 6, 2)
    torch.testing.assert_close(losses[1, -1], F.mse_loss(net(task.query.x), task.query.y).detach())
    assert all(torch.equal(value, before[name]) for name, value in reptile.named_buffers())


def test_mini_batches_use_up_a_permutation_before_the_next_begins() -> None:
    batches = mini_batches(torch.tensor(7), examples=5, size=3, steps=5)
    assert batches.shape == (5, 3)
    passes = batches.flatten().view(3, 5)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in passes.tolist())
    assert len({tuple(row) for row in passes.tolist()}) == 3  # shuffled anew each time


def test_mini_batches_depend_on_the_task_alone() -> None:
    orders = [mini_batches(torch.tensor(index), 10, 10, 1).flatten().tolist() for index in range(50)]
    assert len({tuple(order) for order in orders}) == 50
    mapped = torch.func.vmap(lambda index: mini_batches(index, 10, 10, 1))(torch.arange(50))
    assert mapped.flatten(1).tolist() == orders
    assert mini_batches(torch.tensor(3), 10, 4, 5)[:2].tolist() == mini_batches(torch.tensor(3), 10, 4, 2).tolist()


def test_fewer_examples_than_a_mini_batch_are_repeated() -> None:
    assert sorted(mini_batches(torch.tensor(0), 2, 5, 2).flatten().tolist()) == [0] * 5 + [1] * 5


@pytest.mark.parametrize("key", ["inner_batch_size", "eval_inner_batch_size"])
def test_an_empty_mini_batch_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^model.{key} is 0; expected 1 or more, or null$"):
        module(**{key: 0})
