"""The compiler's pass that computes a product transposed where its transpose is what is used."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from meta_lightning.engine.transpose_products import TransposeProducts

A, B = torch.randn(3, 5, 4), torch.randn(3, 4, 2)


def passed(function: Callable[[Tensor, Tensor], Tensor]) -> GraphModule:
    graph: GraphModule = make_fx(function, tracing_mode="fake")(A, B)  # type: ignore[no-untyped-call]
    TransposeProducts()(graph.graph)
    graph.graph.lint()  # type: ignore[no-untyped-call]
    graph.recompile()
    return graph


def shapes_of_products(graph: GraphModule) -> list[tuple[int, ...]]:
    products = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.bmm.default)
    return [tuple(product.meta["val"].shape) for product in products]


def test_a_product_of_which_the_transpose_is_used_is_computed_transposed() -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        product = torch.bmm(a, b)
        return product.permute(0, 2, 1) + 2 * product.permute(0, 2, 1)

    graph = passed(function)
    torch.testing.assert_close(graph(A, B), 3 * (A @ B).mT)
    assert shapes_of_products(graph) == [(3, 2, 5)]


def test_a_product_that_is_also_used_as_it_is_stays() -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        product = torch.bmm(a, b)
        return product.permute(0, 2, 1) + product.sum()

    assert shapes_of_products(passed(function)) == [(3, 5, 2)]


def test_another_permutation_stays() -> None:
    graph = passed(lambda a, b: torch.bmm(a, b).permute(1, 0, 2).contiguous())
    assert shapes_of_products(graph) == [(3, 5, 2)]


def test_a_result_is_not_taken_for_a_use() -> None:
    graph = passed(torch.bmm)
    torch.testing.assert_close(graph(A, B), A @ B)
    assert shapes_of_products(graph) == [(3, 5, 2)]
