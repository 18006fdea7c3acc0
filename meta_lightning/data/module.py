"""The LightningDataModule that serves meta-batches."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from meta_lightning.data.episodes import MetaBatches, ResumingSampler, draw, keys, replay
from meta_lightning.data.manifest import Manifest, check_manifest, episode_hash, read_manifest
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.errors import ConfigError
from meta_lightning.files import one_at_a_time
from meta_lightning.types import EpisodeShape, Examples, Split, Task

# Where nothing else bounds training, an epoch of this many meta-steps is as good as endless.
_ENDLESS = 10**9

# Episodes that are described at once: names take more memory than the pictures that they name.
_AT_ONCE = 500
# More processes that load data only take turns; thousands of them stop the machine.
_WORKERS_PER_CPU = 4

# What each of Lightning's stages draws from, first what it is about.
_SPLITS_OF: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class _Loader(DataLoader[Task]):
    """Serves meta-batches whole. Its position is the trainer's own step count, so there is no state to keep."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class EpisodicDataModule(LightningDataModule):
    """Meta-batches of episodes, each a pure function of ``(seed, split, index)``.

    Args:
        source: Where tasks come from.
        shots: Support examples of an evaluation episode, per class where there are classes.
        queries: Query examples of an evaluation episode, likewise.
        ways: Classes of an evaluation episode; null where tasks are functions to regress.
        train_ways: Classes of a training episode; null for ``ways``.
        train_shots: Support examples of a training episode; null for ``shots``.
        train_queries: Query examples of a training episode; null for ``queries``.
        meta_batch_size: Tasks of a meta-step, over all processes.
        eval_batch_size: Tasks evaluated at once; null for ``meta_batch_size``.
        val_tasks: Episodes of a validation, the same each time.
        test_tasks: Episodes of a test, the same each time.
        seed: Seed of the training episodes; null for ``seed_everything`` on the command line, else 0.
        eval_seed: Seed of the validation and test episodes, apart from ``seed``: models trained with different seeds
            are judged on the same episodes.
        num_workers: Processes that make meta-batches ahead of time, at most four for each CPU.
        device_cache: Keep pictures on the device that trains, where meta-batches are then cut: none waits for a copy.
        episodes: A manifest that the command ``episodes`` wrote: its validation or test episodes are replayed, whatever
            ``eval_seed`` is.

    Raises:
        ConfigError: If a count is below 1, workers are more than the machine bears, or ``device_cache`` goes with any.
    """

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
                raise ConfigError(f"data.{key} is {value}; expected 1 or more")
        for key, value in {"seed": seed, "eval_seed": eval_seed, "num_workers": num_workers}.items():
            if value is not None and not 0 <= value < 2**32:
                raise ConfigError(f"data.{key} is {value}; expected 0 or more")
        if device_cache and num_workers:
            raise ConfigError(
                f"data.num_workers is {num_workers}, but worker processes can't cut from a device: "
                "set it to 0, or data.device_cache to false"
            )
        most = _WORKERS_PER_CPU * (os.cpu_count() or 1)
        if num_workers > most:
            raise ConfigError(
                f"data.num_workers is {num_workers}; expected at most {most} here, {_WORKERS_PER_CPU} for each CPU"
            )
        self.source = source
        self.eval_shape = EpisodeShape(ways, shots, queries)
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
        self._manifest = None if episodes is None else read_manifest(episodes)

    def prepare_data(self) -> None:
        """Fetches and caches the source's data, once on each machine: later processes find it made."""
        # The command line calls this in every process, before there is a group that could wait for the first one.
        with one_at_a_time(type(self.source).__name__):
            self.source.prepare()

    def setup(self, stage: str) -> None:
        """Loads the splits of a stage and checks that their episodes can be drawn.

        Args:
            stage: ``fit``, ``validate`` or ``test``.

        Raises:
            ConfigError: If an episode asks for more than the data has.
        """
        for split in _SPLITS_OF.get(stage, ()):
            family = self._families[split] = self.source.load(split)
            family.check(self._shape(split))
            if self._manifest is not None and self._manifest.split == split:
                tasks = self.val_tasks if split == "val" else self.test_tasks
                check_manifest(self._manifest, self.source.fingerprint(), self._shape(split), tasks)

    @property
    def replayed(self) -> Split | None:
        """The split that a manifest replays, if there is one."""
        return cast(Split, self._manifest.split) if self._manifest else None

    def check_shares(self, stage: str, processes: int) -> None:
        """Refuses tasks that the processes can't share equally: a mean of means is the mean only then.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
            processes: How many there are.

        Raises:
            ConfigError: Names the key and both numbers.
        """
        shares = {"meta_batch_size": self.meta_batch_size} if stage == "fit" else {}
        shares |= {"test_tasks": self.test_tasks} if stage == "test" else {"val_tasks": self.val_tasks}
        shares |= {"eval_batch_size": self.eval_batch_size}
        for key, tasks in shares.items():
            if tasks % processes:
                raise ConfigError(
                    f"data.{key} is {tasks}, which {processes} processes do not divide; choose a multiple"
                )

    def sample(self, stage: str) -> Task:
        """One task of a stage as a meta-batch of one, ready for a net."""
        return self.on_after_batch_transfer(self.draw(_SPLITS_OF[stage][0], torch.arange(1)), 0)

    def episode_hash(self, split: Split, tasks: int | None = None) -> str:
        """The fingerprint of a split's first evaluation episodes, by default of all: see `manifest.episode_hash`."""
        return episode_hash(self._shape(split), self._described(split, tasks))

    def written_down(self, split: Split) -> Manifest:
        """What a split's evaluation episodes consist of."""
        return Manifest(self.source.fingerprint(), split, self._shape(split), [*self._described(split)])

    def _described(self, split: Split, tasks: int | None = None) -> Iterator[Any]:
        tasks = tasks or {"val": self.val_tasks, "test": self.test_tasks}[split]
        if self._manifest is not None and self._manifest.split == split:
            yield from self._manifest.episodes[:tasks]
            return
        for part in torch.split(torch.arange(tasks), _AT_ONCE):
            yield from self._families[split].describe(keys(self.eval_seed, split, part), self._shape(split))

    def train_dataloader(self) -> DataLoader[Task]:
        """Meta-batch ``s`` serves meta-step ``s``."""
        trainer = self.trainer
        assert trainer is not None
        self.check_shares("fit", trainer.world_size)
        self.keep("train", trainer.strategy.root_device)
        batches = MetaBatches(self._draws("train"), self.meta_batch_size, trainer.global_rank, trainer.world_size)
        length = trainer.max_steps if trainer.max_steps > 0 else _ENDLESS
        return self._loader(batches, ResumingSampler(length, lambda: trainer.global_step))

    def val_dataloader(self) -> DataLoader[Task]:
        """The ``val_tasks`` validation episodes."""
        return self._evaluation_loader("val", self.val_tasks)

    def test_dataloader(self) -> DataLoader[Task]:
        """The ``test_tasks`` test episodes."""
        return self._evaluation_loader("test", self.test_tasks)

    def transfer_batch_to_device(self, batch: Task, device: torch.device, dataloader_idx: int) -> Task:
        """The batch on the device: walking through one that is there already takes longer than an outer step's sums."""
        if batch.index.device == device:
            return batch
        moved: Task = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: Task, dataloader_idx: int) -> Task:
        """Stored inputs to what a net takes, on the device: pictures travel as bytes."""
        preprocess = next(iter(self._families.values())).preprocess

        def ready(examples: Examples) -> Examples:
            return Examples(preprocess(examples.x), examples.y)

        batch = Task(ready(batch.support), ready(batch.query), batch.index)
        # Lightning converted the batch to the precision of the run before it was preprocessed.
        return self.trainer.precision_plugin.convert_input(batch) if self.trainer else batch

    def keep(self, split: Split, device: torch.device) -> None:
        """Moves a split to a device, under ``device_cache``; its meta-batches are cut there from then on."""
        if self._device_cache:
            self._families[split].to(device)

    def draw(self, split: Split, indices: Tensor) -> Task:
        """The episodes of a split with these numbers, as one meta-batch where the split lies, inputs as stored.

        Args:
            split: Which split.
            indices: int64, ``[tasks]``.
        """
        return self._draws(split)(indices)

    def state_dict(self) -> dict[str, Any]:
        """What a trained model must know of its data: goes into checkpoints."""
        return {
            "source": self.source.fingerprint(),
            "constants": self.source.constants(),
            "train_shape": list(self.train_shape),
            "meta_batch_size": self.meta_batch_size,
            "seed": self.seed,
            "eval_shape": list(self.eval_shape),
            "eval_seed": self.eval_seed,
            "val_tasks": self.val_tasks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: episodes follow from the settings and the step count."""

    def _draws(self, split: Split) -> Callable[[Tensor], Task]:
        """`draw` for one split, without this object: worker processes are sent a copy."""
        if self._manifest is not None and self._manifest.split == split:
            return partial(replay, self._families[split], self._manifest.episodes, self._shape(split))
        seed = self.seed if split == "train" else self.eval_seed
        return partial(draw, self._families[split], seed, split, self._shape(split))

    def _shape(self, split: Split) -> EpisodeShape:
        return self.train_shape if split == "train" else self.eval_shape

    def _evaluation_loader(self, split: Split, tasks: int) -> DataLoader[Task]:
        trainer = self.trainer
        assert trainer is not None
        self.check_shares("test" if split == "test" else "validate", trainer.world_size)
        self.keep(split, trainer.strategy.root_device)
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
