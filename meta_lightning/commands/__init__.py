"""Commands that are not Lightning's: one file each."""

from meta_lightning.commands.compare import compare
from meta_lightning.commands.episodes import write_episodes

__all__ = ["compare", "write_episodes"]
