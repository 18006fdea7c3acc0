"""What the pictures show, read back from matplotlib's own objects."""

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

from meta_lightning import drawing
from meta_lightning.statistics import StepFigure, per_step
from meta_lightning.types import Examples, Task


def function_task(queries: int = 9, features: int = 1) -> Task:
    x = torch.randn(queries, features)
    return Task(Examples(torch.zeros(3, features), torch.ones(3, 1)), Examples(x, x[:, :1].sin()), torch.tensor(0))


def picture_task(classes: int = 3, queries: int = 2, channels: int = 1, high: float = 1.0) -> Task:
    labels = torch.arange(classes).repeat_interleave(queries)
    pictures = high * torch.rand(len(labels), channels, 4, 4)
    support = Examples(high * torch.rand(classes, channels, 4, 4), torch.arange(classes))
    order = torch.randperm(len(labels))
    return Task(support, Examples(pictures[order], labels[order]), torch.tensor(0))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_fit_is_drawn_before_and_after_steps_beside_the_truth() -> None:
    one = function_task()
    predictions = torch.randn(11, 9, 1)
    (axes,) = drawing.task(one, predictions).axes
    lines = {line.get_label().partition(",")[0]: line for line in axes.lines}
    assert [*lines] == [
        "truth", "before", "after 1 step", "after 3 steps", "after 7 steps", "after 10 steps", "support",
    ]  # fmt: skip
    x, order = one.query.x.flatten().sort()
    for name, values in (
        ("truth", one.query.y),
        ("before", predictions[0]),
        ("after 7 steps", predictions[7]),
    ):
        assert np.array_equal(lines[name].get_xdata(), x)
        assert np.array_equal(lines[name].get_ydata(), values.flatten()[order])
    assert np.array_equal(lines["support"].get_ydata(), one.support.y.flatten())
    assert f"MSE {(predictions[7] - one.query.y).square().mean():.3g}" in lines["after 7 steps"].get_label()


def test_each_query_is_marked_by_colour_and_sign() -> None:
    one = picture_task(classes=3, queries=4)
    predictions = torch.randn(12, 3)
    (axes,) = drawing.grid(one, predictions).axes
    answers = [(label, answer) for label in range(3) for answer in predictions.argmax(1)[one.query.y == label].tolist()]
    frames = [to_hex(patch.get_edgecolor()).upper() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frames == [drawing.RIGHT if label == answer else drawing.WRONG for label, answer in answers]
    signs = [text for text in texts(axes.figure) if text not in ("support", "queries")]
    assert signs == ["✓" if label == answer else f"✗ {answer}" for label, answer in answers]
    right = sum(label == answer for label, answer in answers)
    assert axes.get_title() == f"One task: {right} of 12 queries right"
    assert len(axes.images) == 3 + 12


def test_a_row_holds_the_pictures_of_its_class() -> None:
    one = picture_task(classes=2, queries=2, channels=3)
    (axes,) = drawing.grid(one, torch.randn(4, 2)).axes
    for label in (0, 1):
        row = [image for image in axes.images if int(image.get_extent()[3] // 1.25) == label]
        expected = [*one.support.x[one.support.y == label], *one.query.x[one.query.y == label]]
        assert [image.get_array().shape for image in row] == [(4, 4, 3)] * 3
        for image, picture in zip(row, expected, strict=True):
            assert np.allclose(image.get_array(), picture.permute(1, 2, 0))


def test_a_large_task_is_shown_in_part_and_says_so() -> None:
    one = picture_task(classes=20, queries=15)
    (axes,) = drawing.grid(one, torch.randn(300, 20)).axes
    assert len(axes.images) == 10 * (1 + 6)
    assert axes.get_title().endswith("of 300 queries right\n(shown: 10 of 20 classes, 6 of 15 a class)")


def test_pictures_of_any_range_are_shown() -> None:
    one = picture_task(high=-7.0)
    (axes,) = drawing.grid(one, torch.randn(6, 3)).axes
    assert min(image.get_array().min() for image in axes.images) == pytest.approx(0.0)
    assert max(image.get_array().max() for image in axes.images) == pytest.approx(7 / 8, abs=0.1)  # 0 on its way to 1


VECTORS = picture_task()._replace(query=Examples(torch.rand(4, 7), torch.arange(4)))


@pytest.mark.parametrize(
    "one",
    [function_task(features=2), picture_task(channels=5), VECTORS],
    ids=["two inputs", "five channels", "vectors"],
)
def test_what_is_neither_has_no_picture(one: Task) -> None:
    assert drawing.task(one, torch.zeros(2, len(one.query.y), 3)) is None


def test_the_curve_has_its_mean_and_its_band() -> None:
    (axes,) = drawing.curve([StepFigure(0, 0.2, 0.1), StepFigure(1, 0.8, 0.05)], "accuracy", 8).axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[0, 0.2], [1, 0.8]]
    edges = axes.collections[0].get_paths()[0].get_extents()
    assert (edges.y0, edges.y1) == pytest.approx((0.1, 0.85))
    assert axes.get_ylabel() == "accuracy on queries"


def test_bars_stand_in_the_nets_order_from_the_top() -> None:
    layers = {"first": torch.tensor([1.1, 1.9]), "second": torch.zeros(2), "last": torch.full((2,), torch.inf)}
    (axes,) = drawing.movement(layers, 3).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second", "last"]
    assert axes.yaxis_inverted()
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1.5, 0.0, 0.0])
    assert texts(axes.figure) == ["150 %", "0 %", "from zero"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
def test_figures_that_are_not_finite_are_drawn_without_a_complaint(value: float) -> None:
    with warnings.catch_warnings(action="error"):
        for figure in (
            drawing.fit(function_task(), torch.full((4, 9, 1), value)),
            drawing.curve(per_step(torch.full((8, 4), value)), "mse", 8),
            drawing.movement({"a layer of a long name." * 5: torch.full((8,), value)}, 3),
        ):
            assert drawing.pixels(figure).std() > 0


def test_no_figure_outlives_its_caller() -> None:
    figure = drawing.movement({"layer": torch.ones(2)}, 1)
    image, watched = drawing.pixels(figure), weakref.ref(figure)
    assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    del figure
    gc.collect()
    assert watched() is None
    assert Gcf.get_all_fig_managers() == []
