"""A kind of task as one value."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.regression import mean_squared_error

from meta_lightning.callbacks import Checkpoints
from meta_lightning.errors import ConfigError
from meta_lightning.functional.task_kind import (
    CLASSIFICATION,
    KINDS,
    REGRESSION,
    direction,
    kind_of,
    kind_with_metric,
    resolve_loss,
)


def test_targets_tell_the_kind() -> None:
    assert kind_of(torch.tensor([1, 0])) is CLASSIFICATION
    assert kind_of(torch.tensor([[1.0], [0.5]])) is REGRESSION
    assert [kind_with_metric(kind.metric) for kind in KINDS] == [*KINDS]


def test_accuracy_is_that_of_torchmetrics() -> None:
    scores, labels = torch.randn(3, 40, 5), torch.randint(5, (40,))
    expected = [multiclass_accuracy(one, labels, num_classes=5, average="micro") for one in scores]
    torch.testing.assert_close(CLASSIFICATION.measure(scores, labels), torch.stack(expected))


@pytest.mark.parametrize("width", [1, 3])
def test_mean_squared_error_is_that_of_torchmetrics(width: int) -> None:
    values, targets = torch.randn(2, 30, width), torch.randn(30, width)
    expected = [mean_squared_error(one.flatten(), targets.flatten()) for one in values]
    torch.testing.assert_close(REGRESSION.measure(values, targets), torch.stack(expected))


def test_certainty_is_the_probability_of_the_answer() -> None:
    scores, labels = torch.tensor([[0.0, 3.0], [2.0, 0.0], [0.0, 0.0]]), torch.tensor([1, 1, 0])
    certainty = CLASSIFICATION.certainty(scores, labels)
    torch.testing.assert_close(certainty["confidence"], torch.sigmoid(torch.tensor([3.0, 2.0, 0.0])))
    assert certainty["correct"].tolist() == [1.0, 0.0, 1.0]
    assert REGRESSION.certainty(scores, scores) == {}


@pytest.mark.parametrize(
    ("kind", "predictions", "targets", "expected"),
    [
        (CLASSIFICATION, torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), None),
        (CLASSIFICATION, torch.zeros(4, 3), torch.tensor([0, 1, 3, 0]), "[4, classes]"),
        (CLASSIFICATION, torch.zeros(4), torch.tensor([0, 1, 2, 0]), "[4, classes]"),
        (CLASSIFICATION, torch.zeros(4, 3, dtype=torch.int64), torch.tensor([0, 1, 2, 0]), "[4, classes]"),
        (REGRESSION, torch.zeros(4, 1), torch.zeros(4, 1), None),
        (REGRESSION, torch.zeros(4), torch.zeros(4, 1), "[4, 1]"),
    ],
)
def test_predictions_that_do_not_fit_are_told(kind, predictions, targets, expected) -> None:
    assert kind.output_problem(predictions, targets) == expected


def test_the_loss_is_the_kinds_own_or_the_one_named() -> None:
    scores, labels = torch.randn(6, 3), torch.randint(3, (6,))
    assert torch.equal(resolve_loss("auto", CLASSIFICATION)(scores, labels), F.cross_entropy(scores, labels))
    assert torch.equal(resolve_loss("auto", REGRESSION)(scores, scores + 1), F.mse_loss(scores, scores + 1))
    assert resolve_loss("mse", CLASSIFICATION) is F.mse_loss
    own = torch.nn.HuberLoss()
    assert resolve_loss(own, REGRESSION) is own


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/accuracy", "max"), ("val/accuracy_before", "max"), ("val/loss", "min"), ("val/mse", "min")],
)
def test_a_checkpoint_knows_which_way_is_better(monitor: str, mode: str) -> None:
    assert direction(monitor) == mode
    assert Checkpoints(monitor).mode == mode
    assert Checkpoints(monitor, mode="min").mode == "min"


@pytest.mark.parametrize("monitor", ["val/f1", "val/inaccuracy", "val/accuracy_gap", "val/closs"])
def test_the_direction_of_any_other_value_must_be_said(monitor: str) -> None:
    assert direction(monitor) is None
    Checkpoints(monitor, mode="max").check_direction()
    with pytest.raises(ConfigError, match=f"whether less or more of {monitor} is better is not known; set checkpoint"):
        Checkpoints(monitor).check_direction()


def test_figures_are_read_in_their_unit() -> None:
    assert CLASSIFICATION.text(0.98765) == "98.77%"
    assert REGRESSION.text(0.98765) == "0.988"
