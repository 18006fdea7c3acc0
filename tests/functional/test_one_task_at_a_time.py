import pytest
import torch
from torch import Tensor
from torch.func import vmap

from meta_lightning.functional.one_task_at_a_time import one_task_at_a_time
from meta_lightning.types import Examples, Metrics, Params, Task


def tasks(number: int = 3) -> Task:
    x = torch.rand(number, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Task(Examples(x, x), Examples(x + 1, x + 2), *[torch.arange(number)] * 2)


def measure(params: Params, task: Task) -> tuple[Tensor, Metrics]:
    error = (task.query.x @ params["w"] + params["b"] - task.query.y).tanh()
    return error.square().mean(), {"largest": error.abs().max(), "index": task.index}


def params(number: int = 3) -> Params:
    generator = torch.Generator().manual_seed(1)
    return {
        "w": torch.randn(number, 2, 2, dtype=torch.float64, generator=generator).requires_grad_(),
        "b": torch.randn(2, dtype=torch.float64, generator=generator).requires_grad_(),
    }


def run(function) -> tuple[Tensor, Metrics, list[Tensor]]:
    at = params()
    values, metrics = vmap(function, in_dims=({"w": 0, "b": None}, 0))(at, tasks())
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return values, metrics, list(torch.autograd.grad((weights * values).sum(), [*at.values()]))


def test_values_metrics_and_gradients_are_those_of_vmap() -> None:
    """By parameters that each task has of its own, and by one that they share."""
    found, expected = run(lambda at, task: one_task_at_a_time(measure, at, task)), run(measure)
    torch.testing.assert_close(found, expected)
    assert not found[1]["largest"].requires_grad


def test_a_task_along_another_dimension_gets_its_gradient_there() -> None:
    at = params()["w"].detach().movedim(0, 2).requires_grad_()
    gradients = [
        torch.autograd.grad(
            vmap(lambda w, task, f=f: f({"w": w, "b": torch.ones(2).double()}, task), in_dims=(2, 0))(at, tasks())[
                0
            ].sum(),
            at,
        )[0]
        for f in (lambda p, task: one_task_at_a_time(measure, p, task), measure)
    ]
    torch.testing.assert_close(*gradients)


def test_layers_without_a_batching_rule_are_taken() -> None:
    def data_dependent(at: Params, task: Task) -> tuple[Tensor, Metrics]:
        return (at["w"].sum() if task.index > 1 else at["w"].prod()), {}

    values, _ = vmap(lambda w, task: one_task_at_a_time(data_dependent, {"w": w}, task))(params()["w"], tasks())
    assert torch.equal(values[2], params()["w"][2].sum())
    assert torch.equal(values[0], params()["w"][0].prod())


def test_where_nothing_is_differentiated_the_value_may_be_of_any_shape() -> None:
    with torch.no_grad():
        values, _ = vmap(lambda w, task: one_task_at_a_time(lambda p, t: (t.query.x @ p["w"], {}), {"w": w}, task))(
            params()["w"], tasks()
        )
    torch.testing.assert_close(values, tasks().query.x @ params()["w"].detach())


def test_outside_of_vmap_it_is_refused() -> None:
    with pytest.raises(AssertionError, match="outside of vmap"):
        one_task_at_a_time(measure, params(), tasks())
