"""The vocabulary that every other module shares."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

Params = dict[str, Tensor]
"""Named tensors that gradients are taken with respect to."""

Buffers = dict[str, Tensor]
"""Named tensors that are carried from one meta-step to the next but not learned by gradient."""

Metrics = dict[str, Tensor]
"""Named metrics: scalars for one task, ``[tasks]`` once mapped over tasks."""

Rates = float | Tensor | Mapping[str, Tensor]
"""Inner learning rates: one for all parameters, or one for each parameter name."""

Inputs = Tensor | dict[str, Tensor]
"""The inputs of a net: one tensor, or several tensors that are passed as keyword arguments."""

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
"""All splits, in their order."""


class Examples(NamedTuple):
    """Inputs with their targets.

    Attributes:
        x: Inputs, ``[..., examples, *shape]``; a dict of such tensors for a net of several inputs.
        y: Targets: ``[..., examples]`` class labels (integers) or ``[..., examples, out]`` values (floats). Queries
            that are only predicted have None.

    Example:
        >>> support = Examples(x=torch.zeros(5, 1, 28, 28), y=torch.arange(5))
        >>> len(support.x)
        5
    """

    x: Any  # `Inputs`; each caller knows which of the two types it has
    y: Any  # Tensor | None; None only for queries that are predicted but not measured


class Task(NamedTuple):
    """One episode, or a meta-batch of episodes if every tensor has a leading ``[tasks]`` dimension.

    Attributes:
        support: The examples that the inner loop adapts to.
        query: The examples that the adapted model is judged on; disjoint from ``support``.
        index: The episode's number in its split (int64); identifies the episode in messages.
        key: The episode's random key (int64), which no episode of another split shares. It seeds all randomness inside
            the task.

    Example:
        >>> support, query = Examples(torch.zeros(5, 2), torch.arange(5)), Examples(torch.ones(10, 2), None)
        >>> task = Task(support, query, index=torch.tensor(0), key=torch.tensor(0))
        >>> task.query.x.shape
        torch.Size([10, 2])
    """

    support: Examples
    query: Examples
    index: Tensor  # type: ignore[assignment]  # the field's standard name; hides `tuple.index`, which nobody needs
    key: Tensor


class Prediction(NamedTuple):
    """An adapted model and the task that it was adapted to; calling it predicts the queries.

    Attributes:
        predict: ``(params, task) -> [queries, out]``.
        params: Adapted parameters; they have the net's own names if there is an inner loop.
        task: One episode.
    """

    predict: Callable[[Params, Task], Tensor]
    params: Params
    task: Task

    def __call__(self) -> Tensor:
        """The predictions, ``[queries, out]``."""
        return self.predict(self.params, self.task)


class Objective(NamedTuple):
    """What an algorithm returns for one task of a meta-step.

    Attributes:
        loss: A scalar whose gradient with respect to the meta-learned parameters is the task's meta-gradient.
        metrics: Scalars to log.
        buffers: New values of the carried tensors that change, by name; they are averaged over tasks.
    """

    loss: Tensor
    metrics: Metrics
    buffers: Buffers = {}  # noqa: RUF012 - never changed in place


class Rule(NamedTuple):
    """An inner update rule: a pair of pure functions, so that a rule is a value and composes.

    Attributes:
        init: ``params -> state``: the state before the first adaptation step.
        update: ``(grads, state, params, step, rates) -> (updates, state)``: what is added to each parameter.
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params, int, Rates], tuple[Params, Any]]


class EpisodeShape(NamedTuple):
    """The numbers of classes and examples in an episode.

    Attributes:
        ways: Classes; None if a task has no classes.
        shots: Support examples, per class if there are classes.
        queries: Query examples, per class if there are classes.

    Example:
        >>> shape = EpisodeShape(ways=5, shots=1, queries=15)
        >>> shape._replace(shots=5)
        EpisodeShape(ways=5, shots=5, queries=15)
    """

    ways: int | None
    shots: int
    queries: int
