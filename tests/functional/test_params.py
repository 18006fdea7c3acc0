"""Dicts of tensors: narrowed, split, detached, laid out flat, multiplied and held by a module."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from meta_lightning.functional.params import as_module, detach, dot, flatten, partition, strip_prefix, unflatten


@pytest.fixture
def params():
    return {
        "net.weight": torch.arange(6.0).view(2, 3),
        "net.bias": torch.tensor([6.0, 7.0]),
        "rate": torch.tensor(8.0),
        "network": torch.tensor([[[9.0]]]),
    }


def test_flatten_lays_entries_out_in_order(params):
    assert flatten(params.values()).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_flatten_reads_a_transposed_tensor_row_by_row():
    assert flatten([torch.arange(6.0).view(2, 3).T]).tolist() == [0, 3, 1, 4, 2, 5]


def test_unflatten_undoes_flatten(params):
    parts = unflatten(flatten(params.values()), params.values())
    assert len(parts) == len(params)
    for part, tensor in zip(parts, params.values(), strict=True):
        assert part.shape == tensor.shape
        assert torch.equal(part, tensor)


def test_unflatten_gives_views(params):
    flat = flatten(params.values())
    parts = unflatten(flat, params.values())
    flat.neg_()
    assert parts[0].tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert parts[2].item() == -8


def test_unflatten_refuses_another_length(params):
    with pytest.raises(RuntimeError):
        unflatten(torch.zeros(11), params.values())


def test_partition_splits_by_name_and_keeps_the_order(params):
    chosen, others = partition(params, lambda name: name.endswith("s") or name == "rate")
    assert [*chosen] == ["net.bias", "rate"]
    assert [*others] == ["net.weight", "network"]
    assert all({**chosen, **others}[name] is tensor for name, tensor in params.items())


@pytest.mark.parametrize("holds", [True, False])
def test_partition_can_leave_one_side_empty(params, holds):
    sides = partition(params, lambda _: holds)
    assert [len(side) for side in sides] == ([4, 0] if holds else [0, 4])


def test_under_strips_the_prefix_and_leaves_the_rest(params):
    narrowed = strip_prefix(params, "net.")
    assert [*narrowed] == ["weight", "bias"]
    assert narrowed["weight"] is params["net.weight"]


def test_under_strips_the_prefix_once():
    assert [*strip_prefix({"net.net.weight": torch.zeros(())}, "net.")] == ["net.weight"]


def test_detach_leaves_the_graph_but_not_the_values():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    detached = detach({"double": weight * 2, "weight": weight})
    assert [*detached] == ["double", "weight"]
    assert not any(tensor.requires_grad for tensor in detached.values())
    assert detached["double"].tolist() == [2, 4]
    assert detached["weight"].data_ptr() == weight.data_ptr()


def test_dot_sums_the_products_of_all_entries():
    one = {"matrix": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "scalar": torch.tensor(5.0)}
    other = {"scalar": torch.tensor(-2.0), "matrix": torch.tensor([[10.0, 0.0], [1.0, 0.5]])}
    found = dot(one, other)
    assert found.shape == ()
    assert found.item() == 10 + 0 + 3 + 2 - 10


def test_dot_is_the_product_of_the_flat_vectors(params):
    other = {name: tensor.cos() for name, tensor in params.items()}
    torch.testing.assert_close(dot(params, other), flatten(params.values()) @ flatten(other.values()))


def test_dot_takes_the_names_of_the_first(params):
    assert dot({"rate": torch.tensor(2.0)}, params) == 16
    with pytest.raises(KeyError, match="network"):
        dot(params, {name: params[name] for name in params if name != "network"})


def test_dot_passes_gradients_to_both():
    one, other = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -4.0])}
    by_one, by_other = torch.func.grad(dot, argnums=(0, 1))(one, other)
    assert by_one["w"].tolist() == [3, -4]
    assert by_other["w"].tolist() == [1, 2]


class Branches(nn.Module):
    """Parameters and buffers at three depths; the names of some begin with those of others."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.headroom = nn.ModuleDict({"head": nn.Linear(2, 2), "he": nn.BatchNorm1d(2)})
        self.he = nn.Parameter(torch.randn(4))
        self.register_buffer("headline", torch.randn(2))


NETS = {
    "branches": Branches,
    "single level": lambda: nn.Linear(2, 3),
    "parametrized": lambda: nn.Sequential(weight_norm(nn.Linear(2, 3)), nn.ReLU(), weight_norm(nn.Linear(3, 1))),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_tree_gives_parameters_back_in_order(net):
    expected = dict(net().named_parameters())
    held = as_module(expected)
    found = dict(held.named_parameters())
    assert [*found] == [*expected] == [*held.state_dict()]
    assert all(found[name] is expected[name] for name in expected)
    assert not [*held.named_buffers()]


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_tree_gives_other_tensors_back_as_buffers_in_order(net):
    expected = detach(dict(net().named_parameters()))
    held = as_module(expected)
    found = dict(held.named_buffers())
    assert [*found] == [*expected] == [*held.state_dict()]
    assert all(found[name] is expected[name] for name in expected)
    assert not [*held.parameters()]


def test_a_tree_holds_parameters_and_buffers_side_by_side():
    net = Branches()
    held = as_module({**dict(net.named_parameters()), **dict(net.named_buffers())})
    assert [name for name, _ in held.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert [name for name, _ in held.named_buffers()] == [name for name, _ in net.named_buffers()]
    assert held.state_dict().keys() == net.state_dict().keys()
    held.load_state_dict(Branches().state_dict())


def test_what_a_tree_holds_is_found_by_its_path():
    weight = nn.Parameter(torch.zeros(1), requires_grad=False)
    held = as_module({"a.b.weight": weight, "a.bias": torch.ones(1)})
    assert held.a.b.weight is weight
    assert held.a.bias.item() == 1
    assert not held.a.b.weight.requires_grad


def test_a_tree_of_nothing_is_empty():
    assert not as_module({}).state_dict()


def test_tree_takes_the_names_of_methods_as_a_net_does() -> None:
    held = {"type.weight": nn.Parameter(torch.ones(1)), "half.type.bias": nn.Parameter(torch.zeros(1))}
    assert dict(as_module(held).named_parameters()).keys() == held.keys()
