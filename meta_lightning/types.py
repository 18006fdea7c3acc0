"""The vocabulary that every other module shares."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""Named tensors that gradients are taken with respect to."""

Buffers = dict[str, Tensor]
"""Named tensors that are carried from one meta-step to the next but not learned by gradient."""

Metrics = dict[str, Tensor]
"""Named figures: scalars for one task, ``[tasks]`` once mapped over tasks."""

Rates = float | Tensor | Mapping[str, Tensor]
"""Inner learning rates: one for all parameters, or one per parameter name."""

Split = Literal["train", "val", "test"]


class Examples(NamedTuple):
    """Inputs with their targets.

    Attributes:
        x: Inputs, ``[..., examples, *shape]``.
        y: Targets, ``[..., examples]`` class labels (integers) or ``[..., examples, out]`` values (floats).
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """One episode, or a meta-batch of episodes when every tensor has a leading ``[tasks]`` dimension.

    Attributes:
        support: What the inner loop adapts to.
        query: What the adapted model is judged on; shares no example with ``support``.
        index: The episode's number in its split (int64): names it in messages and seeds randomness inside it.
    """

    support: Examples
    query: Examples
    index: Tensor  # type: ignore[assignment]  # the field's standard name; nobody looks a task up in a task


class Prediction(NamedTuple):
    """What an adapted model predicts for the queries of a task, made when it is called.

    Attributes:
        predict: ``(params, task) -> [queries, out]``.
        params: After some steps of adaptation; the net's own names where there is an inner loop.
        task: One episode.
    """

    predict: Callable[[Params, Task], Tensor]
    params: Params
    task: Task

    def __call__(self) -> Tensor:
        """The predictions, ``[queries, out]``."""
        return self.predict(self.params, self.task)


class Rule(NamedTuple):
    """An inner update rule: two pure functions, so that a rule is a value and composes.

    Attributes:
        init: ``params -> state``: the state before the first adaptation step.
        update: ``(grads, state, params, step, rates) -> (updates, state)``: what to add to each parameter.
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params, int, Rates], tuple[Params, Any]]


class EpisodeShape(NamedTuple):
    """How many of what an episode holds.

    Attributes:
        ways: Classes; None where a task is a function to regress.
        shots: Support examples, per class where there are classes.
        queries: Query examples, per class where there are classes.
    """

    ways: int | None
    shots: int
    queries: int
