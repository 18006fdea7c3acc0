"""Inner update rules against torch's optimizers."""

import pytest
import torch
from torch.func import grad, vmap

from meta_lightning.functional.adapt import adapt, last
from meta_lightning.functional.params import detach
from meta_lightning.functional.rules import AdamState, adam, sgd


@pytest.fixture
def params():
    return {"weight": torch.tensor([[1.0, -2.0], [3.0, 4.0]]), "bias": torch.tensor(0.5)}


@pytest.fixture
def grads():
    return {"weight": torch.tensor([[0.1, 0.2], [-0.3, 0.0]]), "bias": torch.tensor(-7.0)}


def torch_step(params, grads, rates):
    """The parameters after one step of `torch.optim.SGD`, a parameter group for each rate."""
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in params.items()}
    for name, leaf in leaves.items():
        leaf.grad = grads[name]
    torch.optim.SGD([{"params": [leaf], "lr": rates[name]} for name, leaf in leaves.items()]).step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("rates", "by_name"),
    [
        (0.1, {"weight": 0.1, "bias": 0.1}),
        (1, {"weight": 1.0, "bias": 1.0}),
        (torch.tensor(0.1), {"weight": 0.1, "bias": 0.1}),
        ({"weight": torch.tensor(0.1), "bias": torch.tensor(2.0)}, {"weight": 0.1, "bias": 2.0}),
    ],
    ids=["float", "int", "tensor", "by name"],
)
def test_sgd_steps_as_torch_does(params, grads, rates, by_name):
    rule = sgd()
    updates, _ = rule.update(grads, rule.init(params), params, 0, rates)
    expected = torch_step(params, grads, by_name)
    assert updates.keys() == params.keys()
    for name, tensor in params.items():
        torch.testing.assert_close(tensor + updates[name], expected[name])


def test_sgd_takes_a_rate_for_every_entry(params, grads):
    rates = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor(1.0)}
    updates, _ = sgd().update(grads, None, params, 0, rates)
    torch.testing.assert_close(updates["weight"], torch.tensor([[-0.1, -0.4], [0.9, 0.0]]))


def test_sgd_carries_no_state(params, grads):
    rule = sgd()
    first, state = rule.update(grads, rule.init(params), params, 0, 0.1)
    second, _ = rule.update(grads, state, params, 1, 0.1)
    assert state is None
    assert all(torch.equal(first[name], second[name]) for name in params)


def test_sgd_passes_gradients_to_rates_and_gradients(params, grads):
    rate = torch.tensor(0.1, requires_grad=True)
    inner = {name: grad.clone().requires_grad_() for name, grad in grads.items()}
    updates, _ = sgd().update(inner, None, params, 0, rate)
    by_rate, by_bias = torch.autograd.grad(sum(update.sum() for update in updates.values()), [rate, inner["bias"]])
    assert by_rate.item() == pytest.approx(-(0.1 + 0.2 - 0.3 - 7.0))
    assert by_bias.item() == pytest.approx(-0.1)


RATES = {"float": 0.02, "tensor": torch.tensor(0.02), "by name": {"weight": torch.tensor(0.02), "bias": 0.05}}


def torch_adam(params, rates, beta1):
    """`torch.optim.Adam` on copies of the parameters, a parameter group for each rate."""
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in params.items()}
    by_name = rates if isinstance(rates, dict) else dict.fromkeys(leaves, rates)
    groups = [{"params": [leaf], "lr": float(by_name[name])} for name, leaf in leaves.items()]
    return leaves, torch.optim.Adam(groups, betas=(beta1, 0.999))


def torch_adam_step(leaves, optimizer, grads):
    for name, leaf in leaves.items():
        leaf.grad = grads[name]
    optimizer.step()


