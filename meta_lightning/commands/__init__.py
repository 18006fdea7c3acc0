"""Commands that are not Lightning's: one file each."""

from meta_lightning.commands.compare import compare
from meta_lightning.commands.episodes import write_episodes
from meta_lightning.commands.trainer import MetaTrainer

__all__ = ["MetaTrainer", "compare", "write_episodes"]
