"""What Lightning prints in every run that no reader needs."""

import logging
import re
import warnings

# Lines about other products, devices that are not there, and what this package says itself.
_LINES = re.compile(
    r"💡|(GPU|TPU|HPU) available: False|Restor(ing|ed) .*states|Loaded model weights|`Trainer\.fit` stopped: `max_steps"
)
_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")

# Warnings about calls inside Lightning, which users can't act on.
_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Checkpoint directory .* exists and is not empty",  # as expected when a run is resumed
    r".*no pre-optimization state was saved",  # as expected: the save follows the meta-step
)


def is_needed(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's is shown."""
    return not _LINES.search(record.getMessage())


def hide_lines() -> None:
    """Hides lines from now on, in every run of the process. A second call changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(is_needed)


def hide_warnings() -> None:
    """Hides warnings as long as the filters of `warnings` stay as they are."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
