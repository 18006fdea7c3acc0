"""Batch-norm protocols against torch's own layers, loops over queries and finite differences."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F

from meta_lightning.functional.norm import EpisodeNorm, apply_protocol, fused, predict, side_by_side

PROTOCOLS = ["transductive", "inductive", "support_plus_one"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small_net():
    """Two norms, the second behind the first; smooth, so that finite differences hold; scales that do something."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.Tanh(),
        nn.Conv2d(3, 2, 2),
        nn.BatchNorm2d(2, eps=0.1, track_running_stats=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2, 2),
    ).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


@pytest.fixture
def task():
    """Four support and three query pictures of another brightness and contrast."""
    support = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    return support, 2 + 3 * torch.randn(3, 1, 4, 4, dtype=torch.float64)


def converted(net):
    net = copy.deepcopy(net)
    apply_protocol(net, "transductive")
    return net


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.BatchNorm1d, (8, 3)), (nn.BatchNorm1d, (8, 3, 5)), (nn.BatchNorm2d, (8, 3, 5, 4))],
)
def test_episode_norm_equals_batch_norm_without_running_statistics(layer, shape, affine):
    reference = layer(3, eps=0.3, affine=affine, track_running_stats=False)
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    x = 1 + 2 * torch.randn(shape)
    ours = EpisodeNorm(reference)
    torch.testing.assert_close(ours(x), reference(x))
    torch.testing.assert_close(ours.eval()(x), reference(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5), (8, 3, 5, 4)])
def test_first_rows_are_normalised_as_they_would_be_alone(shape, affine):
    reference = nn.BatchNorm1d(3, eps=0.3, affine=affine, track_running_stats=False)
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    x = 1 + 2 * torch.randn(shape)
    ours = EpisodeNorm(reference)
    alone = ours(x[:5])
    ours.rows = 5
    torch.testing.assert_close(ours(x)[:5], alone)


def test_transductive_is_a_forward_pass_of_the_queries(task):
    support, query = task
    net = small_net()
    torch.testing.assert_close(predict(converted(net), {}, support, query, "transductive"), net(query))


@torch.no_grad()  # torch's own layer with given statistics has no gradient towards them
def inductive_by_hand(net, support, queries):
    """Layer by layer: what the support set's activations are like decides how each query, alone, is normalised."""
    for layer in net:
        if isinstance(layer, EpisodeNorm):
            every = (0, 2, 3)
            mean, var = support.mean(every), support.var(every, correction=0)
            apply = partial(
                F.batch_norm, running_mean=mean, running_var=var, weight=layer.weight, bias=layer.bias, eps=layer.eps
            )
        else:
            apply = layer
        support, queries = apply(support), [apply(query) for query in queries]
    return torch.cat(queries)


def test_inductive_equals_a_version_by_hand(task):
    support, query = task
    net = converted(small_net())
    expected = inductive_by_hand(net, support, query.split(1))
    with torch.no_grad():
        torch.testing.assert_close(predict(net, {}, support, query, "inductive"), expected)


@pytest.mark.parametrize("batched", [True, False])
def test_support_plus_one_equals_a_loop_over_queries(task, batched):
    support, query = task
    net = small_net()
    expected = torch.stack([net(torch.cat([support, one[None]]))[-1] for one in query])
    found = predict(converted(net), {}, support, query, "support_plus_one", batched=batched)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kernels", [lambda _: nullcontext(), fused], ids=["plain", "fused"])
