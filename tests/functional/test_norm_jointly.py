"""Support and queries in one forward pass: each batch-norm protocol against a version by hand."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from meta_lightning.functional.norm import apply_protocol, predict_jointly, side_by_side
from meta_lightning.functional.prototypes import nearness, prototypes

PROTOCOLS = ["transductive", "inductive", "support_plus_one"]
LABELS = torch.tensor([1, 0, 1, 2, 1])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def net():
    """Plain layers, in training mode; smooth, with scales that do something."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Conv2d(3, 4, 2),
        nn.BatchNorm2d(4, eps=0.1),
        nn.Tanh(),
        nn.Flatten(),
    ).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


@pytest.fixture
def task():
    """Five support and three query pictures of another brightness and contrast."""
    support = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    return support, 2 + 3 * torch.randn(3, 1, 4, 4, dtype=torch.float64)


@pytest.fixture
def params(net):
    """Others than the net's own."""
    return {name: torch.randn_like(tensor) for name, tensor in net.named_parameters()}


def converted(net):
    net = copy.deepcopy(net)
    apply_protocol(net, "transductive")
    return net


def read(support, queries):
    """What a prototypical network reads."""
    return nearness(queries, prototypes(support, LABELS, 3)[0], "euclidean")


def read_by_hand(support, queries):
    means = [support[label == LABELS].mean(0) for label in range(3)]
    return torch.stack([torch.stack([-(query - mean).square().sum() for mean in means]) for query in queries])


def transductive_by_hand(net, params, support, queries):
    out = functional_call(net, params, (torch.cat([support, queries]),))
    return read_by_hand(out[:5], out[5:])


def support_plus_one_by_hand(net, params, support, queries):
    # Every query has a forward pass, so prototypes, of its own.
    return torch.cat([transductive_by_hand(net, params, support, one[None]) for one in queries])


def inductive_by_hand(net, params, support, queries):
    """Layer by layer: what the support set's activations are like decides how all are normalised."""
    for name, layer in net.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            mean, var = support.mean((0, 2, 3)), support.var((0, 2, 3), correction=0)
            scale = params[f"{name}.weight"] / (var + layer.eps).sqrt()
            shift = params[f"{name}.bias"] - mean * scale
            support, queries = (x * scale[:, None, None] + shift[:, None, None] for x in (support, queries))
        else:
            own = {key: params[f"{name}.{key}"] for key, _ in layer.named_parameters()}
            support, queries = (functional_call(layer, own, (x,)) for x in (support, queries))
    return read_by_hand(support, queries)


BY_HAND = dict(zip(PROTOCOLS, [transductive_by_hand, inductive_by_hand, support_plus_one_by_hand], strict=True))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_equals_a_version_by_hand(net, params, task, protocol, batched):
    found = predict_jointly(converted(net), params, *task, protocol, read, batched=batched)
    torch.testing.assert_close(found, BY_HAND[protocol](net, params, *task))


def test_the_protocols_differ(net, params, task):
    found = [predict_jointly(converted(net), params, *task, protocol, read) for protocol in PROTOCOLS]
    for one, other in pairwise([*found, found[0]]):
        assert not torch.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_queries_side_by_side_equal_a_version_by_hand(net, params, task, at_once):
    ours = converted(net)
    with side_by_side(ours, at_once):
        found = predict_jointly(ours, params, *task, "support_plus_one", read)
    torch.testing.assert_close(found, support_plus_one_by_hand(net, params, *task))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_gradients_equal_those_of_a_version_by_hand(net, params, task, protocol, batched):
    # Buffers are written in place by a plain layer in training mode, which `grad` refuses; they play no part here.
    plain = copy.deepcopy(net)
    for layer in plain:
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    ours = converted(net)

    def loss(params, support, query):
        return predict_jointly(ours, params, support, query, protocol, read, batched=batched).sin().sum()

    def loss_by_hand(params, support, query):
        return BY_HAND[protocol](plain, params, support, query).sin().sum()

    found, expected = (grad(of, argnums=(0, 1, 2))(params, *task) for of in (loss, loss_by_hand))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tasks_side_by_side_give_what_they_give_one_by_one(net, params, protocol, batched):
    net = converted(net)
    tasks = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64), torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)

    def scores(support, query):
        return predict_jointly(net, params, support, query, protocol, read, batched=batched)

    torch.testing.assert_close(vmap(scores)(*tasks), torch.stack([scores(*task) for task in zip(*tasks, strict=True)]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_net_without_norm_predicts_alike_under_all_protocols_in_one_pass(task, protocol):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten()).double()
    expected = read_by_hand(*map(net, task))
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    torch.testing.assert_close(predict_jointly(net, {}, *task, protocol, read), expected)
    assert seen == [8]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_statistics_are_the_batch_s_own_again_after_an_error_of_the_reader(net, task, protocol):
    net = converted(net)
    before = net(task[1])
    with pytest.raises(ZeroDivisionError):
        predict_jointly(net, {}, *task, protocol, lambda support, queries: 1 / 0)
    assert torch.equal(net(task[1]), before)


class Judging(nn.Module):
    """Looks at its input's values: no layer for vmap."""

    def forward(self, x):
        return x if x.isfinite().all() else x.new_zeros(x.shape)


def test_queries_may_be_taken_one_by_one_where_a_layer_does_not_run_under_vmap(net, params, task):
    judging = nn.Sequential(*converted(net), Judging())
    found = predict_jointly(judging, params, *task, "support_plus_one", read, batched=False)
    torch.testing.assert_close(found, support_plus_one_by_hand(net, params, *task))
    with pytest.raises(RuntimeError, match="vmap"):
        predict_jointly(judging, params, *task, "support_plus_one", read, batched=True)
