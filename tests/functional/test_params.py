"""Dicts of tensors: narrowed, split, detached and laid out flat."""

import pytest
import torch

from meta_lightning.functional.params import detach, flatten, partition, under, unflatten


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
    narrowed = under(params, "net.")
    assert [*narrowed] == ["weight", "bias"]
    assert narrowed["weight"] is params["net.weight"]


def test_under_strips_the_prefix_once():
    assert [*under({"net.net.weight": torch.zeros(())}, "net.")] == ["net.weight"]


def test_detach_leaves_the_graph_but_not_the_values():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    detached = detach({"double": weight * 2, "weight": weight})
    assert [*detached] == ["double", "weight"]
    assert not any(tensor.requires_grad for tensor in detached.values())
    assert detached["double"].tolist() == [2, 4]
    assert detached["weight"].data_ptr() == weight.data_ptr()
