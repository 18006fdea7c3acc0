"""A callback that tells a test when an evaluation is under way."""

from typing import Any

from lightning.pytorch import Callback


class Telling(Callback):
    """Prints a line for each batch."""

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        print("evaluating", flush=True)

    on_test_batch_end = on_validation_batch_end