@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_queries_side_by_side_equal_a_loop_over_queries(task, at_once, kernels, affine):
    support, query = task
    net = small_net()
    if not affine:
        net[1] = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    ours = converted(net)
    for gradients in (torch.enable_grad, torch.no_grad):
        expected = torch.stack([net(torch.cat([support, one[None]]))[-1] for one in query])
        with gradients(), side_by_side(ours, at_once), kernels(ours):
            found = predict(ours, {}, support, query, "support_plus_one")
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_give_what_torchs_kernel_gives(task, protocol, dtype):
    support, query = (1000 + tensor.to(dtype) for tensor in task)  # a mean far from 0
    ours = converted(small_net()).to(dtype)
    slow = predict(ours, {}, support, query, protocol)
    with torch.no_grad(), fused(ours):
        fast = predict(ours, {}, support, query, protocol)
    torch.testing.assert_close(fast, slow, **({"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {}))


@pytest.mark.parametrize(("protocol", "depends"), [*zip(PROTOCOLS, [True, False, False], strict=True)])
def test_only_transductive_predictions_depend_on_other_queries(task, protocol, depends):
    support, query = task
    net = converted(small_net())
    others = query.clone()
    others[1:] = 10 * others[1:] - 3
    before, after = (predict(net, {}, support, queries, protocol) for queries in (query, others))
    assert torch.allclose(before[0], after[0], rtol=1e-9) is not depends
    assert not torch.allclose(before[1:], after[1:], rtol=1e-2)


@pytest.mark.parametrize(("protocol", "depends"), [*zip(PROTOCOLS, [False, True, True], strict=True)])
def test_only_transductive_predictions_do_without_the_support_set(task, protocol, depends):
    support, query = task
    net = converted(small_net())
    before, after = (predict(net, {}, inputs, query, protocol) for inputs in (support, 5 * support + 1))
    assert torch.allclose(before, after, rtol=1e-2) is not depends


def test_statistics_are_the_batch_s_own_again_after_an_inductive_prediction(task):
    support, query = task
    net = converted(small_net())
    before = net(query)
    predict(net, {}, support, query, "inductive")
    assert torch.equal(net(query), before)


def test_statistics_are_the_batch_s_own_again_after_an_error(task):
    support, query = task
    net = converted(small_net())
    before = net(query)
    with pytest.raises(RuntimeError):
        predict(net, {"7.weight": torch.zeros(2, 9, dtype=torch.float64)}, support, query, "inductive")
    assert torch.equal(net(query), before)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_gradients_flow_through_the_statistics(task, protocol):
    net = converted(small_net())
    names, values = zip(*net.named_parameters(), strict=True)

    def predictions(support, query, *values):
        return predict(net, dict(zip(names, values, strict=True)), support, query, protocol)

    inputs = [tensor.detach().clone().requires_grad_() for tensor in (*task, *values)]
    if protocol == "transductive":
        inputs[0].requires_grad_(False)  # the support set plays no part
    assert torch.autograd.gradcheck(predictions, inputs)


@pytest.mark.parametrize("protocol", ["transductive", "inductive"])
def test_second_derivatives_flow_through_the_statistics(task, protocol):
    support, query = task
    net = converted(small_net())
    weight = net[0].weight.detach().clone().requires_grad_()

    def predictions(weight):
        return predict(net, {"0.weight": weight}, support, query, protocol)

    assert torch.autograd.gradgradcheck(predictions, weight)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_second_derivatives_through_vmap_are_the_sum_over_tasks(protocol):
    net = converted(small_net())
    params = {name: parameter.detach() for name, parameter in net.named_parameters()}
    tasks = torch.randn(2, 4, 1, 4, 4, dtype=torch.float64), torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)

    def steepness(params, support, query):
        gradient = grad(lambda at: predict(net, at, support, query, protocol).square().sum())(params)
        return sum(part.square().sum() for part in gradient.values())

    # The order of a meta-gradient: out of vmap, where torch 2.13 gets its own kernel's second derivative wrong.
    found = grad(lambda at: vmap(steepness, (None, 0, 0))(at, *tasks).sum())(params)
    one, other = (grad(steepness)(params, *task) for task in zip(*tasks, strict=True))
    torch.testing.assert_close(found, {name: one[name] + other[name] for name in params})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_loop_and_vmap_over_queries_predict_alike(task, protocol):
    net = converted(small_net())
    batched, looped = (predict(net, {}, *task, protocol, batched=batched) for batched in (True, False))
    torch.testing.assert_close(batched, looped)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_run_under_vmap_over_tasks(protocol):
    net = converted(small_net())
    support, query = torch.randn(2, 4, 1, 4, 4, dtype=torch.float64), torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    over_tasks = vmap(lambda support, query: predict(net, {}, support, query, protocol))(support, query)
    one_by_one = torch.stack([predict(net, {}, *task, protocol) for task in zip(support, query, strict=True)])
    torch.testing.assert_close(over_tasks, one_by_one)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_given_parameters_replace_the_net_s_own(task, protocol):
    support, query = task
    net, other = converted(small_net()), converted(small_net())
    params = dict(other.named_parameters())
    torch.testing.assert_close(
        predict(net, params, support, query, protocol), predict(other, {}, support, query, protocol)
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_net_without_norm_predicts_each_query_once(protocol):
    seen = []
    net = nn.Linear(2, 2)
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    predict(net, {}, torch.randn(4, 2), torch.randn(3, 2), protocol)
    assert seen == [3]


class Nested(nn.Module):
    """Norms of several kinds at several depths."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "deep": nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())),
                "plain": nn.BatchNorm2d(3, track_running_stats=False),
                "scaleless": nn.BatchNorm2d(3, affine=False),
            }
        )
        self.flat = nn.BatchNorm1d(12)

    def forward(self, x):
        x = self.body["scaleless"](self.body["plain"](self.body["deep"](x)))
        return self.flat(x.flatten(1))


def test_conversion_names_the_layers_that_lose_running_statistics():
    assert apply_protocol(Nested(), "transductive") == (["body.deep.1.0", "body.scaleless", "flat"], [])


def test_conversion_replaces_every_norm_and_keeps_the_parameters():
    net = Nested()
    before = dict(net.named_parameters())
    apply_protocol(net, "transductive")
    assert sum(isinstance(module, EpisodeNorm) for module in net.modules()) == 4
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    assert not dict(net.named_buffers())
    after = dict(net.named_parameters())
    assert [*after] == [*before]
    assert all(after[name] is before[name] for name in before)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_converted_net_predicts_as_the_original_would_in_training(protocol):
    net = Nested()
    support, query = torch.randn(5, 1, 4, 4), torch.randn(6, 1, 4, 4)
    ours = converted(net)
    expected = {
        "transductive": lambda: net(query),
        # A query that repeats the support set is normalised as the support set is.
        "inductive": lambda: net(support),
        "support_plus_one": lambda: torch.stack([net(torch.cat([support, one[None]]))[-1] for one in query]),
    }
    query = support if protocol == "inductive" else query
    torch.testing.assert_close(predict(ours, {}, support, query, protocol), expected[protocol]())


def net_with_frozen_norm():
    """A norm that was trained elsewhere and set to eval mode, before one that learns."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    frozen = net[1].eval()
    frozen.running_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    frozen.running_var.copy_(torch.tensor([4.0, 9.0, 0.25]))
    return net


def test_conversion_keeps_layers_in_eval_mode():
    net = net_with_frozen_norm()
    frozen = net[1]
    assert apply_protocol(net, "transductive") == (["2.1"], ["1"])
    assert net[1] is frozen
    assert not frozen.training
    assert isinstance(net[2][1], EpisodeNorm)


def test_conversion_keeps_layers_that_do_not_learn():
    net = net_with_frozen_norm().train().requires_grad_(False)
    assert apply_protocol(net, "transductive") == ([], ["1", "2.1"])
    assert isinstance(net[1], nn.BatchNorm1d)


def test_a_layer_without_scale_is_not_frozen_by_having_nothing_to_learn():
    assert apply_protocol(nn.Sequential(nn.BatchNorm1d(3, affine=False)), "transductive") == (["0"], [])


def test_a_layer_without_running_statistics_is_never_kept():
    net = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval().requires_grad_(False)
    assert apply_protocol(net, "transductive") == ([], [])
    assert isinstance(net[0], EpisodeNorm)
    assert not net[0].weight.requires_grad


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_frozen_layers_predict_with_their_running_statistics(protocol):
    net = net_with_frozen_norm()
    frozen, head = net[1], net[2]
    apply_protocol(net, "transductive")
    support, query = torch.randn(4, 2), torch.randn(3, 2)
    before = copy.deepcopy(frozen.state_dict())

    def by_hand(x):
        x = (net[0](x) - torch.tensor([1.0, -2.0, 3.0])) / torch.tensor([2.0, 3.0, 0.5])
        return head(x * frozen.weight + frozen.bias)

    expected = {
        "transductive": lambda: by_hand(query),
        "inductive": lambda: by_hand(support),
        "support_plus_one": lambda: torch.stack([by_hand(torch.cat([support, one[None]]))[-1] for one in query]),
    }
    query_or_support = support if protocol == "inductive" else query
    found = predict(net, {}, support, query_or_support, protocol)
    torch.testing.assert_close(found, expected[protocol](), rtol=1e-4, atol=1e-4)  # its epsilon is left out by hand
    assert all(torch.equal(frozen.state_dict()[name], before[name]) for name in before)


def test_a_layer_that_does_not_learn_is_put_in_eval_mode():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).requires_grad_(False)
    apply_protocol(net, "transductive")
    x = torch.randn(4, 2)
    before = net[1].running_mean.clone()
    # Fresh running statistics are mean 0 and variance 1.
    torch.testing.assert_close(predict(net, {}, x, x, "transductive"), net[0](x) / (1 + 1e-5) ** 0.5)
    assert torch.equal(net[1].running_mean, before)
    assert not net[1].training


def test_a_layer_used_in_two_places_is_replaced_in_both():
    shared = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    before = [name for name, _ in net.named_parameters()]
    apply_protocol(net, "transductive")
    assert isinstance(net[1], EpisodeNorm)
    assert net[3] is net[1]
    assert [name for name, _ in net.named_parameters()] == before


def test_frozen_layers_stay_in_eval_mode():
    net = net_with_frozen_norm()
    apply_protocol(net, "transductive")
    net.train()
    assert not net[1].training
    assert isinstance(net[1], nn.BatchNorm1d)
    before = net[1].running_mean.clone()
    net(torch.randn(4, 2))
    assert torch.equal(net[1].running_mean, before)


def test_running_keeps_and_uses_the_statistics_that_a_net_came_with():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    nn.init.normal_(net[1].weight)
    names = [*net.state_dict()]
    assert apply_protocol(net, "running") == ([], ["1"])
    assert [*net.state_dict()] == names
    assert net[1].weight.requires_grad
    before = copy.deepcopy(net[1].state_dict())
    x = torch.randn(4, 2)
    expected = (net[0](x) - before["running_mean"]) / (before["running_var"] + net[1].eps).sqrt()
    torch.testing.assert_close(net.train()[:2](x), expected * before["weight"] + before["bias"])
    assert all(torch.equal(value, before[name]) for name, value in net[1].state_dict().items())


def test_under_running_a_prediction_depends_on_no_other_example():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    apply_protocol(net, "running")
    support, query = torch.randn(4, 2), torch.randn(3, 2)
    alone = [predict(net, {}, support, query[[number]], "running") for number in range(3)]
    torch.testing.assert_close(predict(net, {}, 9 * support, query, "running"), torch.cat(alone))
