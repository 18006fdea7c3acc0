"""What happens around training and evaluation."""

from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.callbacks.graceful_stop import GracefulStop
from meta_lightning.callbacks.leak_guard import LeakGuard
from meta_lightning.callbacks.progress import MetaStepProgress
from meta_lightning.callbacks.report import TestReport

__all__ = ["Checkpoints", "GracefulStop", "LeakGuard", "MetaStepProgress", "TestReport"]
