"""The content of plots, read back from matplotlib's objects."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from meta_lightning.functional.task_kind import CLASSIFICATION, REGRESSION
from meta_lightning.reporting import plots
from meta_lightning.reporting.statistics import StepEstimate, per_step
from meta_lightning.types import Examples, Task


def function_task(queries: int = 9, features: int = 1) -> Task:
    x = torch.randn(queries, features)
    return Task(
        Examples(torch.zeros(3, features), torch.ones(3, 1)),
        Examples(x, x[:, :1].sin()),
        torch.tensor(0),
        torch.tensor(0),
    )


def picture_task(classes: int = 3, queries: int = 2, channels: int = 1, high: float = 1.0) -> Task:
    labels = torch.arange(classes).repeat_interleave(queries)
    pictures = high * torch.rand(len(labels), channels, 4, 4)
    support = Examples(high * torch.rand(classes, channels, 4, 4), torch.arange(classes))
    order = torch.randperm(len(labels))
    return Task(support, Examples(pictures[order], labels[order]), torch.tensor(0), torch.tensor(0))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_fit_is_drawn_before_and_after_steps_beside_the_truth() -> None:
    episode = function_task()
    predictions = torch.randn(11, 9, 1)
    (axes,) = plots.task(episode, predictions).axes
    lines = {line.get_label().partition(",")[0]: line for line in axes.lines}
    assert [*lines] == [
        "truth", "before", "after 1 step", "after 3 steps", "after 7 steps", "after 10 steps", "support",
    ]  # fmt: skip
    x, order = episode.query.x.flatten().sort()
    for name, values in (
        ("truth", episode.query.y),
        ("before", predictions[0]),
        ("after 7 steps", predictions[7]),
    ):
        assert np.array_equal(lines[name].get_xdata(), x)
        assert np.array_equal(lines[name].get_ydata(), values.flatten()[order])
    assert np.array_equal(lines["support"].get_ydata(), episode.support.y.flatten())
    assert f"MSE {(predictions[7] - episode.query.y).square().mean():.3g}" in lines["after 7 steps"].get_label()


def test_each_query_is_marked_by_colour_and_sign() -> None:
    episode = picture_task(classes=3, queries=4)
    predictions = torch.randn(12, 3)
    (axes,) = plots.grid(episode, predictions).axes
    answers = [
        (label, answer) for label in range(3) for answer in predictions.argmax(1)[episode.query.y == label].tolist()
    ]
    frames = [to_hex(patch.get_edgecolor()).upper() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frames == [plots.RIGHT if label == answer else plots.WRONG for label, answer in answers]
    signs = [text for text in texts(axes.figure) if text not in ("support", "queries")]
    assert signs == ["✓" if label == answer else f"✗ {answer}" for label, answer in answers]
    right = sum(label == answer for label, answer in answers)
    assert axes.get_title() == f"One task: {right} of 12 queries right"
    assert len(axes.images) == 3 + 12


def test_a_row_holds_the_pictures_of_its_class() -> None:
    episode = picture_task(classes=2, queries=2, channels=3)
    (axes,) = plots.grid(episode, torch.randn(4, 2)).axes
    for label in (0, 1):
        row = [image for image in axes.images if int(image.get_extent()[3] // 1.25) == label]
        expected = [*episode.support.x[episode.support.y == label], *episode.query.x[episode.query.y == label]]
        assert [image.get_array().shape for image in row] == [(4, 4, 3)] * 3
        for image, picture in zip(row, expected, strict=True):
            assert np.allclose(image.get_array(), picture.permute(1, 2, 0))


def test_a_large_task_is_shown_in_part_and_says_so() -> None:
    episode = picture_task(classes=20, queries=15)
    (axes,) = plots.grid(episode, torch.randn(300, 20)).axes
    assert len(axes.images) == 10 * (1 + 6)
    assert axes.get_title().endswith("of 300 queries right\n(shown: 10 of 20 classes, 6 of 15 a class)")


def test_pictures_of_any_range_are_scaled() -> None:
    episode = picture_task(high=-7.0)
    (axes,) = plots.grid(episode, torch.randn(6, 3)).axes
    assert min(image.get_array().min() for image in axes.images) == pytest.approx(0.0)
    assert max(image.get_array().max() for image in axes.images) == pytest.approx(7 / 8, abs=0.1)  # 0 on its way to 1


VECTORS = picture_task()._replace(query=Examples(torch.rand(4, 7), torch.arange(4)))


@pytest.mark.parametrize(
    "episode",
    [function_task(features=2), picture_task(channels=5), VECTORS],
    ids=["two inputs", "five channels", "vectors"],
)
def test_other_tasks_have_no_plot(episode: Task) -> None:
    assert plots.task(episode, torch.zeros(2, len(episode.query.y), 3)) is None


def test_the_curve_has_its_mean_and_its_band() -> None:
    (axes,) = plots.curve([StepEstimate(0, 0.2, 0.1), StepEstimate(1, 0.8, 0.05)], CLASSIFICATION, 8).axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[0, 0.2], [1, 0.8]]
    edges = axes.collections[0].get_paths()[0].get_extents()
    assert (edges.y0, edges.y1) == pytest.approx((0.1, 0.85))
    assert axes.get_ylabel() == "accuracy on queries"


def test_bars_stand_in_the_nets_order_from_the_top() -> None:
    layers = {"first": torch.tensor([1.1, 1.9]), "second": torch.zeros(2), "last": torch.full((2,), torch.inf)}
    (axes,) = plots.movement(layers, 3).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second", "last"]
    assert axes.yaxis_inverted()
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1.5, 0.0, 0.0])
    assert texts(axes.figure) == ["150 %", "0 %", "from zero"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
def test_values_that_are_not_finite_are_drawn_without_a_warning(value: float) -> None:
    with warnings.catch_warnings(action="error"):
        for figure in (
            plots.fit(function_task(), torch.full((4, 9, 1), value)),
            plots.curve(per_step(torch.full((8, 4), value)), REGRESSION, 8),
            plots.movement({"a layer of a long name." * 5: torch.full((8,), value)}, 3),
        ):
            assert plots.pixels(figure).std() > 0


def test_no_figure_outlives_its_caller() -> None:
    figure = plots.movement({"layer": torch.ones(2)}, 1)
    image, watched = plots.pixels(figure), weakref.ref(figure)
    assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    del figure
    gc.collect()
    assert watched() is None
    assert Gcf.get_all_fig_managers() == []


def test_one_task_is_no_mean_of_tasks() -> None:
    (label,) = (text for text in plots.movement({"head": torch.tensor([0.5])}, 1).axes[0].get_title().split("\n")[1:])
    assert label == "(one task)"
    labels = plots.curve([StepEstimate(0, 0.2, 0.1), StepEstimate(1, 0.8, 0.1)], CLASSIFICATION, 1).axes[0]
    assert "one task" in labels.get_legend_handles_labels()[1]
    several = plots.movement({"head": torch.tensor([0.5, 0.6])}, 1)
    assert several.axes[0].get_title().endswith("(mean of 2 tasks)")
