import pytest
import torch
from torch import Tensor

from meta_lightning.functional import adapt, sgd
from meta_lightning.types import Params, Rule

TARGET = torch.tensor([3.0, -1.0])


def distance(params: Params, step: int) -> Tensor:
    return 0.5 * (params["w"] - TARGET).square().sum()


def start() -> Params:
    return {"w": torch.tensor([0.0, 1.0])}


def test_every_step_is_taken_and_yielded() -> None:
    # The gradient is w - target, so each step leaves nine tenths of the distance.
    found = [params["w"] for params in adapt(distance, start(), sgd(), 0.1, 4)]
    expected = [TARGET + 0.9**step * (start()["w"] - TARGET) for step in (1, 2, 3, 4)]
    torch.testing.assert_close(found, expected)


def test_the_initialisation_is_not_changed() -> None:
    params = start()
    list(adapt(distance, params, sgd(), 0.1, 3))
    assert torch.equal(params["w"], start()["w"])


def test_the_loss_is_told_its_step() -> None:
    seen: list[int] = []

    def loss(params: Params, step: int) -> Tensor:
        seen.append(step)
        return distance(params, step)

    list(adapt(loss, start(), sgd(), 0.1, 3))
    assert seen == [0, 1, 2]


def test_rates_may_differ_by_name() -> None:
    params = {"w": torch.ones(2), "b": torch.ones(2)}

    def loss(trial: Params, step: int) -> Tensor:
        return trial["w"].sum() + trial["b"].sum()

    (adapted,) = adapt(loss, params, sgd(), {"w": torch.tensor(0.5), "b": torch.tensor([0.0, 2.0])}, 1)
    assert adapted["w"].tolist() == [0.5, 0.5]
    assert adapted["b"].tolist() == [1.0, -1.0]


def test_frozen_parameters_take_part_but_stay() -> None:
    params = {"a": torch.tensor(2.0), "w": torch.tensor(3.0)}
    (adapted,) = adapt(lambda p, _: p["a"] * p["w"], params, sgd(), 0.1, 1, frozen=lambda name: name == "a")
    assert list(adapted) == ["a", "w"]
    assert adapted["a"] == 2.0
    assert adapted["w"] == pytest.approx(3.0 - 0.1 * 2.0)


@pytest.mark.parametrize(("first_order", "slope"), [(False, 0.9**3), (True, 1.0)])
def test_derivative_of_the_adapted_parameters(first_order: bool, slope: float) -> None:
    # d adapted / d start is 0.9 ** steps through the steps, and the identity where their gradients are constants.
    def end(w: Tensor) -> Tensor:
        *_, adapted = adapt(distance, {"w": w}, sgd(), 0.1, 3, first_order=first_order)
        return adapted["w"]

    torch.testing.assert_close(torch.func.jacrev(end)(start()["w"]), slope * torch.eye(2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_adapts_where_autograd_is_off(mode) -> None:
    with mode():
        *_, adapted = adapt(distance, start(), sgd(), 0.1, 2)
    torch.testing.assert_close(adapted["w"], TARGET + 0.81 * (start()["w"] - TARGET))


def test_a_rule_carries_its_state_from_step_to_step() -> None:
    def update(grads: Params, state: int, params: Params, step: int, rates: object) -> tuple[Params, int]:
        return {name: torch.full_like(grad, state) for name, grad in grads.items()}, 10 * state

    counting = Rule(init=lambda _: 1, update=update)
    found = [params["w"].tolist() for params in adapt(distance, start(), counting, 0.0, 3)]
    assert found == [[1.0, 2.0], [11.0, 12.0], [111.0, 112.0]]
