"""Writes the evaluation episodes of a config down."""

from pathlib import Path
from typing import Literal

from meta_lightning.data import EpisodicDataModule
from meta_lightning.data.manifest import write_manifest
from meta_lightning.runs import say


def write_episodes(data: EpisodicDataModule, split: Literal["val", "test"], output: Path) -> None:
    """Writes a manifest: for each episode the names of its classes and the numbers of its examples.

    ``data.episodes: FILE`` replays it, with this framework or any other.

    Args:
        data: The episodes.
        split: Which of them.
        output: The JSON file.
    """
    data.prepare_data()
    data.setup("validate" if split == "val" else "test")
    manifest = data.written_down(split)
    fingerprint = write_manifest(manifest, output)
    say(f"{len(manifest.episodes)} {split} episodes with hash {fingerprint}: {output}")
