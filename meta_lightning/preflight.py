"""What is checked once everything is made, and before a run folder is: data, net, optimizer, checkpoint."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from meta_lightning.algorithms import MetaModule
from meta_lightning.algorithms.probe import check_gradient, probe
from meta_lightning.data import EpisodicDataModule
from meta_lightning.errors import ConfigError, shown
from meta_lightning.rehearsal import rehearse
from meta_lightning.runs import Trained, check_resumable, check_weights, differences, read_checkpoint, say, trained


def check_run(
    stage: str, model: MetaModule, data: EpisodicDataModule, trainer: Trainer, checkpoint: Path | None
) -> None:
    """Refuses a run that can't work; notes where it differs from what its checkpoint remembers.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        model: The algorithm.
        data: The episodes.
        trainer: The trainer.
        checkpoint: What is resumed or evaluated.

    Raises:
        ConfigError: Says what to change.
    """
    data.prepare_data()
    data.setup(stage)
    data.check_shares(stage, trainer.world_size)
    if data.replayed is not None and stage in ("validate", "test") and not stage.startswith(data.replayed):
        say(f"Note: data.episodes holds {data.replayed} episodes; this {stage} draws its own from data.eval_seed")
    logged = probe(model, data.sample(stage))
    if stage == "fit":
        _check_monitor(trainer, [f"val/{name}" for name in logged])
        _check_optimizer(model)
        check_gradient(model, data.sample(stage))
        if model.check_finite_every > 1:
            say(
                f"Note: model.check_finite_every is {model.check_finite_every}: weights and checkpoints may be spoilt "
                "before a loss that is not finite stops the run"
            )
        if checkpoint is None:
            _check_folder(trainer)
    if checkpoint is not None:
        _check_checkpoint(stage, model, data, trainer, checkpoint)


def _check_monitor(trainer: Trainer, known: list[str]) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connectors
        if isinstance(callback, ModelCheckpoint) and callback.monitor not in known:
            raise ConfigError(f"checkpoint.monitor is {callback.monitor}; expected one of {', '.join(known)}")


def _check_optimizer(model: MetaModule) -> None:
    try:
        model.configure_optimizers()
    except (ValueError, TypeError, ZeroDivisionError, NotImplementedError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model.optimizer or model.lr_scheduler can't be made: {error}") from error


def _check_folder(trainer: Trainer) -> None:
    folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
    if not trainer.fast_dev_run and any(folder.glob("*.ckpt")):  # type: ignore[attr-defined]  # as above
        raise ConfigError(
            f"{folder} holds the checkpoints of another run; resume it with --ckpt_path last, or give the logger "
            "another version or name"
        )


def _check_checkpoint(stage: str, model: MetaModule, data: EpisodicDataModule, trainer: Trainer, path: Path) -> None:
    checkpoint = read_checkpoint(path)
    if stage != "fit":
        _check_ways(model, data, trained(checkpoint), path)
    check_weights(path, checkpoint["state_dict"], model.state_dict())
    episodes: dict[str, Any] = checkpoint.get("EpisodicDataModule", {})
    if stage == "fit":
        check_resumable(path, checkpoint, model.settings(), data.state_dict(), model.step_seed)
    elif episodes.get("source", data.source.fingerprint()) != data.source.fingerprint():
        say(
            f"Note: data.source is {data.source.fingerprint()} here, {shown(episodes['source'])} in the checkpoint: "
            "classes of this evaluation may have been trained on"
        )
    rehearse(stage, path, checkpoint, model, trainer)
    for difference in differences(checkpoint.get("settings", {}), model.settings()):
        say(f"Note: {difference}")


def _check_ways(model: MetaModule, data: EpisodicDataModule, memory: Trained, path: Path) -> None:
    ways = (memory.data.get("train_shape") or [None])[0]
    if model.net_predicts and ways is not None and data.eval_shape.ways not in (None, ways):
        raise ConfigError(
            f"data.ways is {data.eval_shape.ways}, but the net's head in {path} was trained for {ways} ways: set it to "
            f"{ways}; methods that make the classifier from the support set (ProtoNetModule) are tested at any ways"
        )
