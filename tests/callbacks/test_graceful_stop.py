"""What the watch over signals leaves alone; `tests/reliability` holds what it does in real runs."""

import os
import signal

import pytest

from meta_lightning.algorithms import MAMLModule
from meta_lightning.callbacks import GracefulStop
from meta_lightning.nets import MLP


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_signals_of_a_forked_process_are_its_own() -> None:
    stop = GracefulStop()
    stop._install(MAMLModule(MLP(1, 1, [4])))
    try:
        if (child := os.fork()) == 0:
            os._exit(signal.set_wakeup_fd(-1) + 1)  # 0 if nothing was watched
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop._restore()
    assert signal.set_wakeup_fd(-1) == -1, "what a stop installed is taken back"
