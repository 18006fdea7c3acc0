import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_lightning.functional import Backend, map_tasks, mean_gradient
from meta_lightning.profiling.timing import peak_memory
from meta_lightning.types import Examples, Params, Task

BACKENDS = [Backend(), Backend(chunk=2), Backend(chunk=5), Backend(chunk=99), Backend("loop")]


def tasks(number: int = 7) -> Task:
    x = torch.arange(number * 3, dtype=torch.float64).view(number, 3, 1)
    return Task(Examples(x, x + 1), Examples(x + 2, x + 3), *[torch.arange(number)] * 2)


def objective(params: Params, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
    value = (params["w"] * task.query.x).square().mean()
    return value, {"value": value, "index": task.index}


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_mean_gradient_is_that_of_the_mean(backend: Backend) -> None:
    # d/dw mean((w x)^2) = 2 w mean(x^2)
    grads, aux = mean_gradient(objective, {"w": torch.tensor(1.5, dtype=torch.float64)}, tasks(), backend)
    squares = tasks().query.x.square().mean((1, 2))
    torch.testing.assert_close(grads["w"], 2 * 1.5 * squares.mean())
    torch.testing.assert_close(aux["value"], 1.5**2 * squares)
    assert aux["index"].tolist() == list(range(7))
    assert grads["w"].grad_fn is None
    assert aux["value"].grad_fn is None


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_map_tasks_stacks_what_each_task_gives(backend: Backend) -> None:
    first, (second,) = map_tasks(lambda task: (task.support.x.sum(), (task.query.y,)), tasks(), backend)
    torch.testing.assert_close(first, tasks().support.x.sum((1, 2)))
    assert torch.equal(second, tasks().query.y)


@pytest.mark.parametrize("backend", [Backend(), Backend(chunk=3), Backend("loop")], ids=str)
def test_each_task_draws_its_own_dropout(backend: Backend) -> None:
    drawn = map_tasks(lambda _: torch.nn.functional.dropout(torch.ones(200)), tasks(), backend)
    assert len({tuple(mask.tolist()) for mask in drawn}) == 7


def test_loop_takes_what_has_no_batching_rule() -> None:
    def data_dependent(task: Task) -> Tensor:
        return task.support.x.sum() if task.index > 2 else task.support.x.prod()

    expected = [data_dependent(tree_map(lambda tensor, i=i: tensor[i], tasks()))
                for i in range(7)]  # fmt: skip
    assert torch.equal(map_tasks(data_dependent, tasks(), Backend("loop")), torch.stack(expected))
    with pytest.raises(RuntimeError):
        map_tasks(data_dependent, tasks(), Backend())


def test_memory_of_the_loop_does_not_grow_with_the_tasks_under_autocast() -> None:
    weights = {"w": torch.randn(300, 300)}  # 180,000 bytes in the lower precision

    def product(params: Params, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        return (task.query.x.float().expand(3, 300) @ params["w"]).float().square().mean(), {}

    def peak(number: int) -> int:
        drawn = tasks(number)
        with torch.autocast("cpu", torch.bfloat16):
            return peak_memory(lambda: mean_gradient(product, weights, drawn, Backend("loop")))

    peak(2)
    assert peak(20) < peak(2) + 180_000
