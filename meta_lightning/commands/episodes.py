"""The command ``episodes``, which writes the evaluation episodes to a file."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer

from meta_lightning.console import notify
from meta_lightning.data import EpisodicDataModule
from meta_lightning.data.manifest import write_manifest
from meta_lightning.files import check_writable


def write_episodes(
    trainer: Trainer,
    model: LightningModule,
    datamodule: EpisodicDataModule,
    split: Literal["val", "test"] = "test",
    output: Path = Path("episodes.json"),
) -> None:
    """Writes the classes and examples of each evaluation episode to a file.

    ``data.episodes: FILE`` replays the episodes. Other frameworks can read the file as well.

    Args:
        trainer: Not used.
        model: Not used.
        datamodule: The data that the episodes are drawn from.
        split: The split whose episodes are written.
        output: The JSON file to write.
    """
    check_writable([output])
    datamodule.prepare_data()
    datamodule.setup("validate" if split == "val" else "test")
    manifest = datamodule.manifest(split)
    fingerprint = write_manifest(manifest, output)
    notify(f"{len(manifest.episodes)} {split} episodes with hash {fingerprint}: {output}")
