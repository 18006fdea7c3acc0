"""The inner loop."""

from __future__ import annotations  # torch.compile can't trace the evaluation of a closure's annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor
from torch.func import grad

from meta_lightning.errors import ConfigError
from meta_lightning.functional.params import detach, partition
from meta_lightning.types import Params, Rates, Rule

T = TypeVar("T")


def last(steps: Iterable[T]) -> T:
    """The last item of an iterator. Earlier items are released, where ``*_, end = steps`` would keep all of them.

    Raises:
        ValueError: If the iterator is empty.

    Example:
        >>> last(iter([1, 2, 3]))
        3
    """
    kept: list[T] = []
    for step in steps:
        kept[:] = [step]
    (end,) = kept
    return end


def ends(steps: Iterable[T]) -> Iterator[T]:
    """The first and the last item of an iterator, or its only item. The items between them are released.

    Example:
        >>> list(ends([1, 2, 3]))
        [1, 3]
    """
    rest = iter(steps)
    yield next(rest)
    kept: list[T] = []
    for step in rest:
        kept[:] = [step]
    yield from kept


def everything(name: str) -> bool:
    """A predicate that is true for every name."""
    return True


def adapt(
    loss: Callable[[Params, int], Tensor],
    params: Params,
    rule: Rule,
    rates: Rates,
    steps: int,
    *,
    state: Any = None,
    first_order: bool = False,
    adapts: Callable[[str], bool] = everything,
) -> Iterator[tuple[Params, Any]]:
    """Adapts parameters to one task, step by step.

    Inner gradients come from `torch.func.grad`. The loop therefore runs under ``no_grad`` and in inference mode, nests
    in `torch.func.vmap`, and keeps a graph only while a caller differentiates through it.

    Args:
        loss: ``(params, step) -> scalar``: the loss on the support set at adaptation step ``step``, from 0.
        params: The initialisation.
        rule: Turns gradients into updates.
        rates: Inner learning rates.
        steps: The number of adaptation steps.
        state: The rule's state before the first step. None stands for the result of its ``init``.
        first_order: Treats the inner gradients as constants (Finn et al. 2017, section 5.2). The adapted parameters
            then differ from the initialisation by a constant, and memory does not grow with ``steps``.
        adapts: Whether the parameter of a given name is adapted. The other parameters are unchanged and are not copied
            for each task.

    Yields:
        The parameters, in the order of ``params``, and the rule's state, after 0, 1, ... ``steps`` steps.

    Example:
        One step of gradient descent on ``(w - 3)^2``, from 0 with rate 0.25:

        >>> from meta_lightning.functional import last, sgd
        >>> adapted, _ = last(adapt(lambda p, _: (p["w"] - 3) ** 2, {"w": torch.tensor(0.0)}, sgd(), 0.25, steps=1))
        >>> adapted["w"]
        tensor(1.5000)
    """
    adapted, fixed = partition(params, adapts)
    state = rule.init(adapted) if state is None else state
    yield dict(params), state
    for step in range(steps):
        start_fixed, start = (detach(fixed), detach(adapted)) if first_order else (fixed, adapted)

        def support_loss(trial: Params, fixed: Params = start_fixed, step: int = step) -> Tensor:
            return loss({**fixed, **trial}, step)

        updates, state = _checked(rule.update(grad(support_loss)(start), state, start, step, rates), adapted)
        adapted = {name: tensor + updates[name] for name, tensor in adapted.items()}
        yield {name: adapted[name] if name in adapted else fixed[name] for name in params}, state


def _checked(returned: tuple[Params, Any], adapted: Params) -> tuple[Params, Any]:
    """What a rule returned, unless it is not what the next step needs."""
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], dict)):
        raise ConfigError(
            f"the inner rule's update returns {type(returned).__name__}; expected (updates, state), where updates has "
            "a tensor for each parameter by name"
        )
    if lacks := sorted(adapted.keys() - returned[0].keys()):
        raise ConfigError(f"the inner rule's update lacks {', '.join(lacks)}; expected a tensor for each parameter")
    return returned
