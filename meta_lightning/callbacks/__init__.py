"""Lightning callbacks for checkpoints, plots, reports, progress and clean stops."""

from meta_lightning.callbacks.adaptation_plots import AdaptationPlots
from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.callbacks.graceful_stop import GracefulStop
from meta_lightning.callbacks.hyper_parameters import HyperParameters
from meta_lightning.callbacks.leak_guard import LeakGuard
from meta_lightning.callbacks.net_summary import NetSummary
from meta_lightning.callbacks.progress import MetaStepProgress
from meta_lightning.callbacks.run_logs import RunLogs
from meta_lightning.callbacks.test_report import TestReport
from meta_lightning.callbacks.throughput import Throughput

__all__ = [
    "AdaptationPlots",
    "Checkpoints",
    "GracefulStop",
    "HyperParameters",
    "LeakGuard",
    "MetaStepProgress",
    "NetSummary",
    "RunLogs",
    "TestReport",
    "Throughput",
]
