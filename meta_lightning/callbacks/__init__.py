"""What happens around training and evaluation."""

from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.callbacks.figures import Figures
from meta_lightning.callbacks.graceful_stop import GracefulStop
from meta_lightning.callbacks.hyper_parameters import HyperParameters
from meta_lightning.callbacks.leak_guard import LeakGuard
from meta_lightning.callbacks.progress import MetaStepProgress
from meta_lightning.callbacks.report import TestReport
from meta_lightning.callbacks.throughput import Throughput

__all__ = [
    "Checkpoints",
    "Figures",
    "GracefulStop",
    "HyperParameters",
    "LeakGuard",
    "MetaStepProgress",
    "TestReport",
    "Throughput",
]
