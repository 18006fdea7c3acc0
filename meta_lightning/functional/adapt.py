"""The inner loop."""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.func import grad

from meta_lightning.functional.params import detach, partition
from meta_lightning.types import Params, Rates, Rule


def _adapts_all(name: str) -> bool:
    return False


def adapt(
    loss: Callable[[Params, int], Tensor],
    params: Params,
    rule: Rule,
    rates: Rates,
    steps: int,
    *,
    first_order: bool = False,
    frozen: Callable[[str], bool] = _adapts_all,
) -> Iterator[Params]:
    """Adapts parameters to one task, step by step.

    Inner gradients come from `torch.func.grad`, so the loop runs under ``no_grad`` and inference mode as it is, nests
    in `torch.func.vmap`, and keeps a graph only while a caller differentiates through it.

    Args:
        loss: ``(params, step) -> scalar``: the loss on the support set, at adaptation step ``step`` (from 0).
        params: The initialisation.
        rule: Turns gradients into updates.
        rates: Inner learning rates.
        steps: Number of adaptation steps.
        first_order: Treat the inner gradients as constants (Finn et al. 2017, section 5.2). The adapted parameters
            then differ from the initialisation by a constant, and memory does not grow with ``steps``.
        frozen: Names of parameters that stay as they are.

    Yields:
        The parameters after each step, in the order of ``params``.
    """
    fixed, adapted = partition(params, frozen)
    state = rule.init(adapted)
    for step in range(steps):
        at_fixed, at = (detach(fixed), detach(adapted)) if first_order else (fixed, adapted)

        def support_loss(trial: Params, fixed: Params = at_fixed, step: int = step) -> Tensor:
            return loss({**fixed, **trial}, step)

        updates, state = rule.update(grad(support_loss)(at), state, at, step, rates)
        adapted = {name: tensor + updates[name] for name, tensor in adapted.items()}
        yield {name: adapted[name] if name in adapted else fixed[name] for name in params}
