"""Ends training between meta-steps when the system or the person at the keyboard asks for it."""

import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.reduce import STOPS
from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.runs import say


class GracefulStop(Callback):
    """On SIGTERM or Ctrl-C, saves ``last.ckpt`` at the end of the meta-step at hand and exits with 143 or 130.

    A validation that is due at this meta-step is made first, with the checkpoint saved before and after it.

    The signal is only noted where it arrives. The processes agree on it in the meta-step's own collective and end
    together, so none waits for another, and no update is cut in half. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the place of Lightning's handlers, which may leave processes waiting for each other."""
        assert isinstance(pl_module, MetaModule)

        def note(number: int, frame: Any) -> None:
            pl_module.stop_requested = number
            # From now on the system acts on its own: even a process that waits in a kernel ends on a second Ctrl-C.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self._former = {number: signal.signal(number, note) for number in STOPS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Saves once all processes know of a signal."""
        assert isinstance(pl_module, MetaModule)
        if not pl_module.stop_agreed:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what watches over the processes may send it to the others
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connectors
            if isinstance(callback, Checkpoints):
                callback.save_now(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Ends here, before the next meta-step: a validation that was due has then been made."""
        assert isinstance(pl_module, MetaModule)
        number = pl_module.stop_agreed
        if not number:
            return
        trainer.strategy.barrier()
        run = trainer.log_dir
        say(
            f"\nStopped by {signal.Signals(number).name} after meta-step {trainer.global_step}. Go on: python -m "
            f"meta_lightning fit --config {run}/config.yaml --ckpt_path {run}/checkpoints/last.ckpt"
        )
        raise SystemExit(128 + number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back, unless the process is on its way out."""
        if not isinstance(exception, SystemExit):
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
