"""Ends training between two meta-steps on SIGTERM or Ctrl-C."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.console import notify
from meta_lightning.engine.distributed import STOP_SIGNALS
from meta_lightning.engine.trainer_parts import callbacks_of
from meta_lightning.runs.changes import command_line
from meta_lightning.runs.folders import CONFIG, folder_of

_REACTION_S = 1.0  # the time that the main thread has to react to a second signal
_installed: list["GracefulStop"] = []  # the one whose handlers are installed; another one takes its place


class GracefulStop(Callback):
    """Saves ``last.ckpt`` on SIGTERM or Ctrl-C after the current meta-step, and exits with code 143 or 130.

    If a validation is due at this meta-step, it runs before the exit; the checkpoint is saved before and after it.

    During training the handler only records the signal. The processes agree on it in the collective that each meta-step
    runs anyway and then end together, so no process waits for another, and no update is interrupted. A second Ctrl-C
    ends the process at once, and a second signal of either kind ends it within two seconds if it hangs. Outside of
    training there is nothing to save, and the process exits at once.

    These handlers replace Lightning's from the first batch of a stage to its end, including the final checkpoint.
    Lightning's handlers communicate with the other processes inside the handler, and exit with code 0.

    Example:
        >>> from meta_lightning.callbacks import Checkpoints
        >>> trainer = Trainer(callbacks=[GracefulStop(), Checkpoints()], logger=False)
        >>> any(isinstance(callback, GracefulStop) for callback in trainer.callbacks)
        True
    """

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._ours: dict[int, Any] = {}
        self._told = False
        self._in_training = False

    def _install(self, module: LightningModule) -> None:
        assert isinstance(module, MetaModule)
        if self._former:
            return
        if threading.current_thread() is not threading.main_thread():
            if not self._told:
                notify("Note: signals are not handled here, because the run is not in the main thread")
            self._told = True
            return

        def note(number: int, frame: Any) -> None:
            self._watch.handled += 1
            if not self._in_training:
                raise SystemExit(128 + number)
            module.stop_requested = number
            # The system's own handler ends even a process that waits inside a kernel, so a second Ctrl-C always works.
            self._handle(signal.SIGINT, signal.SIG_DFL)

        # A run that was stopped keeps its handlers, because the process is about to exit. A notebook goes on instead.
        for earlier in tuple(_installed):
            earlier._restore()
        _installed.append(self)
        self._watch = _Watch(note)
        self._former = {number: self._handle(number, note) for number in STOP_SIGNALS}

    def _handle(self, number: int, handler: Any) -> Any:
        self._ours[number] = handler
        return signal.signal(number, handler)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's signal handlers."""
        self._install(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's signal handlers."""
        self._install(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's signal handlers."""
        self._install(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets earlier requests, and installs the handlers for training."""
        assert isinstance(pl_module, MetaModule)
        pl_module.stop_requested = pl_module.stop_agreed = 0
        self._in_training = True
        self._install(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Ignores further signals while `Checkpoints`, which come after all other callbacks, save."""
        assert isinstance(pl_module, MetaModule)
        if pl_module.stop_agreed:
            # A launcher may send SIGTERM to all processes when the first one ends, while others still save.
            self._handle(signal.SIGTERM, signal.SIG_IGN)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Exits before the next meta-step, after any validation that was due."""
        assert isinstance(pl_module, MetaModule)
        number = pl_module.stop_agreed
        if not number:
            return
        trainer.strategy.barrier()
        folder = folder_of(trainer)
        saved = [Path(f"{callback.dirpath}/last.ckpt") for callback in _checkpoints(trainer)]
        resume = ""
        if saved and (folder / CONFIG).is_file():
            resume = f" Resume: python -m meta_lightning fit {command_line(folder, saved[0])}"
        elif saved:  # started from Python
            resume = f' Resume: trainer.fit(module, datamodule=data, ckpt_path="{saved[0]}")'
        notify(f"\nStopped by {signal.Signals(number).name} after meta-step {trainer.global_step}.{resume}")
        raise SystemExit(128 + number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the former signal handlers, unless Lightning has done so."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the former signal handlers, unless the process is about to exit."""
        if not isinstance(exception, SystemExit):
            self._restore()

    def _restore(self) -> None:
        self._in_training = False
        if self not in _installed:
            return
        _installed.remove(self)
        self._watch.close()
        for number, handler in self._former.items():
            if signal.getsignal(number) == self._ours[number]:
                signal.signal(number, handler)
        self._former = {}


class _Watch:
    """Ends the process if it does not react to a second signal.

    Python runs a signal handler only when the main thread is back from a call into a library. A process that waits for
    another one in a collective never is. Python itself writes the signal's number to a file at once, and a thread reads
    it from there.

    Args:
        handler: The handler whose reaction is awaited. Signals that another one handles are not this one's business.

    Attributes:
        handled: The number of signals that the main thread has reacted to.
    """

    def __init__(self, handler: Any) -> None:
        self.handled = 0
        self._handler = handler
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        received = 0
        while numbers := os.read(self._read, 64):
            if self._former >= 0:  # another library, such as an event loop, waits for signals too
                with suppress(OSError):
                    os.write(self._former, numbers)
            for number in numbers:
                received += number in STOP_SIGNALS
                if number in STOP_SIGNALS and received > 1:
                    time.sleep(_REACTION_S)
                    if self.handled < received and signal.getsignal(number) is self._handler:
                        os._exit(128 + number)
        os.close(self._read)

    def close(self) -> None:
        """Ends the thread."""
        signal.set_wakeup_fd(self._former)
        os.close(self._write)


def _forget_watch() -> None:
    """Keeps the signals of a forked process, such as a worker that loads data, from being taken for this one's."""
    if _installed:
        with suppress(ValueError):  # forked by another thread
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watch)


def _checkpoints(trainer: Trainer) -> list[Checkpoints]:
    callbacks = callbacks_of(trainer)
    return [callback for callback in callbacks if isinstance(callback, Checkpoints)]
