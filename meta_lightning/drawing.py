"""Pictures of adaptation: pure functions from tensors on the CPU to matplotlib figures.

They are narrow, since TensorBoard scales what it shows to the width of a card, letters and all.
The figures belong to whoever asked for them: pyplot, which keeps every figure until it is closed, is not used.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from meta_lightning.statistics import StepFigure
from meta_lightning.types import Task

# Told apart by those who do not see red and green, and each has a sign beside it.
RIGHT, WRONG = "#0072B2", "#D55E00"
_SIGNS = {RIGHT: "\N{CHECK MARK}", WRONG: "\N{BALLOT X}"}
_TRUTH, _BEFORE = "black", "0.55"

# What a grid has room for: classes, and of each class support and query pictures.
_CLASSES, _SUPPORT, _QUERIES = 10, 3, 6
_ROW = 1.25  # the height of a row, in pictures: below each there is room for a sign

# A curve is told from its neighbours only while they are few.
_FITS = 3


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 ``[height, width, 3]``."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def task(one: Task, predictions: Tensor) -> Figure | None:
    """The picture that fits a task.

    Args:
        one: One episode.
        predictions: For its queries after 0, 1, ... adaptation steps, ``[steps + 1, queries, out]``.

    Returns:
        `grid` for labels of pictures, `fit` for one value of one input; None for what can't be drawn.
    """
    inputs = one.query.x
    if one.query.y.is_floating_point():
        return fit(one, predictions) if inputs[0].numel() == one.query.y[0].numel() == 1 else None
    return grid(one, predictions[-1]) if inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None


def fit(one: Task, predictions: Tensor) -> Figure:
    """A function, the support points, and the fit before and after some adaptation steps.

    Args:
        one: One episode; inputs ``[examples, 1]`` and targets ``[examples, 1]``. Its queries are the truth.
        predictions: ``[steps + 1, queries, 1]``.
    """
    figure, axes = _axes(4.8, 4.4)
    x, order = one.query.x.flatten().sort()
    truth = one.query.y.flatten()
    axes.plot(x, truth[order], color=_TRUTH, linewidth=2.5, label="truth")
    last = len(predictions) - 1
    steps = sorted({0, *(round(last * part / _FITS) for part in range(1, _FITS + 1)), min(1, last)})
    for step in steps:
        values = predictions[step].flatten()
        label = f"{_after(step)}, MSE {(values - truth).square().mean():.3g}"
        shade = colormaps["plasma"](0.85 * (1 - step / max(last, 1)))
        style = {"color": shade, "linewidth": 1.8} if step else {"color": _BEFORE, "linestyle": "--"}
        axes.plot(x, values[order], label=label, **style)
    axes.plot(*map(torch.flatten, one.support), "^", color=RIGHT, markersize=9, label="support", zorder=3)
    axes.set(xlabel="input", ylabel="target", title="One task: fit before and after adaptation")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def grid(one: Task, predictions: Tensor) -> Figure:
    """Pictures of a task, a row for each class: its support, and its queries marked right or wrong.

    Args:
        one: One episode; inputs ``[examples, channels, height, width]`` with 1 or 3 channels, labels ``[examples]``.
        predictions: After the last adaptation step, ``[queries, classes]``.
    """
    answers = predictions.argmax(-1)
    classes: list[int] = sorted({*one.support.y.tolist()})
    shown = classes[:_CLASSES]
    support = [one.support.x[one.support.y == label][:_SUPPORT] for label in shown]
    queries = [one.query.x[one.query.y == label][:_QUERIES] for label in shown]
    left = max(map(len, support)) + 0.4
    width = left + max(map(len, queries))
    figure, axes = _axes(max(0.6 * (width + 1.3), 3.6), 0.74 * len(shown) + 1.0)
    for row, label in enumerate(shown):
        _row(axes, _displayed(support[row], one), 0.0, _ROW * row)
        _row(axes, _displayed(queries[row], one), left, _ROW * row)
        for column, answer in enumerate(answers[one.query.y == label][:_QUERIES].tolist()):
            _mark(axes, left + column, _ROW * row, label, answer)
    axes.text(0.05, -0.05, "support", va="bottom")
    axes.text(left + 0.05, -0.05, "queries", va="bottom")
    axes.set_xlabel(f"{_SIGNS[RIGHT]} right    {_SIGNS[WRONG]} wrong, and the answer given")
    right = (answers == one.query.y).sum()
    axes.set(xlim=(0, width), ylim=(_ROW * len(shown), -0.4), xticks=[], frame_on=False)
    axes.set_yticks([_ROW * row + 0.5 for row in range(len(shown))], [f"class {label}" for label in shown])
    axes.tick_params(length=0)
    axes.set_title(f"One task: {right} of {len(one.query.y)} queries right{_left_out(classes, one, shown)}")
    return figure


def curve(steps: list[StepFigure], metric: str, tasks: int) -> Figure:
    """The metric after 0, 1, ... adaptation steps: its mean over tasks, and a band for the 95 % interval of the mean.

    Args:
        steps: The curve.
        metric: Its name; an accuracy is shown in per cent.
        tasks: How many there are.
    """
    figure, axes = _axes(4.8, 3.8)
    x, mean, half = np.array([(at.step, at.mean, at.ci95) for at in steps]).T
    axes.fill_between(x, mean - half, mean + half, color=RIGHT, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(x, mean, "o-", color=RIGHT, markersize=5 if len(x) <= 20 else 2, label=f"mean of {tasks} tasks")
    axes.set(xlabel="adaptation steps", ylabel=f"{metric} on queries", title="Adaptation curve")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)  # the place "best" takes is slow to find
    return figure


def movement(layers: Mapping[str, Tensor], steps: int) -> Figure:
    """How far adaptation moved each layer, as bars, the layer next to the input on top.

    Args:
        layers: The size of the change over the size of the layer's parameters at the start, ``[tasks]`` by name;
            infinite for a layer that starts at zero.
        steps: How many were taken.
    """
    longest = max(map(len, layers))
    figure, axes = _axes(max(4.8, 3.4 + 0.09 * longest), 1.3 + 0.28 * len(layers))
    means = {name: values.double().mean().item() for name, values in layers.items()}
    bars = axes.barh([*means], [value if np.isfinite(value) else 0.0 for value in means.values()], color=RIGHT)
    labels = ["from zero" if value == np.inf else f"{_two_digits(100 * value)} %" for value in means.values()]
    axes.bar_label(bars, labels, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    tasks = len(next(iter(layers.values())))
    axes.set(
        xlabel="size of the change / size of the parameters",
        ylabel="layer",
        title=f"How far layers moved {_after(steps)}\n(mean of {tasks} tasks)",
    )
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.add_subplot()


def _after(steps: int) -> str:
    return f"after {steps} step{'s' * (steps != 1)}" if steps else "before"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if 10 <= value < 1e5 else f"{value:.2g}"


def _displayed(pictures: Tensor, one: Task) -> np.ndarray:
    """``[n, height, width, 3]`` from 0 to 1: as they are, or from the least to the largest value of the task."""
    low, high = (min(0.0, one.query.x.min().item()), max(1.0, one.query.x.max().item()))
    scaled = ((pictures.float() - low) / (high - low)).clamp(0, 1)
    return scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _row(axes: Axes, pictures: np.ndarray, x: float, y: float) -> None:
    for column, picture in enumerate(pictures):
        left = x + column
        axes.imshow(picture, extent=(left + 0.05, left + 0.95, y + 0.95, y + 0.05))


def _mark(axes: Axes, x: float, y: float, label: int, answer: int) -> None:
    colour = RIGHT if answer == label else WRONG
    axes.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, edgecolor=colour, linewidth=2))
    text = _SIGNS[colour] if answer == label else f"{_SIGNS[colour]} {answer}"
    axes.text(x + 0.5, y + 0.98, text, color=colour, ha="center", va="top", fontsize=10, fontweight="bold")


def _left_out(classes: list[int], one: Task, shown: list[int]) -> str:
    of_class = len(one.query.y) // len(classes)
    parts = [f"{len(shown)} of {len(classes)} classes"] if len(shown) < len(classes) else []
    parts += [f"{_QUERIES} of {of_class} a class"] if of_class > _QUERIES else []
    return f"\n(shown: {', '.join(parts)})" if parts else ""
