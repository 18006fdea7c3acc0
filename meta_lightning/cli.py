"""The command line: LightningCLI over algorithms and episodic data, with errors that mend."""

import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace, auto_cli
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import nn

from meta_lightning import algorithms, commands, nets
from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import (
    Checkpoints,
    Figures,
    GracefulStop,
    HyperParameters,
    LeakGuard,
    MetaStepProgress,
    TestReport,
    Throughput,
)
from meta_lightning.data import EpisodicDataModule, Source, sources
from meta_lightning.errors import ConfigError, DivergedError
from meta_lightning.explain import explain, of_the_machine
from meta_lightning.files import is_file
from meta_lightning.preflight import check_run
from meta_lightning.report import Report
from meta_lightning.runs import Trained, find_checkpoints, logs_of, run_folder, say, version_number
from meta_lightning.seeds import check_alike, sum_up
from meta_lightning.settings import check_evaluated, check_nulls, check_sections, check_trainer, link_ways
from meta_lightning.yaml_guard import check_yaml

# What a config may name without a module, for messages; anybody's class may be named by its dotted path.
_CLASSES = {
    key: [name for name in package.__all__ if issubclass(getattr(package, name), kind) and name != kind.__name__]
    for key, package, kind in (("model", algorithms, MetaModule), ("net", nets, nn.Module), ("source", sources, Source))
}


# The commands that measure or evaluate no checkpoint and make no run.
_WITHOUT_CHECKPOINT = ("benchmark", "episodes")