def in_turn(params, dtype, steps):
    """Gradients that change from step to step: one entry 0 throughout, one at first, and all of them at the third."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        grads = {name: torch.randn(tensor.shape, generator=generator).to(dtype) for name, tensor in params.items()}
        grads["weight"][0, 0] = 0.0
        grads["weight"][1, 1] *= step > 0
        yield {name: grad * (step != 2) for name, grad in grads.items()}


def agrees(found, expected, tolerance):
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=tolerance, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["64", "32"])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_adam_steps_as_torch_does(params, rates, beta1, dtype, tolerance):
    params = {name: tensor.to(dtype) for name, tensor in params.items()}
    leaves, optimizer = torch_adam(params, rates, beta1)
    rule = adam(beta1)
    state = rule.init(params)
    for step, grads in enumerate(in_turn(params, dtype, 20)):
        updates, state = rule.update(grads, state, params, step, rates)
        assert {update.dtype for update in updates.values()} == {dtype}
        params = {name: tensor + updates[name] for name, tensor in params.items()}
        torch_adam_step(leaves, optimizer, grads)
        agrees(params, leaves, tolerance)
    assert state.steps == 20
    agrees(state.second, {name: optimizer.state[leaf]["exp_avg_sq"] for name, leaf in leaves.items()}, tolerance)
    if beta1:
        agrees(state.first, {name: optimizer.state[leaf]["exp_avg"] for name, leaf in leaves.items()}, tolerance)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_goes_on_from_the_state_of_torch(params, beta1):
    # Seven steps by torch alone; the parameters are where they were left, the moments are those of its optimizer.
    params = {name: tensor.double() for name, tensor in params.items()}
    leaves, optimizer = torch_adam(params, 0.02, beta1)
    *before, grads_then = in_turn(params, torch.float64, 8)
    for grads in before:
        torch_adam_step(leaves, optimizer, grads)
    held = {name: optimizer.state[leaf] for name, leaf in leaves.items()}
    first, second = ({name: held[name][key].clone() for name in held} for key in ("exp_avg", "exp_avg_sq"))
    at = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    state = AdamState(torch.tensor(7), first if beta1 else {}, second)
    updates, state = adam(beta1).update(grads_then, state, at, 0, 0.02)
    torch_adam_step(leaves, optimizer, grads_then)
    agrees({name: at[name] + updates[name] for name in at}, leaves, 1e-12)
    assert state.steps == 8


def test_adam_without_beta1_keeps_no_first_moments(params, grads):
    rule = adam(beta1=0.0)
    start = rule.init(params)
    _, state = rule.update(grads, start, params, 0, 0.1)
    assert start.first == state.first == {}
    assert [*start.second] == [*state.second] == [*params]


def test_adam_starts_from_nothing(params):
    steps, first, second = adam().init(params)
    assert steps == 0
    for moments in (first, second):
        assert [*moments] == [*params]
        assert all(moments[name].shape == params[name].shape and not moments[name].any() for name in params)


def test_adam_leaves_the_state_it_was_given_alone(params, grads):
    rule = adam()
    start = rule.init(params)
    rule.update(grads, start, params, 0, 0.1)
    assert start.steps == 0
    assert not any(tensor.any() for moments in start[1:] for tensor in moments.values())


def test_adam_takes_a_rate_for_every_entry(params, grads):
    # The first step is the rate against the gradient's sign.
    rates = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor(0.5)}
    updates, _ = adam().update(grads, adam().init(params), params, 0, rates)
    torch.testing.assert_close(updates["weight"], torch.tensor([[-1.0, -2.0], [3.0, 0.0]]))
    torch.testing.assert_close(updates["bias"], torch.tensor(0.5))


@pytest.mark.parametrize("rule", [sgd(), adam()], ids=["sgd", "adam"])
def test_a_parameter_without_a_rate_is_named(rule, params, grads):
    with pytest.raises(KeyError, match="bias"):
        rule.update(grads, rule.init(params), params, 0, {"weight": torch.tensor(0.1)})


def valley(params, task):
    """A loss whose gradients and curvatures change from place to place."""
    return (params["w"] * task).cosh().sum() + (params["w"].sum() * params["b"]).sin()


def after_adam(w, b, task, rate=0.1, rule=None, steps=3):
    rule = rule or adam(0.6, 0.7)
    adapted, _ = last(adapt(lambda at, _: valley(at, task), {"w": w, "b": b}, rule, rate, steps))
    return adapted


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("beta1", [0.0, 0.6])
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives_through_adam_agree_with_finite_differences(check, beta1):
    def end(w, b, rate):
        return (*after_adam(w, b, doubles(0.5, 1.0, -1.5), rate, adam(beta1, 0.7, eps=0.01)).values(),)

    start = doubles(0.7, -0.4, 1.1), torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)
    assert check(end, [tensor.requires_grad_() for tensor in start])


def test_derivatives_through_adam_reach_the_moments_it_started_from():
    def end(first, second):
        params = {"w": doubles(1.0, -2.0)}
        state = AdamState(torch.tensor(4), {"w": first}, {"w": second})
        updates, state = adam(0.6, 0.7).update({"w": doubles(0.3, 0.5)}, state, params, 0, 0.1)
        updates, _ = adam(0.6, 0.7).update({"w": updates["w"].sin()}, state, params, 1, 0.1)
        return updates["w"]

    assert torch.autograd.gradcheck(end, [doubles(0.4, -0.1).requires_grad_(), doubles(0.2, 0.7).requires_grad_()])


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_a_gradient_that_is_always_0_leaves_derivatives_finite(beta1):
    # The second entry is a unit that never fires; the root of its second moment has an infinite slope.
    alive, dead = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([False, True, False])

    def end(w):
        steps = adapt(lambda at, _: (alive * at["w"]).pow(4).sum(), {"w": w}, adam(beta1), 0.1, 3)
        return last(steps)[0]["w"]

    start = torch.tensor([0.5, 0.7, -0.3])
    slopes = torch.func.jacrev(end)(start)
    assert slopes.isfinite().all()
    torch.testing.assert_close(slopes[1], torch.tensor([0.0, 1.0, 0.0]))
    assert end(start)[dead] == start[dead]
    assert torch.func.jacrev(torch.func.jacrev(end))(start).isfinite().all()


def test_the_derivative_of_a_root_at_0_is_0_inside_of_adam():
    # -rate * gradient / eps is left, whose slope is -rate / eps.
    def step(gradient):
        params = {"w": torch.zeros_like(gradient)}
        return adam(0.0, eps=0.01).update({"w": gradient}, adam(0.0).init(params), params, 0, 0.1)[0]["w"]

    assert torch.func.grad(step)(torch.tensor(0.0)).item() == pytest.approx(-10)


def tasks_and_states():
    """Three tasks, and for each a state of its own: another count and other moments."""
    tasks = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = {"w": tasks.square(), "b": tasks.square().sum(1)}
    return tasks, AdamState(torch.tensor([0, 3, 50]), {name: -value for name, value in moments.items()}, moments)


def adapted_from(params, task, state):
    return last(adapt(lambda at, _: valley(at, task), params, adam(0.6, 0.7), 0.1, 2, state=state))


def one_of(state, i):
    first, second = ({name: tensor[i] for name, tensor in moments.items()} for moments in state[1:])
    return AdamState(state.steps[i], first, second)


def test_adam_under_vmap_equals_a_loop_over_tasks_and_states():
    tasks, states = tasks_and_states()
    params = {"w": doubles(0.7, -0.4), "b": torch.tensor(0.8, dtype=torch.float64)}
    found, state = vmap(adapted_from, (None, 0, 0))(params, tasks, states)
    for i, task in enumerate(tasks):
        expected, after = adapted_from(params, task, one_of(states, i))
        torch.testing.assert_close({name: tensor[i] for name, tensor in found.items()}, expected)
        torch.testing.assert_close(tuple(one_of(state, i)), tuple(after))
    assert state.steps.tolist() == [2, 5, 52]


def test_derivatives_through_adam_under_vmap_equal_a_loop():
    tasks, states = tasks_and_states()
    params = {"w": doubles(0.7, -0.4), "b": torch.tensor(0.8, dtype=torch.float64)}

    def steepness(params, task, state):
        gradient = grad(lambda at: valley(adapted_from(at, task, state)[0], 2 * task))(params)
        return sum(part.square().sum() for part in gradient.values())

    found = grad(lambda at: vmap(steepness, (None, 0, 0))(at, tasks, states).sum())(params)
    expected = grad(lambda at: sum(steepness(at, task, one_of(states, i)) for i, task in enumerate(tasks)))(params)
    torch.testing.assert_close(found, expected)


def test_meta_gradients_through_adam_agree_with_torchopt():
    import torchopt

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    params = detach(dict(net.named_parameters()))

    def loss(params, step):
        return (torch.func.functional_call(net, params, (x,)) - y).square().mean()

    # Not 0.999: torchopt 0.7 takes its powers in float32, where 1 - 0.999 ** count has lost four digits.
    found = grad(lambda at: loss(last(adapt(loss, at, adam(0.9, 0.9), 0.1, 3))[0], 3))(params)
    leaves = [*net.parameters()]
    inner = torchopt.MetaAdam(net, lr=0.1, betas=(0.9, 0.9))
    for _ in range(3):
        inner.step((net(x) - y).square().mean())
    expected = torch.autograd.grad((net(x) - y).square().mean(), leaves)
    torch.testing.assert_close(found, dict(zip(params, expected, strict=True)), rtol=1e-5, atol=1e-9)
