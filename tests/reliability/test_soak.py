"""Long runs do not grow: minutes, so behind the mark ``slow``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from meta_lightning.algorithms import MAMLModule
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.nets import MLP

PAGES = Path("/proc/self/statm")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PAGES.exists(), reason="this system does not tell its memory")]


class Memory(Callback):
    """Resident memory, in pages, at every hundredth batch."""

    def __init__(self) -> None:
        self.pages: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, number: int) -> None:
        self._note(number)

    def on_test_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, number: int) -> None:
        self._note(number)

    def _note(self, number: int) -> None:
        if number % 100 == 99:
            self.pages.append(int(PAGES.read_text().split()[1]))

    def growth(self) -> float:
        """From the end of a tenth of the run, the warm-up, to its end."""
        return self.pages[-1] / self.pages[len(self.pages) // 10] - 1


def trainer(memory: Memory, steps: int) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=500, logger=True,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[memory],
        default_root_dir=Path.cwd(),
    )  # fmt: skip


def model() -> MAMLModule:
    torch.manual_seed(0)
    return MAMLModule(MLP(1, 1, [40, 40]), inner_lr=0.01, inner_steps=1, eval_inner_steps=10)


def test_twenty_thousand_meta_steps_with_validations() -> None:
    memory = Memory()
    data = EpisodicDataModule(Sinusoid(), shots=10, queries=10, meta_batch_size=25, val_tasks=200, eval_batch_size=100)
    trainer(memory, 20_000).fit(model(), datamodule=data)
    print(f"growth {memory.growth():.2%}")
    assert len(memory.pages) == 200
    assert memory.growth() < 0.02


def test_two_thousand_evaluation_batches() -> None:
    memory = Memory()
    data = EpisodicDataModule(Sinusoid(), shots=10, queries=10, eval_batch_size=25, test_tasks=50_000)
    trainer(memory, 1).test(model(), datamodule=data, verbose=False)
    print(f"growth {memory.growth():.2%}")
    assert len(memory.pages) == 20
    assert memory.growth() < 0.02
