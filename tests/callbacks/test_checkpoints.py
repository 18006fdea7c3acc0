import pytest

from meta_lightning.callbacks import Checkpoints


@pytest.mark.parametrize(
    ("monitor", "given", "used"),
    [
        ("val/loss", None, "min"),
        ("val/accuracy", None, "max"),
        ("val/mse", None, "min"),
        ("val/accuracy", "min", "min"),
    ],
)
def test_more_accuracy_is_better_unless_said_otherwise(monitor: str, given: str | None, used: str) -> None:
    assert Checkpoints(monitor, given).mode == used
