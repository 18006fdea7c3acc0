"""Plots of adaptation: pure functions from tensors on the CPU to matplotlib figures.

The figures are narrow, because TensorBoard scales an image to the width of a card and would make its text too small.
They are made without pyplot, which would keep each figure in memory until it is closed.
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

from meta_lightning.functional.task_kind import REGRESSION, TaskKind, kind_of
from meta_lightning.reporting.statistics import StepEstimate
from meta_lightning.types import Task

# Blue and orange can be told apart with red-green colour blindness. Each also has a sign.
RIGHT, WRONG = "#0072B2", "#D55E00"
_SIGNS = {RIGHT: "\N{CHECK MARK}", WRONG: "\N{BALLOT X}"}
_TRUTH, _BEFORE = "black", "0.55"

# The limits of a grid: classes, and pictures of the support set and of the queries per class.
_MAX_CLASSES, _MAX_SUPPORT, _MAX_QUERIES = 10, 3, 6
_ROW = 1.25  # the height of a row in units of a picture, with room for the sign below each query

# More fits than this could not be told apart.
_FITS = 3


def pixels(figure: Figure) -> np.ndarray:
    """Renders a figure as uint8 ``[height, width, 3]``."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def task(episode: Task, predictions: Tensor) -> Figure | None:
    """Plots one task with its predictions.

    Args:
        episode: One episode.
        predictions: The predictions for its queries after 0, 1, ... adaptation steps, ``[steps + 1, queries, out]``.

    Returns:
        A `grid` if pictures are classified, a `fit` if one value is regressed on one input, and None otherwise.
    """
    inputs = episode.query.x
    if not isinstance(inputs, Tensor):
        return None
    if kind_of(episode.query.y) is REGRESSION:
        return fit(episode, predictions) if inputs[0].numel() == episode.query.y[0].numel() == 1 else None
    return grid(episode, predictions[-1]) if inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None


def fit(episode: Task, predictions: Tensor) -> Figure:
    """Plots a function, the support points, and the fit before and after some adaptation steps.

    Args:
        episode: One episode; inputs ``[examples, 1]`` and targets ``[examples, 1]``. Its queries are drawn as the true
            function.
        predictions: The predictions after 0, 1, ... adaptation steps, ``[steps + 1, queries, 1]``.

    Example:
        >>> from meta_lightning.data import EpisodicDataModule, Sinusoid
        >>> sinusoid = EpisodicDataModule(Sinusoid()).sample("test")
        >>> fit(sinusoid, torch.zeros(3, *sinusoid.query.y.shape)).axes[0].get_ylabel()
        'target'
    """
    figure, axes = _axes(4.8, 4.4)
    x, order = episode.query.x.flatten().sort()
    truth = episode.query.y.flatten()
    axes.plot(x, truth[order], color=_TRUTH, linewidth=2.5, label="truth")
    last = len(predictions) - 1
    steps = sorted({0, *(round(last * part / _FITS) for part in range(1, _FITS + 1)), min(1, last)})
    for step in steps:
        values = predictions[step].flatten()
        label = f"{_after(step)}, MSE {(values - truth).square().mean():.3g}"
        shade = colormaps["plasma"](0.85 * (1 - step / max(last, 1)))
        style = {"color": shade, "linewidth": 1.8} if step else {"color": _BEFORE, "linestyle": "--"}
        axes.plot(x, values[order], label=label, **style)
    axes.plot(*map(torch.flatten, episode.support), "^", color=RIGHT, markersize=9, label="support", zorder=3)
    axes.set(xlabel="input", ylabel="target", title="One task: fit before and after adaptation")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def grid(episode: Task, predictions: Tensor) -> Figure:
    """Plots the pictures of a task, a row for each class: its support, and its queries marked right or wrong.

    Args:
        episode: One episode; inputs ``[examples, channels, height, width]`` with 1 or 3 channels, labels
            ``[examples]``.
        predictions: The predictions after the last adaptation step, ``[queries, classes]``.
    """
    answers = predictions.argmax(-1)
    classes: list[int] = sorted({*episode.support.y.tolist()})
    visible = classes[:_MAX_CLASSES]
    support = [episode.support.x[episode.support.y == label][:_MAX_SUPPORT] for label in visible]
    queries = [episode.query.x[episode.query.y == label][:_MAX_QUERIES] for label in visible]
    left = max(map(len, support)) + 0.4
    width = left + max(map(len, queries))
    figure, axes = _axes(max(0.6 * (width + 1.3), 3.6), 0.74 * len(visible) + 1.0)
    for row, label in enumerate(visible):
        _row(axes, _scaled(support[row], episode), 0.0, _ROW * row)
        _row(axes, _scaled(queries[row], episode), left, _ROW * row)
        for column, answer in enumerate(answers[episode.query.y == label][:_MAX_QUERIES].tolist()):
            _mark(axes, left + column, _ROW * row, label, answer)
    axes.text(0.05, -0.05, "support", va="bottom")
    axes.text(left + 0.05, -0.05, "queries", va="bottom")
    axes.set_xlabel(f"{_SIGNS[RIGHT]} right    {_SIGNS[WRONG]} wrong, and the answer given")
    right = (answers == episode.query.y).sum()
    axes.set(xlim=(0, width), ylim=(_ROW * len(visible), -0.4), xticks=[], frame_on=False)
    axes.set_yticks([_ROW * row + 0.5 for row in range(len(visible))], [f"class {label}" for label in visible])
    axes.tick_params(length=0)
    axes.set_title(f"One task: {right} of {len(episode.query.y)} queries right{_left_out(classes, episode, visible)}")
    return figure


