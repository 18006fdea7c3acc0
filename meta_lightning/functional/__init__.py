"""Meta-learning as pure functions of parameters and tasks. They need no Lightning."""

from meta_lightning.functional.adapt import adapt, ends, last
from meta_lightning.functional.losses import GaussianLikelihood
from meta_lightning.functional.rules import adam, sgd
from meta_lightning.functional.tasks import Backend, map_tasks, mean_gradient

__all__ = ["Backend", "GaussianLikelihood", "adam", "adapt", "ends", "last", "map_tasks", "mean_gradient", "sgd"]
