"""How well a method does on a support set: each example is predicted after adaptation to the others."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta_lightning.console import progress
from meta_lightning.engine.adaptable import adapt_to
from meta_lightning.functional.inputs import select_examples
from meta_lightning.types import Examples


class LeftOut(NamedTuple):
    """Predictions for examples of a support set that the net was not adapted to.

    Attributes:
        rows: The positions of the examples, ``[examples]``.
        predictions: Logits or values, ``[examples, out]``.
        targets: Their targets.
        candidates: The number of examples that could have been left out.
    """

    rows: Tensor
    predictions: Tensor
    targets: Tensor
    candidates: int


def leave_one_out(module: Any, support: Examples, steps: int | None, most: int = 50) -> LeftOut | None:
    """Predicts each example of a support set after adaptation to the others.

    Args:
        module: A `MetaModule`.
        support: The support set, with labels 0, 1, ... or values.
        steps: Adaptation steps; None for ``eval_inner_steps``.
        most: The largest number of examples that are left out, evenly spread over the set; each takes an adaptation.

    Returns:
        The predictions. An example that is the only one of its class can't be left out; None if none can.
    """
    values = support.y.is_floating_point()
    counts = None if values else torch.bincount(support.y)
    may = torch.arange(len(support.y)) if counts is None else (counts[support.y] > 1).nonzero().flatten().cpu()
    if len(may) < 2:
        return None
    rows = may[torch.linspace(0, len(may) - 1, min(most, len(may))).round().long()]
    predictions = []
    for row in progress(rows.tolist(), "Leaving examples out"):
        others = torch.arange(len(support.y)) != row
        rest = select_examples(support, others.to(support.y.device))
        names = None if counts is None else [*map(str, range(len(counts)))]
        net = adapt_to(module, rest.x, rest.y, steps=steps, class_names=names).net
        with torch.no_grad():
            alone = select_examples(support, torch.tensor([row], device=support.y.device))
            predictions.append(net(alone.x))
    return LeftOut(rows, torch.cat(predictions), support.y[rows.to(support.y.device)], len(may))
