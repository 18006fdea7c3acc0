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

    In training the signal is only noted where it arrives. The processes agree on it in the meta-step's own collective
    and end together, so none waits for another, and no update is cut in half. A second Ctrl-C ends the process at once.
    Outside of training there is nothing to save, and the process exits where it stands.

    Lightning's own handlers talk to the other processes from inside of the handler, and exit with 0: ours take their
    place from the first batch of any stage to the end of it, the final checkpoint included.
    """

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._note: Any = None
        self._in_training = False

    def _install(self, module: LightningModule) -> None:
        assert isinstance(module, MetaModule)
        if self._former:
            return

        def note(number: int, frame: Any) -> None:
            if not self._in_training:
                raise SystemExit(128 + number)
            module.stop_requested = number
            # From now on the system acts on its own: even a process that waits in a kernel ends on a second Ctrl-C.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self._note = note
        self._former = {number: signal.signal(number, note) for number in STOPS}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the place of Lightning's handlers."""
        self._install(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the place of Lightning's handlers."""
        self._install(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the place of Lightning's handlers."""
        self._install(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        assert isinstance(pl_module, MetaModule)
        pl_module.stop_requested = pl_module.stop_agreed = 0
        self._in_training = True
        self._install(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Saves once all processes know of a signal."""
        assert isinstance(pl_module, MetaModule)
        if not pl_module.stop_agreed:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what watches over the processes may send it to the others
        for callback in _checkpoints(trainer):
            callback.save_now(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Ends here, before the next meta-step: a validation that was due has then been made."""
        assert isinstance(pl_module, MetaModule)
        number = pl_module.stop_agreed
        if not number:
            return
        trainer.strategy.barrier()
        saved = [f"{callback.dirpath}/last.ckpt" for callback in _checkpoints(trainer)]
        config = f" --config {trainer.log_dir}/config.yaml" if trainer.log_dir else ""
        go_on = f" Go on: python -m meta_lightning fit{config} --ckpt_path {saved[0]}" if saved else ""
        say(f"\nStopped by {signal.Signals(number).name} after meta-step {trainer.global_step}.{go_on}")
        raise SystemExit(128 + number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back, unless Lightning has done so."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back, unless the process is on its way out."""
        if not isinstance(exception, SystemExit):
            self._restore()

    def _restore(self) -> None:
        self._in_training = False
        for number, handler in self._former.items():
            if signal.getsignal(number) is self._note:
                signal.signal(number, handler)
        self._former = {}


def _checkpoints(trainer: Trainer) -> list[Checkpoints]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connectors
    return [callback for callback in callbacks if isinstance(callback, Checkpoints)]
