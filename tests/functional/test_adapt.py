import weakref

import pytest
import torch
from torch import Tensor

from meta_lightning.functional import adam, adapt, ends, last, sgd
from meta_lightning.types import Params, Rule

TARGET = torch.tensor([3.0, -1.0])


def distance(params: Params, step: int) -> Tensor:
    return 0.5 * (params["w"] - TARGET).square().sum()


def start() -> Params:
    return {"w": torch.tensor([0.0, 1.0])}


def test_every_step_is_taken_and_yielded() -> None:
    # The gradient is w - target, so each step leaves nine tenths of the distance.
    found = [params["w"] for params, _ in adapt(distance, start(), sgd(), 0.1, 4)]
    expected = [TARGET + 0.9**step * (start()["w"] - TARGET) for step in (0, 1, 2, 3, 4)]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_initialisation_comes_first_and_as_it_is(first_order: bool) -> None:
    params = {"frozen": torch.tensor(1.0), **start()}
    steps = adapt(distance, params, sgd(), 0.1, 1, first_order=first_order, adapts=lambda name: name != "frozen")
    first, _ = next(steps)
    assert [*first] == ["frozen", "w"]
    assert all(first[name] is tensor for name, tensor in params.items())


def test_what_is_done_to_a_yielded_dict_stays_there() -> None:
    params = start()
    for adapted, _ in adapt(distance, params, sgd(), 0.1, 2):
        reached = adapted.pop("w")
    torch.testing.assert_close(reached, TARGET + 0.81 * (start()["w"] - TARGET))
    assert [*params] == ["w"]


def test_no_steps_yield_the_initialisation_alone() -> None:
    def loss(params: Params, step: int) -> Tensor:
        raise AssertionError

    ((params, state),) = adapt(loss, start(), sgd(), 0.1, 0)
    assert torch.equal(params["w"], start()["w"])
    assert state is None


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


def test_the_rule_is_told_its_step() -> None:
    def update(grads: Params, state: None, params: Params, step: int, rates: object) -> tuple[Params, None]:
        return {name: torch.full_like(grad, step) for name, grad in grads.items()}, None

    found = [
        params["w"].item() for params, _ in adapt(distance, {"w": torch.zeros(1)}, Rule(lambda _: None, update), 0, 4)
    ]
    assert found == [0, 0, 1, 3, 6]


def test_rates_may_differ_by_name() -> None:
    params = {"w": torch.ones(2), "b": torch.ones(2)}

    def loss(trial: Params, step: int) -> Tensor:
        return trial["w"].sum() + trial["b"].sum()

    adapted, _ = last(adapt(loss, params, sgd(), {"w": torch.tensor(0.5), "b": torch.tensor([0.0, 2.0])}, 1))
    assert adapted["w"].tolist() == [0.5, 0.5]
    assert adapted["b"].tolist() == [1.0, -1.0]


def test_frozen_parameters_take_part_but_stay() -> None:
    params = {"a": torch.tensor(2.0), "w": torch.tensor(3.0)}
    adapted, _ = last(adapt(lambda p, _: p["a"] * p["w"], params, sgd(), 0.1, 1, adapts=lambda name: name != "a"))
    assert list(adapted) == ["a", "w"]
    assert adapted["a"] == 2.0
    assert adapted["w"] == pytest.approx(3.0 - 0.1 * 2.0)


@pytest.mark.parametrize(("first_order", "slope"), [(False, 0.9**3), (True, 1.0)])
def test_derivative_of_the_adapted_parameters(first_order: bool, slope: float) -> None:
    # d adapted / d start is 0.9 ** steps through the steps, and the identity where their gradients are constants.
    def end(w: Tensor) -> Tensor:
        adapted, _ = last(adapt(distance, {"w": w}, sgd(), 0.1, 3, first_order=first_order))
        return adapted["w"]

    torch.testing.assert_close(torch.func.jacrev(end)(start()["w"]), slope * torch.eye(2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_adapts_where_autograd_is_off(mode) -> None:
    with mode():
        adapted, _ = last(adapt(distance, start(), sgd(), 0.1, 2))
    torch.testing.assert_close(adapted["w"], TARGET + 0.81 * (start()["w"] - TARGET))


def ten_times_more(grads: Params, state: int, params: Params, step: int, rates: object) -> tuple[Params, int]:
    return {name: torch.full_like(grad, state) for name, grad in grads.items()}, 10 * state


def test_a_rule_carries_its_state_from_step_to_step_and_hands_it_back() -> None:
    counting = Rule(init=lambda _: 1, update=ten_times_more)
    found = [(params["w"].tolist(), state) for params, state in adapt(distance, start(), counting, 0.0, 3)]
    assert found == [([0.0, 1.0], 1), ([1.0, 2.0], 10), ([11.0, 12.0], 100), ([111.0, 112.0], 1000)]


@pytest.mark.parametrize("state", [7, 0])
def test_a_rule_starts_from_the_state_that_is_given(state: int) -> None:
    def init(params: Params) -> int:
        raise AssertionError

    found = [*adapt(distance, {"w": torch.zeros(1)}, Rule(init, ten_times_more), 0.0, 2, state=state)]
    assert [at for _, at in found] == [state, 10 * state, 100 * state]
    assert [params["w"].item() for params, _ in found] == [0, state, 11 * state]


def test_the_state_is_made_for_what_is_adapted() -> None:
    params = {"a": torch.tensor(2.0), **start()}
    for _, state in adapt(distance, params, adam(), 0.1, 1, adapts=lambda name: name != "a"):
        assert [*state.first] == [*state.second] == ["w"]


def test_steps_can_be_taken_in_two_goes() -> None:
    halfway, state = last(adapt(distance, start(), adam(), 0.1, 2))
    found, _ = last(adapt(distance, halfway, adam(), 0.1, 3, state=state))
    expected, _ = last(adapt(distance, start(), adam(), 0.1, 5))
    torch.testing.assert_close(found, expected)


def test_the_last_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        last([])


def test_looking_for_the_last_keeps_no_more_than_one_alive() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    seen: list[int] = []

    def steps():
        for _ in range(4):
            seen.append(len(alive))
            tensor = torch.zeros(1)
            alive.add(tensor)
            yield tensor
            del tensor

    last(steps())
    assert seen == [0, 1, 1, 1]


@pytest.mark.parametrize(("steps", "expected"), [([1], [1]), ([1, 2], [1, 2]), ([1, 2, 3, 4], [1, 4])])
def test_ends_are_the_first_and_the_last(steps: list[int], expected: list[int]) -> None:
    assert [*ends(iter(steps))] == expected