class _SaveConfig(SaveConfigCallback):
    """Keeps ``config.yaml`` as the last `fit` of the run had it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class MetaCLI(LightningCLI):
    """``fit``, ``validate`` and ``test``; the command line beats the YAML, and both beat a checkpoint's memory."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands and ours; the report replaces what ``verbose`` prints."""
        own = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        lightning = {"fit": own, "validate": own, "test": own | {"verbose"}}
        return lightning | {command: {"model", "datamodule"} for command in _WITHOUT_CHECKPOINT}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our keys beside Lightning's."""
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(TestReport, "report")
        parser.add_lightning_class_args(Figures, "figures")
        parser.add_argument("--untrained", type=bool, default=False, help="Evaluate the initialisation, no checkpoint.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, with complaints cut down to what mends them.

        Raises:
            ConfigError: If the arguments or the config file do not fit.
        """
        try:
            for one, two in itertools.pairwise([*args, ""]):
                flag, given, path = one.partition("=")
                file = Path(path if given else two)
                if flag in ("--config", "-c") and is_file(file):
                    check_yaml(file)
            super().parse_arguments(parser, args)
        except ConfigError:
            raise
        except ArgumentError as error:
            options = {action.dest for command in self._subcommand_parsers.values() for action in command._actions}
            raise ConfigError(explain(str(error), options, _CLASSES)) from error
        except (ValueError, RecursionError, OSError, OverflowError) as error:
            raise ConfigError(f"--config can't be read ({error}); expected a YAML file") from error

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyper-parameters override the command line; here they never do."""

    @property
    def _settings(self) -> Namespace:
        settings: Namespace = self.config[str(self.subcommand)]
        return settings

    def before_instantiate_classes(self) -> None:
        """Fills in what follows from other keys, and finds the checkpoint."""
        settings = self._settings
        self._given = settings.clone()
        if self.subcommand not in _WITHOUT_CHECKPOINT:
            self._given.ckpt_path = None
        check_sections(settings.config or [])
        check_nulls("model", MetaModule, {"init_args": settings.model})
        check_nulls("checkpoint", Checkpoints, settings.checkpoint)
        check_nulls("figures", Figures, settings.figures)
        check_nulls("data", EpisodicDataModule, settings.data)
        check_trainer(settings.trainer)
        if settings.data.seed is None:
            settings.data.seed = int(settings.seed_everything)
        link_ways(settings)
        if settings.trainer.enable_progress_bar is not False and "ProgressBar" not in str(settings.trainer.callbacks):
            self.trainer_defaults["callbacks"].append(MetaStepProgress())
        self._checkpoints: list[Path] = []
        self._memories: list[Trained] = []
        self._reports: list[Report] = []
        if self.subcommand not in _WITHOUT_CHECKPOINT:
            self._find_checkpoints()

    def instantiate_classes(self) -> None:
        """Makes the objects.

        Raises:
            ConfigError: From a constructor, where the parser would report every type that a key may have.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ConfigError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                deepest = str(error).strip().splitlines()[-1].strip(" -")
                raise ConfigError(f"model, data or checkpoint can't be made: {deepest}") from error
            raise cause from None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        used, self.config[self.subcommand] = self._settings, self._given  # `config.yaml` is to start a run like this
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(f"trainer: {error}") from error
        finally:
            self.config[self.subcommand] = used

    def _set_seed(self) -> None:
        seed = self._settings.seed_everything
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything is {seed}; expected a whole number from 0 to {2**32 - 1}")
        super()._set_seed()

    def _find_checkpoints(self) -> None:
        settings, command = self._settings, str(self.subcommand)
        check_evaluated(command, settings)
        if settings.ckpt_path is None:
            return
        self._checkpoints = find_checkpoints(settings.ckpt_path, logs_of(settings.trainer.logger)[0])
        if len(self._checkpoints) > 1:
            if command != "test":
                raise ConfigError(f"--ckpt_path names {len(self._checkpoints)} checkpoints, and {command} takes one")
            self._memories = check_alike(self._checkpoints)
        self._take(self._checkpoints[0])

    def _take(self, path: Path) -> None:
        """Makes a checkpoint the one that is resumed or evaluated."""
        say(f"Checkpoint: {path}")
        self._settings.ckpt_path = str(path)
        runs, options = logs_of(self._settings.trainer.logger)
        given = logs_of(self._given.trainer.logger)[1]
        version = version_number(run_folder(path))
        if run_folder(path).parent.resolve() == runs.resolve() and version >= 0:
            options["version"] = version  # events and report go on in the run that the checkpoint is from
        elif "version" in options:
            options["version"] = given.get("version")  # not that of the checkpoint before

    def _run_subcommand(self, subcommand: str) -> None:
        """Once for each checkpoint, with everything made anew: each is tested as it would be alone."""
        super()._run_subcommand(subcommand)
        for path in self._checkpoints[1:]:
            self._take(path)
            self._set_seed()
            self.instantiate_classes()
            super()._run_subcommand(subcommand)
        if len(self._checkpoints) > 1 and self.trainer.is_global_zero:
            sum_up(self._reports, self._memories, keep=not self.trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by Lightning's connectors

    def _check_inputs(self) -> None:
        """Finds what is wrong before a run folder is made."""
        path = self._settings.ckpt_path
        check_run(str(self.subcommand), self.model, self.datamodule, self.trainer, Path(path) if path else None)

    before_fit = before_validate = before_test = _check_inputs

    def test(self, **kwargs: Any) -> None:
        """The report says more than Lightning's own table."""
        self.trainer.test(**kwargs, verbose=False)
        made = [callback.report for callback in self.trainer.callbacks if isinstance(callback, TestReport)]  # type: ignore[attr-defined]  # set by Lightning's connectors
        self._reports += [report for report in made if report is not None]

    def after_fit(self) -> None:
        """Says where the run lies and what to do next."""
        folder = self.trainer.log_dir
        if not self.trainer.is_global_zero or folder is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
            return
        best, last = (Path(folder, "checkpoints", f"{name}.ckpt") for name in ("best", "last"))
        checkpoint = best if best.is_file() else last
        if not checkpoint.is_file():
            return  # nothing was trained
        print(
            f"\nRun: {folder}\n"
            f"Test it: python -m meta_lightning test --config {folder}/config.yaml --ckpt_path {checkpoint}\n"
            f"See its curves: tensorboard --logdir {folder}"
        )


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: The arguments; None for those of the process.

    Returns:
        The exit code: 0, or 2 for input that its message lets the user mend, or 1 for a run that diverged.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with warnings.catch_warnings():
            for message in _NOT_FOR_USERS:
                warnings.filterwarnings("ignore", message=message)
            _run(arguments)
    except (ConfigError, MisconfigurationException, DivergedError) as error:
        if debug:
            raise
        if getattr(rank_zero_only, "rank", 0) == 0:
            print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, DivergedError) else 2
    except (OSError, MemoryError, RuntimeError) as error:
        if debug or (complaint := of_the_machine(error)) is None:
            raise
        print(f"error: {complaint}", file=sys.stderr)
        return 2
    return 0


# Warnings about how Lightning is called or what it calls: nobody who trains can do anything about them.
_NOT_FOR_USERS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Checkpoint directory .* exists and is not empty",  # as it should, when a run is resumed
    r"LightningCLI's args parameter is intended to run from within Python",
    r"(?s)\s*By default only one JsonargparseDeprecationWarning|\s.*deprecated\s+in\s+v4\.\d+",
)


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["compare"]:
        try:
            auto_cli(commands.compare, args=arguments[1:], exit_on_error=False, prog="meta-lightning compare")
        except ArgumentError as error:
            raise ConfigError(f"compare: {explain(str(error), (), _CLASSES)}") from error
        return
    MetaCLI(
        MetaModule,
        EpisodicDataModule,
        trainer_class=commands.MetaTrainer,
        subclass_mode_model=True,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "max_epochs": -1,
            "check_val_every_n_epoch": None,
            "callbacks": [GracefulStop(), LeakGuard(), Throughput(), HyperParameters()],
        },
        seed_everything_default=0,
        parser_kwargs={"exit_on_error": False},
        args=arguments,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def console() -> None:
    """The console script: `main` as the process's exit code."""
    sys.exit(main())
