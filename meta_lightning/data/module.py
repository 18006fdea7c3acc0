"""The `LightningDataModule` that serves meta-batches."""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from meta_lightning.data.episodes import MetaBatches, ResumingSampler, check_episodes, describe, draw, replay
from meta_lightning.data.manifest import Manifest, check_manifest, episode_hash, read_manifest
from meta_lightning.data.separation import check_separation
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.errors import ConfigError
from meta_lightning.files import one_at_a_time
from meta_lightning.functional.inputs import summaries
from meta_lightning.types import SPLITS, EpisodeShape, Examples, Inputs, Split, Task

# The length of an epoch, in meta-steps, if ``max_steps`` does not limit training.
_UNLIMITED_STEPS = 10**9

# More workers per CPU would only wait for each other; thousands of them stop the machine.
_WORKERS_PER_CPU = 4

# The training tasks whose inputs are summarised.
_SUMMARISED = 8

_OF_A_FAMILY = ("check", "draw", "describe", "rebuild", "to", "preprocess")

# The splits that each of Lightning's stages uses, its main split first.
_SPLITS_BY_STAGE: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class _Loader(DataLoader[Task]):
    """Serves whole meta-batches. The trainer's step count gives the position, so the loader keeps no state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class EpisodicDataModule(LightningDataModule):
    """Serves meta-batches of episodes. Each episode is a pure function of ``(seed, split, index)``.

    Args:
        source: The source of tasks.
        shots: Support examples of an evaluation episode, per class if there are classes.
        queries: Query examples of an evaluation episode, per class if there are classes.
        ways: Classes of an evaluation episode; null for regression.
        train_ways: Classes of a training episode; null for ``ways``.
        train_shots: Support examples of a training episode; null for ``shots``.
        train_queries: Query examples of a training episode; null for ``queries``.
        meta_batch_size: Tasks per meta-step, over all processes.
        eval_batch_size: Tasks evaluated at once, over all processes; null for ``meta_batch_size``.
        val_tasks: Validation episodes. Every validation uses the same ones.
        test_tasks: Test episodes. Every test uses the same ones.
        seed: Seed of the training episodes; null for ``seed_everything`` on the command line, for 0 in Python.
        eval_seed: Seed of the validation and test episodes. It does not depend on ``seed``, so models trained with
            different seeds are evaluated on the same episodes.
        num_workers: Processes that make meta-batches ahead of time, at most four per CPU.
        device_cache: Keep the examples on the training device and assemble meta-batches there, so that no meta-batch
            has to be copied to it.
        episodes: A manifest that the command ``episodes`` wrote. Its validation or test episodes are replayed, and
            ``eval_seed`` has no effect on them.

    Raises:
        ConfigError: If a count is below 1, a seed is negative, there are too many workers for this machine,
            ``device_cache`` is combined with workers, or the source is a class.

    Example:
        >>> from meta_lightning.data import Sinusoid
        >>> data = EpisodicDataModule(Sinusoid(), shots=5, queries=10)
        >>> task = data.draw("train", torch.arange(4))  # the first four training episodes
        >>> task.support.x.shape, task.query.y.shape
        (torch.Size([4, 5, 1]), torch.Size([4, 10, 1]))
    """

    recipe: dict[str, Any] | None = None
    """How the command line built this object; None if it was built in Python."""

    def __init__(
        self,
        source: Source,
        shots: int = 1,
        queries: int = 15,
        ways: int | None = None,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        meta_batch_size: int = 4,
        eval_batch_size: int | None = None,
        val_tasks: int = 200,
        test_tasks: int = 600,
        seed: int | None = None,
        eval_seed: int = 0,
        num_workers: int = 0,
        device_cache: bool = False,
        episodes: Path | None = None,
    ) -> None:
        super().__init__()
        counts = {"ways": ways, "shots": shots, "queries": queries, "train_ways": train_ways}
        counts |= {"train_shots": train_shots, "train_queries": train_queries, "meta_batch_size": meta_batch_size}
        counts |= {"eval_batch_size": eval_batch_size, "val_tasks": val_tasks, "test_tasks": test_tasks}
        for key, value in counts.items():
            if value is not None and not 1 <= value < 2**31:
                expected = "1 or more" if value < 1 else f"at most {2**31 - 1}"
                raise ConfigError(f"data.{key} is {value}; expected {expected}")
        for key, value in {"seed": seed, "eval_seed": eval_seed, "num_workers": num_workers}.items():
            if value is not None and not 0 <= value < 2**32:
                expected = "0 or more" if value < 0 else f"at most {2**32 - 1}"
                raise ConfigError(f"data.{key} is {value}; expected {expected}")
        if device_cache and num_workers:
            raise ConfigError(
                f"data.num_workers is {num_workers}, but worker processes can't read a device cache; "
                "set data.num_workers to 0 or data.device_cache to false"
            )
        max_workers = _WORKERS_PER_CPU * (os.cpu_count() or 1)
        if num_workers > max_workers:
            raise ConfigError(
                f"data.num_workers is {num_workers}; expected at most {max_workers} here, {_WORKERS_PER_CPU} per CPU"
            )
        if isinstance(source, type):
            raise ConfigError(f"data.source is the class {source.__name__}; expected an object: {source.__name__}(...)")
        self.source = source
        self.eval_shape = EpisodeShape(ways, shots, queries)
        train_keys = {"ways": train_ways, "shots": train_shots, "queries": train_queries}
        self._train_keys = [key for key, value in train_keys.items() if value is not None]
        self.train_shape = EpisodeShape(train_ways or ways, train_shots or shots, train_queries or queries)
        self.meta_batch_size = meta_batch_size
        self.eval_batch_size = eval_batch_size or meta_batch_size
        self.val_tasks = val_tasks
        self.test_tasks = test_tasks
        self.seed = seed or 0
        self.eval_seed = eval_seed
        self.num_workers = num_workers
        self._device_cache = device_cache
        self._families: dict[Split, Family] = {}
        self._episodes = episodes
        self._manifest_checked = False
        self._splits_compared = False

    def prepare_data(self) -> None:
        """Fetches and caches the source's data, once per machine. Later processes use what the first one cached."""
        # The command line calls this in every process, before there is a process group that could wait for the first.
        with one_at_a_time(type(self.source).__name__):
            self.source.prepare()

    def setup(self, stage: str) -> None:
        """Loads the splits of a stage, checks that their episodes can be drawn, and compares the source's splits.

        Args:
            stage: ``fit``, ``validate`` or ``test``.

        Raises:
            ConfigError: If an episode needs more classes or examples than the data has, if a manifest does not fit the
                settings, or if splits share a class or an example.
        """
        for split in _SPLITS_BY_STAGE.get(stage, ()):
            self._check_shape(split)
            self._manifest_of(split)
        if not self._splits_compared:
            seeds = {split: self._seed(split) for split in SPLITS}
            check_separation(self.source, self._families, seeds, {split: self._shape(split) for split in SPLITS})
            self._splits_compared = True

    def _check_shape(self, split: Split) -> None:
        try:
            self._family(split).check(self._shape(split))
        except ConfigError as error:
            if split != "train":
                raise
            # A family knows the shape, but not which keys set it.
            message = re.sub(rf"\bdata\.({'|'.join(self._train_keys) or '(?!)'})\b", r"data.train_\1", str(error))
            raise ConfigError(message) from error

    @cached_property
    def _manifest(self) -> Manifest | None:
        """The episodes to replay. The file is read on first use."""
        return None if self._episodes is None else read_manifest(self._episodes)

    @cached_property
    def _manifest_hash(self) -> str:
        assert self._manifest is not None
        return episode_hash(self._manifest.shape, self._manifest.episodes)

    def _manifest_of(self, split: Split) -> Manifest | None:
        """The checked manifest of a split's episodes; None if they are drawn."""
        if self._manifest is None or self._manifest.split != split:
            return None
        if not self._manifest_checked:
            tasks = self.val_tasks if split == "val" else self.test_tasks
            check_manifest(self._manifest, self.source.fingerprint(), self._shape(split), tasks)
            check_episodes(self._manifest, self._family(split))
            self._manifest_checked = True
        return self._manifest

    @property
    def replayed(self) -> Split | None:
        """The split whose episodes come from a manifest; None without a manifest."""
        return self._manifest.split if self._manifest else None

    def check_shares(self, stage: str, processes: int) -> None:
        """Checks that the processes can share the tasks equally.

        The mean of the processes' means is the mean over all tasks only if every process has equally many.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
            processes: The number of processes.

        Raises:
            ConfigError: If a number of tasks is not a multiple of ``processes``.
        """
        shared = {"meta_batch_size": self.meta_batch_size} if stage == "fit" else {}
        shared |= {"test_tasks": self.test_tasks} if stage == "test" else {"val_tasks": self.val_tasks}
        shared |= {"eval_batch_size": self.eval_batch_size}
        for key, tasks in shared.items():
            if tasks % processes:
                raise ConfigError(
                    f"data.{key} is {tasks}, which {processes} processes can't share equally; choose a multiple of "
                    f"{processes}"
                )

    def sample(self, stage: str) -> Task:
        """The first task of a stage as a meta-batch of one task, preprocessed for a net."""
        return self.on_after_batch_transfer(self.draw(_SPLITS_BY_STAGE[stage][0], torch.arange(1)), 0)

    def preview(self, stage: str) -> Task:
        """`sample` before `setup`: prepares the data, but neither compares splits nor says what is left out of them.

        Raises:
            ConfigError: If the data can't be read, or the episodes can't be drawn.
        """
        self.prepare_data()
        with redirect_stdout(io.StringIO()):
            self._check_shape(_SPLITS_BY_STAGE[stage][0])
        return self.sample(stage)

    def small_sample(self, tasks: int) -> Task:
        """A meta-batch for checks: training tasks with as few examples as batch norm can do with, ready for a net."""
        ways, shots, queries = self.train_shape
        few = max(2, -(-10 // (ways or 1)))
        shape = EpisodeShape(ways, min(shots, few), min(queries, few))
        return self.on_after_batch_transfer(
            draw(self._family("train"), self.seed, "train", shape, torch.arange(tasks)), 0
        )

    @cached_property
    def input_summaries(self) -> dict[str, dict[str, Any]]:
        """What the inputs of some training tasks look like to a net; checkpoints keep it, to compare new inputs."""
        task = self.small_sample(_SUMMARISED)
        x: Inputs = tree_map(lambda tensor: tensor.flatten(0, 1), task.support.x)
        return {name: summary._asdict() for name, summary in summaries(x).items()}

    def episode_hash(self, split: Split, tasks: int | None = None) -> str:
        """The hash of a split's first ``tasks`` evaluation episodes, by default of all; see `manifest.episode_hash`."""
        return episode_hash(self._shape(split), self._descriptions(split, tasks))

    def manifest(self, split: Split) -> Manifest:
        """The description of a split's evaluation episodes."""
        manifest = self._manifest_of(split)
        seed = manifest.seed if manifest else self.eval_seed
        return Manifest(self.source.fingerprint(), split, seed, self._shape(split), [*self._descriptions(split)])

    def _descriptions(self, split: Split, tasks: int | None = None) -> Iterator[Any]:
        tasks = tasks or {"val": self.val_tasks, "test": self.test_tasks}[split]
        if manifest := self._manifest_of(split):
            yield from manifest.episodes[:tasks]
        else:
            yield from describe(self._family(split), self.eval_seed, split, self._shape(split), tasks)

    def train_dataloader(self) -> DataLoader[Task]:
        """The training episodes. Meta-step ``s`` takes meta-batch ``s``."""
        trainer = self.trainer
        assert trainer is not None
        self.check_shares("fit", trainer.world_size)
        self.cache_on_device("train", trainer.strategy.root_device)
        batches = MetaBatches(self._draws("train"), self.meta_batch_size, trainer.global_rank, trainer.world_size)
        length = trainer.max_steps if trainer.max_steps > 0 else _UNLIMITED_STEPS
        return self._loader(batches, ResumingSampler(length, lambda: trainer.global_step))

    def val_dataloader(self) -> DataLoader[Task]:
        """The ``val_tasks`` validation episodes."""
        return self._evaluation_loader("val", self.val_tasks)

    def test_dataloader(self) -> DataLoader[Task]:
        """The ``test_tasks`` test episodes."""
        return self._evaluation_loader("test", self.test_tasks)

    def transfer_batch_to_device(self, batch: Task, device: torch.device, dataloader_idx: int) -> Task:
        """Moves a batch to a device."""
        # Lightning's traversal of a batch that is already there takes longer than the arithmetic of an outer step.
        if batch.index.device == device:
            return batch
        moved: Task = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: Task, dataloader_idx: int) -> Task:
        """Preprocesses the inputs on the device, since stored inputs, such as pictures in bytes, are less to copy."""
        preprocess = next(iter(self._families.values())).preprocess

        def preprocessed(examples: Examples) -> Examples:
            return Examples(preprocess(examples.x), examples.y)

        batch = batch._replace(support=preprocessed(batch.support), query=preprocessed(batch.query))
        # Lightning converts a batch to the precision of the run before this hook.
        return self.trainer.precision_plugin.convert_input(batch) if self.trainer else batch

    def cache_on_device(self, split: Split, device: torch.device) -> None:
        """Moves a split to a device if ``device_cache`` is set. Its meta-batches are assembled there from then on."""
        if self._device_cache:
            self._family(split).to(device)

    def draw(self, split: Split, indices: Tensor) -> Task:
        """Draws episodes of a split as one meta-batch.

        Args:
            split: The split.
            indices: The numbers of the episodes, int64, ``[tasks]``.

        Returns:
            A meta-batch. Its inputs are on the device that holds the split, and not preprocessed.
        """
        return self._draws(split)(indices)

    def state_dict(self) -> dict[str, Any]:
        """The facts about the data that a checkpoint keeps for the trained model."""
        return {
            "source": self.source.fingerprint(),
            "constants": self.source.constants(),
            "train_shape": list(self.train_shape),
            "meta_batch_size": self.meta_batch_size,
            "seed": self.seed,
            "eval_shape": list(self.eval_shape),
            "eval_seed": self.eval_seed,
            "val_tasks": self.val_tasks,
            **({"val_episodes": self._manifest_hash} if self.replayed == "val" else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing. The settings and the step count determine the episodes."""

    def _draws(self, split: Split) -> Callable[[Tensor], Task]:
        """`draw` for one split, as a function that holds no reference to this object: workers receive a copy of it."""
        if manifest := self._manifest_of(split):
            return partial(replay, self._family(split), manifest)
        return partial(draw, self._family(split), self._seed(split), split, self._shape(split))

    def _family(self, split: Split) -> Family:
        """The tasks of a split. It is loaded on first use, so `draw` and `sample` need no call of `setup`."""
        if split not in self._families:
            family = self.source.load(split)
            if lacks := [name for name in _OF_A_FAMILY if not hasattr(family, name)]:
                raise ConfigError(
                    f"data.source: load({split!r}) of {type(self.source).__name__} returns {type(family).__name__}, "
                    f"which has no {', '.join(lacks)}; expected tasks, such as a ClassTable"
                )
            self._families[split] = family
        return self._families[split]

    def _seed(self, split: Split) -> int:
        return self.seed if split == "train" else self.eval_seed

    def _shape(self, split: Split) -> EpisodeShape:
        return self.train_shape if split == "train" else self.eval_shape

    def _evaluation_loader(self, split: Split, tasks: int) -> DataLoader[Task]:
        trainer = self.trainer
        assert trainer is not None
        self.check_shares("test" if split == "test" else "validate", trainer.world_size)
        self.cache_on_device(split, trainer.strategy.root_device)
        batches = MetaBatches(self._draws(split), self.eval_batch_size, trainer.global_rank, trainer.world_size, tasks)
        return self._loader(batches, ResumingSampler(-(-tasks // self.eval_batch_size), lambda: 0))

    def _loader(self, batches: MetaBatches, sampler: ResumingSampler) -> DataLoader[Task]:
        trainer = self.trainer
        assert trainer is not None
        return _Loader(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda" and not self._device_cache,
        )
