"""Meta-learning as pure functions of parameters and tasks: usable without Lightning."""

from meta_lightning.functional.adapt import adapt
from meta_lightning.functional.rules import sgd
from meta_lightning.functional.tasks import Backend, map_tasks, mean_gradient

__all__ = ["Backend", "adapt", "map_tasks", "mean_gradient", "sgd"]
