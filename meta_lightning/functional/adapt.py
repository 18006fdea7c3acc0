"""The inner loop."""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor
from torch.func import grad

from meta_lightning.functional.params import detach, partition
from meta_lightning.types import Params, Rates, Rule

T = TypeVar("T")


def last(steps: Iterable[T]) -> T:
    """The last of what an iterator yields, with no other kept alive: ``*_, end = steps`` would hold them all.

    Raises:
        ValueError: If it yields nothing.
    """
    found: list[T] = []
    for step in steps:
        found[:] = [step]
    (end,) = found
    return end


def ends(steps: Iterable[T]) -> Iterator[T]:
    """The first and the last of what an iterator yields, or the only one, with no other kept alive."""
    rest = iter(steps)
    yield next(rest)
    found: list[T] = []
    for step in rest:
        found[:] = [step]
    yield from found


def _adapts_all(name: str) -> bool:
    return False


def adapt(
    loss: Callable[[Params, int], Tensor],
    params: Params,
    rule: Rule,
    rates: Rates,
    steps: int,
    *,
    state: Any = None,
    first_order: bool = False,
    frozen: Callable[[str], bool] = _adapts_all,
) -> Iterator[tuple[Params, Any]]:
    """Adapts parameters to one task, step by step.

    Inner gradients come from `torch.func.grad`, so the loop runs under ``no_grad`` and inference mode as it is, nests
    in `torch.func.vmap`, and keeps a graph only while a caller differentiates through it.

    Args:
        loss: ``(params, step) -> scalar``: the loss on the support set, at adaptation step ``step`` (from 0).
        params: The initialisation.
        rule: Turns gradients into updates.
        rates: Inner learning rates.
        steps: Number of adaptation steps.
        state: What the rule starts from; None for what its ``init`` gives.
        first_order: Treat the inner gradients as constants (Finn et al. 2017, section 5.2). The adapted parameters
            then differ from the initialisation by a constant, and memory does not grow with ``steps``.
        frozen: Names of parameters that stay as they are.

    Yields:
        The parameters, in the order of ``params``, and the rule's state: after 0, 1, ... ``steps`` steps.
    """
    fixed, adapted = partition(params, frozen)
    state = rule.init(adapted) if state is None else state
    yield dict(params), state
    for step in range(steps):
        at_fixed, at = (detach(fixed), detach(adapted)) if first_order else (fixed, adapted)

        def support_loss(trial: Params, fixed: Params = at_fixed, step: int = step) -> Tensor:
            return loss({**fixed, **trial}, step)

        updates, state = rule.update(grad(support_loss)(at), state, at, step, rates)
        adapted = {name: tensor + updates[name] for name, tensor in adapted.items()}
        yield {name: adapted[name] if name in adapted else fixed[name] for name in params}, state
