"""Inner update rules against torch's optimizers."""

import pytest
import torch

from meta_lightning.functional.rules import sgd


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
    assert all(torch.equal(first[name], second[name]) for name in params)


def test_sgd_passes_gradients_to_rates_and_gradients(params, grads):
    rate = torch.tensor(0.1, requires_grad=True)
    inner = {name: grad.clone().requires_grad_() for name, grad in grads.items()}
    updates, _ = sgd().update(inner, None, params, 0, rate)
    by_rate, by_bias = torch.autograd.grad(sum(update.sum() for update in updates.values()), [rate, inner["bias"]])
    assert by_rate.item() == pytest.approx(-(0.1 + 0.2 - 0.3 - 7.0))
    assert by_bias.item() == pytest.approx(-0.1)


def test_sgd_names_a_parameter_without_a_rate(params, grads):
    with pytest.raises(KeyError, match="bias"):
        sgd().update(grads, None, params, 0, {"weight": torch.tensor(0.1)})
