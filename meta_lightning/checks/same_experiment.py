"""Checks that checkpoints are training seeds of one experiment, so that their results may be averaged."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from meta_lightning.console import notify, printable
from meta_lightning.errors import ConfigError
from meta_lightning.runs.checkpoint import Checkpoint, TrainingRecord
from meta_lightning.runs.folders import run_folder

# Prefixes of settings that do not affect the training.
_NOT_OF_TRAINING = ("eval_", "check_finite_every")

# The files that `fit` writes: the choice of a validation, and the end of training.
_BEST, _LAST = "best.ckpt", "last.ckpt"


def check_same_experiment(paths: list[Path]) -> list[TrainingRecord]:
    """Refuses checkpoints that differ in more than the training seed, and notes runs that ended early.

    Args:
        paths: Two or more checkpoints.

    Returns:
        Each checkpoint's record of its training.

    Raises:
        ConfigError: If checkpoints have the same weights or the same seed, are of the same run, or differ in a setting,
            in the net, in the training data, in the shape of the training episodes, in the length of the training or in
            how they were chosen.
    """
    by_run: dict[Path, Path] = {}
    by_weights: dict[str, Path] = {}
    by_seed: dict[int, Path] = {}
    records: list[TrainingRecord] = []
    first: dict[str, Any] = {}
    for path in paths:
        checkpoint = Checkpoint.read(path)
        record = checkpoint.record
        records.append(record)
        if (earlier := by_weights.setdefault(_digest(checkpoint.weights), path)) != path:
            raise ConfigError(
                f"{earlier} and {path} hold the same weights; expected a checkpoint of each training seed in "
                "--ckpt_path"
            )
        if (earlier := by_run.setdefault(run_folder(path).resolve(), path)) != path:
            raise ConfigError(
                f"{earlier} and {path} are of the same run, which has a single report; expected one checkpoint of each "
                "run in --ckpt_path, each run in a folder of its own"
            )
        facts = _facts(checkpoint)
        first = first or facts
        for key, first_value, value in _differences(first, facts):
            raise ConfigError(
                f"{paths[0]} and {path} are not training seeds of one experiment: {key} is {printable(first_value)} in "
                f"the first and {printable(value)} in the other; test them one by one, and compare the reports with "
                "`compare`"
            )
        if record.seed is not None and (earlier := by_seed.setdefault(record.seed, path)) != path:
            raise ConfigError(
                f"{earlier} and {path} have the same training seed: seed_everything is {record.seed} in both; expected "
                "a checkpoint of each training seed in --ckpt_path"
            )
    return records


def _digest(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What must agree between training seeds of one experiment, by the key to change."""
    record, content, name = checkpoint.record, checkpoint.content, checkpoint.path.name
    facts = {f"model.{key}": value for key, value in record.settings.items() if not key.startswith(_NOT_OF_TRAINING)}
    facts |= {f"data.{key}": record.data.get(key) for key in ("source", "train_shape", "meta_batch_size")}
    facts["algorithm"] = content.get("algorithm")
    model = content.get("recipe", {}).get("model")
    facts["model.net"] = (model.get("init_args") or {}).get("net") if isinstance(model, dict) else None
    facts["trainer.max_steps"] = _planned_steps(checkpoint)
    if name in (_BEST, _LAST):
        facts["the file of the checkpoint"] = name
    if name == _BEST:
        facts |= {f"data.{key}": record.data.get(key) for key in ("eval_shape", "val_tasks")}
        facts["checkpoint.monitor"] = _monitor(content.get("callbacks", {}))
    return facts


def _differences(first: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The keys that differ, each with both values. A fact that one checkpoint does not record is passed over.

    The algorithm's settings are always recorded, so a key that one of them lacks is another algorithm's. Versions of
    torch, though, differ in which settings an optimizer has.
    """
    differences = []
    for key in sorted(first.keys() | other.keys()):
        always = key.startswith("model.") and not key.startswith(("model.net", "model.optimizer.", "model.lr_schedul"))
        missing = "not a key" if always else None
        pair = first.get(key, missing), other.get(key, missing)
        if pair[0] != pair[1] and (always or None not in pair):
            differences.append((key, *pair))
    return differences


def _planned_steps(checkpoint: Checkpoint) -> int | None:
    """The number of meta-steps that a run was to take. A resumed run may be longer than its ``best.ckpt`` knows.

    A run that did not take them all is noted: it was interrupted, or it stopped early as it should.
    """
    path = checkpoint.path.with_name(_LAST)
    record = Checkpoint.read(path).record if path != checkpoint.path and path.is_file() else checkpoint.record
    if record.max_steps is not None and record.meta_steps < record.max_steps:
        notify(
            f"Note: the run of {checkpoint.path} took {record.meta_steps:,} of its {record.max_steps:,} meta-steps; "
            "if it did not stop early by itself, go on with it before you average it with others"
        )
    return record.max_steps


def _monitor(callbacks: dict[str, Any]) -> Any:
    """The validation metric that chose ``best.ckpt``; None if it is unknown."""
    states = [state for name, state in callbacks.items() if str(name).startswith("Checkpoints")]
    return states[0].get("monitor") if states and isinstance(states[0], dict) else None