def curve(steps: list[StepEstimate], kind: TaskKind, tasks: int) -> Figure:
    """Plots the mean of the metric after 0, 1, ... adaptation steps, with a band for its 95 % interval over tasks.

    Args:
        steps: The estimates after 0, 1, ... steps.
        kind: The kind of the tasks.
        tasks: The number of tasks.

    Example:
        >>> from meta_lightning.functional.task_kind import CLASSIFICATION
        >>> curve([StepEstimate(0, 0.2, 0.1), StepEstimate(1, 0.8, 0.1)], CLASSIFICATION, 8).axes[0].get_ylabel()
        'accuracy on queries'
    """
    figure, axes = _axes(4.8, 3.8)
    x, mean, half = np.array([(estimate.step, estimate.mean, estimate.ci95) for estimate in steps]).T
    axes.fill_between(x, mean - half, mean + half, color=RIGHT, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(x, mean, "o-", color=RIGHT, markersize=5 if len(x) <= 20 else 2, label=_mean_of(tasks))
    axes.set(xlabel="adaptation steps", ylabel=f"{kind.metric} on queries", title="Adaptation curve")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if kind.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)  # loc="best" is slow
    return figure


def movement(layers: Mapping[str, Tensor], steps: int) -> Figure:
    """Plots how far adaptation moved each layer, as bars, with the first layer on top.

    Args:
        layers: The norm of the change over the norm of the layer's initial parameters, ``[tasks]`` by the layer's name;
            infinite for a layer that starts at zero.
        steps: The number of adaptation steps taken.

    Example:
        >>> movement({"first": torch.tensor([0.1]), "head": torch.tensor([0.5])}, 1).axes[0].get_ylabel()
        'layer'
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
        title=f"How far layers moved {_after(steps)}\n({_mean_of(tasks)})",
    )
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.add_subplot()


def _after(steps: int) -> str:
    return f"after {steps} step{'s' * (steps != 1)}" if steps else "before"


def _mean_of(tasks: int) -> str:
    return f"mean of {tasks} tasks" if tasks > 1 else "one task"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if 10 <= value < 1e5 else f"{value:.2g}"


def _scaled(pictures: Tensor, episode: Task) -> np.ndarray:
    """Pictures ``[n, height, width, 3]`` in [0, 1], scaled by the range of the task's queries where that is wider."""
    low, high = min(0.0, episode.query.x.min().item()), max(1.0, episode.query.x.max().item())
    unit: Tensor = ((pictures.float() - low) / (high - low)).clamp(0, 1)
    scaled: np.ndarray = unit.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return scaled


def _row(axes: Axes, pictures: np.ndarray, x: float, y: float) -> None:
    for column, picture in enumerate(pictures):
        left = x + column
        axes.imshow(picture, extent=(left + 0.05, left + 0.95, y + 0.95, y + 0.05))


def _mark(axes: Axes, x: float, y: float, label: int, answer: int) -> None:
    colour = RIGHT if answer == label else WRONG
    axes.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, edgecolor=colour, linewidth=2))
    text = _SIGNS[colour] if answer == label else f"{_SIGNS[colour]} {answer}"
    axes.text(x + 0.5, y + 0.98, text, color=colour, ha="center", va="top", fontsize=10, fontweight="bold")


def _left_out(classes: list[int], episode: Task, visible: list[int]) -> str:
    """The note for the title that only a part of the task is drawn; empty if all of it is."""
    queries_per_class = len(episode.query.y) // len(classes)
    parts = [f"{len(visible)} of {len(classes)} classes"] if len(visible) < len(classes) else []
    parts += [f"{_MAX_QUERIES} of {queries_per_class} a class"] if queries_per_class > _MAX_QUERIES else []
    return f"\n(shown: {', '.join(parts)})" if parts else ""
