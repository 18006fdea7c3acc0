"""Pictures kept on the device: here the device `meta`, which has shapes and no values, stands for a GPU."""

import pytest
import torch

from meta_lightning import EpisodeShape, EpisodicDataModule, MAMLModule
from meta_lightning.data.sources import LabelledImages
from meta_lightning.errors import ConfigError

from ..algorithms.problems import FACES
from ..algorithms.test_conformance import trainer


@pytest.mark.parametrize("rotations", ["none", "per_task", "as_classes"])
def test_meta_batches_are_cut_where_the_pictures_are(rotations: str) -> None:
    table = LabelledImages(torch.zeros(6, 5, 1, 4, 4, dtype=torch.uint8), list("abcdef"), rotations=rotations)
    table.to(torch.device("meta"))
    task = table.draw(torch.arange(3), EpisodeShape(2, 1, 2))
    assert task.support.x.device.type == task.query.x.device.type == "meta"
    assert task.support.x.shape == (3, 2, 1, 4, 4)
    assert task.query.x.dtype == torch.uint8


def test_a_run_asks_for_the_device_of_its_trainer_and_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    move = LabelledImages.to
    monkeypatch.setattr(LabelledImages, "to", lambda self, device: (asked.append(device), move(self, device)))
    ends = []
    for cached in (True, False):
        torch.manual_seed(0)
        module = MAMLModule(FACES.net())
        data = EpisodicDataModule(
            FACES.source, ways=3, shots=2, queries=2, meta_batch_size=4, val_tasks=4, device_cache=cached
        )
        trainer(4).fit(module, datamodule=data)
        ends.append(module.state_dict())
    assert set(asked) == {torch.device("cpu")}
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_worker_processes_can_not_cut_from_a_device() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.num_workers is 1, but worker processes can't read a device cache; set"
    ):
        EpisodicDataModule(FACES.source, device_cache=True, num_workers=1)
