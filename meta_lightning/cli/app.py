"""The application behind the command line: LightningCLI for algorithms and episodic data."""

import itertools
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import (
    AdaptationPlots,
    Checkpoints,
    GracefulStop,
    HyperParameters,
    LeakGuard,
    RunLogs,
    TestReport,
    Throughput,
)
from meta_lightning.callbacks.next_steps import next_steps
from meta_lightning.callbacks.test_report import report_paths
from meta_lightning.checks.preflight import check_run
from meta_lightning.checks.same_experiment import check_same_experiment
from meta_lightning.cli.help import ROOT_EPILOG, SHORT_NAMES, class_help
from meta_lightning.cli.lightning_seams import OrderedParser, SeamedCLI
from meta_lightning.cli.named_classes import check_imports
from meta_lightning.cli.parser_errors import explain
from meta_lightning.cli.settings import (
    check_evaluated,
    check_nulls,
    check_sections,
    check_trainer,
    follow_launcher,
    link_ways,
    link_widths,
    plain_words,
)
from meta_lightning.cli.yaml_checks import check_yaml
from meta_lightning.commands import COMMANDS, make_trainer_class
from meta_lightning.console import notify, show
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine.named import check_named
from meta_lightning.engine.recipes import build, import_class
from meta_lightning.engine.trainer_parts import callbacks_of, is_dry_run
from meta_lightning.engine.user_code import find_place
from meta_lightning.errors import ConfigError
from meta_lightning.files import check_writable, is_file
from meta_lightning.reporting.report import Report, validation_table
from meta_lightning.reporting.seeds import report_over_seeds, seeds_folder
from meta_lightning.runs.changes import keep_config
from meta_lightning.runs.checkpoint import Checkpoint, TrainingRecord
from meta_lightning.runs.folders import (
    Runs,
    choose_folder,
    claim_version,
    find_checkpoints,
    folder_of,
    folder_of_process,
    locked_run,
    needs_folder,
    run_folder,
    version_number,
)
from meta_lightning.runs.lightning_seams import folder_loggers, given_version, keep_rows, set_version
from meta_lightning.types import Task
from meta_lightning.version import __version__


def _data_recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """How the data are built from the settings of the section ``data``."""
    return {"class_path": "meta_lightning.EpisodicDataModule", "init_args": settings}


class _SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` as the run began, and beside it what a resume changed."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        folder = folder_of(trainer)
        if trainer.is_global_zero:
            keep_config(folder, self._text)

    @cached_property
    def _text(self) -> str:
        text: str = self.parser.dump(self.config, skip_none=False)
        return text

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the settings for later commands, which say where theirs differ."""
        checkpoint["config"] = yaml.safe_load(self._text)


class MetaCLI(SeamedCLI):
    """All commands that need a config.

    The command line takes precedence over the YAML file, and both over the settings stored in a checkpoint.

    Args:
        args: The arguments of the command line.
    """

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            MetaModule,
            EpisodicDataModule,
            trainer_class=make_trainer_class(),
            subclass_mode_model=True,
            save_config_callback=_SaveConfig,
            trainer_defaults={
                "max_epochs": -1,
                "check_val_every_n_epoch": None,
                "callbacks": [GracefulStop(), LeakGuard(), Throughput(), HyperParameters(), RunLogs()],
            },
            seed_everything_default=0,
            parser_kwargs={
                "exit_on_error": False,
                "prog": "meta-lightning",
                "epilog": ROOT_EPILOG,
                "description": "Few-shot and meta-learning: train, evaluate and compare from one YAML file.",
                "version": __version__,
            },
            parser_class=OrderedParser,
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands that need a config, each with the parameters that are not command-line arguments."""
        return {name: {*command.hidden} for name, command in COMMANDS.items() if command.needs != "nothing"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections ``checkpoint``, ``report`` and ``figures``, and ``--untrained``."""
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(TestReport, "report")
        parser.add_lightning_class_args(AdaptationPlots, "figures")
        parser.add_argument("--untrained", type=bool, default=False, help="Evaluate the initialisation.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments, and reduces an error of the parser to one line.

        Raises:
            ConfigError: If the arguments or the config file are not valid.
        """
        try:
            for argument, following in itertools.pairwise([*args, ""]):
                flag, has_value, value = argument.partition("=")
                file = Path(value if has_value else following)
                if flag in ("--config", "-c") and is_file(file):
                    check_yaml(file)
            super().parse_arguments(parser, class_help([*args]))
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, Exception) or find_place(error):  # otherwise the end of --help
                check_imports([*args])
            if isinstance(error, ArgumentError):
                raise ConfigError(explain(str(error), self.known_options(), SHORT_NAMES, COMMANDS)) from error
            if isinstance(error, ValueError | RecursionError | OSError | OverflowError):
                raise ConfigError(f"--config can't be read ({error}); expected a YAML file") from error
            raise

    @property
    def _settings(self) -> Namespace:
        settings: Namespace = self.config[str(self.subcommand)]
        return settings

    @property
    def _takes_checkpoint(self) -> bool:
        return COMMANDS[str(self.subcommand)].needs == "checkpoint"

    def before_instantiate_classes(self) -> None:
        """Checks the settings, fills in those that follow from others, and finds the checkpoint."""
        settings = self._settings
        for section, owner in {"model": None, "data": EpisodicDataModule, "trainer": Trainer}.items():
            check_named(settings[section], section, import_class, owner)
        settings.trainer = plain_words(settings.trainer)
        self._user_settings = settings.clone()
        if self._takes_checkpoint:
            self._user_settings.ckpt_path = None
        check_sections(settings.config or [])
        check_nulls("model", MetaModule, {"init_args": settings.model})
        check_nulls("checkpoint", Checkpoints, settings.checkpoint)
        check_nulls("figures", AdaptationPlots, settings.figures)
        check_nulls("data", EpisodicDataModule, settings.data)
        check_nulls("trainer", None, settings.trainer)
        if self.subcommand != "episodes":  # which has no use for processes
            follow_launcher(settings.trainer)
        check_trainer(settings.trainer)
        if settings.data.seed is None:
            settings.data.seed = int(settings.seed_everything)
        link_ways(settings)
        link_widths(settings, self._first_task)
        self._version: int | None = None  # of the run that the command goes on in
        self._checkpoints: list[Path] = []
        self._records: list[TrainingRecord] = []
        self._reports: list[Report] = []
        if self._takes_checkpoint:
            self._find_checkpoints()

    def _first_task(self) -> Task:
        """The first task of the command's data, which are constructed once more."""
        settings = self.plain_settings(self._settings)["data"]
        data = build(_data_recipe(settings), EpisodicDataModule)
        return data.preview(str(self.subcommand) if self._takes_checkpoint else "fit")

    def instantiate_classes(self) -> None:
        """Constructs the trainer, the model and the data.

        Raises:
            ConfigError: If a constructor refuses its arguments.
        """
        super().instantiate_classes()
        if self.subcommand == "fit":
            self._note_recipes()

    def _note_recipes(self) -> None:
        """Stores how the model and the data are built, for the run's checkpoints; `load_run` builds them again."""
        settings = self.plain_settings(self._settings)
        self.model.recipe = settings["model"]
        self.datamodule.recipe = _data_recipe(settings["data"])

    def make_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Constructs the trainer.

        Raises:
            ConfigError: If its settings are not valid.
        """
        # The trainer's callback writes the user's settings to `config.yaml`, so that the file starts a similar run.
        settings, self.config[self.subcommand] = self._settings, self._user_settings
        try:
            return super().make_trainer(config, callbacks)
        except (ValueError, TypeError, ImportError, RuntimeError) as error:  # the last: a callback that is there twice
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        finally:
            self.config[self.subcommand] = settings

    def set_seed(self) -> None:
        """Seeds the process.

        Raises:
            ConfigError: If the seed is out of range.
        """
        seed = self._settings.seed_everything
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything is {seed}; expected a whole number from 0 to {2**32 - 1}")
        super().set_seed()

    def _find_checkpoints(self) -> None:
        settings, command = self._settings, str(self.subcommand)
        check_evaluated(command, settings)
        if settings.ckpt_path is None:
            return
        self._checkpoints = find_checkpoints(settings.ckpt_path, Runs.of(settings.trainer))
        if len(self._checkpoints) > 1:
            if command != "test":
                raise ConfigError(f"--ckpt_path names {len(self._checkpoints)} checkpoints, and {command} takes one")
            self._records = check_same_experiment(self._checkpoints)
        self._select(self._checkpoints[0])

    def _select(self, path: Path) -> None:
        """Selects the checkpoint to resume or evaluate, and its run folder for the logs."""
        notify(f"Checkpoint: {path}")
        self._settings.ckpt_path = str(path)
        folder, runs = run_folder(path), Runs.of(self._settings.trainer).folder
        in_runs = folder.parent.resolve() == runs.resolve() and version_number(folder) >= 0
        self._version = version_number(folder) if in_runs else None

    def run_command(self, command: str) -> None:
        """Runs the command for each checkpoint with new objects, so each result is the same as in a test of its own."""
        for number, path in enumerate(self._checkpoints or [None]):
            if number and path is not None:
                self._select(path)
                self.set_seed()
                self.instantiate_classes()
            with ExitStack() as self._held:  # the lock of the run folder
                super().run_command(command)
        if len(self._checkpoints) > 1 and self.trainer.is_global_zero:
            report_over_seeds(self._reports, self._records, keep=not is_dry_run(self.trainer))

    def _check_inputs(self) -> None:
        """Checks the model, data and checkpoint, then creates a run folder or selects that of the checkpoint."""
        path, loggers = self._settings.ckpt_path, folder_loggers(self.trainer.loggers)
        runs = Runs.of(self._settings.trainer) if needs_folder(self.trainer) else None
        if self._version is not None:
            if runs is not None:
                choose_folder(self.trainer, runs.folder / f"version_{self._version}")
            for logger in loggers:  # events and report go on in the run that the checkpoint is from
                set_version(logger, self._version)
        unnumbered = [logger for logger in loggers if given_version(logger) is None]
        given = self.plain_settings(self._user_settings)
        check_run(str(self.subcommand), self.model, self.datamodule, self.trainer, Path(path) if path else None, given)
        follows = path is not None and self.subcommand != "fit"  # `RunLogs` moves the loggers to the checkpoint's run
        if not self.trainer.is_global_zero or is_dry_run(self.trainer) or self._finished or follows:
            return
        if unnumbered:
            chosen = [version for logger in loggers if logger not in unnumbered and (version := given_version(logger))]
            version = chosen[0] if chosen else claim_version([Path(logger.root_dir) for logger in unnumbered])
            for logger in unnumbered:
                set_version(logger, version)
        if runs is not None and self._version is None:
            numbered = [logger.log_dir for logger in loggers]
            choose_folder(
                self.trainer,
                Path(numbered[0]) if numbered else runs.folder / f"version_{claim_version([runs.folder])}",
            )
        if self.subcommand == "fit":
            self._held.enter_context(locked_run(folder_of_process(self.trainer)))
        for logger in loggers:
            keep_rows(logger)

    before_fit = before_validate = _check_inputs

    def before_test(self) -> None:
        """As before the other commands. Also finds reports that could not be written, of all checkpoints at once."""
        for path in self._checkpoints:
            check_writable(report_paths(path, run_folder(path), self._settings.report.name))
        if len(self._checkpoints) > 1:
            check_writable([seeds_folder(self._checkpoints) / "test_seeds.json"])
        self._check_inputs()

    @cached_property
    def _finished(self) -> int | None:
        """The meta-steps of the checkpoint that is to be resumed, if no more are asked for."""
        if self.subcommand != "fit" or not self._settings.ckpt_path:
            return None
        steps, most = Checkpoint.read(Path(self._settings.ckpt_path)).record.meta_steps, self.trainer.max_steps
        return steps if 0 <= most <= steps else None

    def fit(self, **kwargs: Any) -> None:
        """Trains, unless the run has taken all of its meta-steps."""
        if (steps := self._finished) is None:
            self.trainer.fit(**kwargs)
            return
        notify(
            f"Nothing to do: {self._settings.ckpt_path} has taken {steps} meta-steps, and trainer.max_steps is "
            f"{self.trainer.max_steps}. Nothing was changed; to go on, set trainer.max_steps above {steps}"
        )

    def test(self, **kwargs: Any) -> None:
        """Tests without Lightning's own table, which the report replaces."""
        self.trainer.test(**kwargs, verbose=False)
        reports = [callback.report for callback in callbacks_of(self.trainer) if isinstance(callback, TestReport)]
        self._reports += [report for report in reports if report is not None]

    def validate(self, **kwargs: Any) -> None:
        """Validates, and prints the results in the place of Lightning's own table."""
        for results in self.trainer.validate(**kwargs, verbose=False):
            show(validation_table(results))

    def after_fit(self) -> None:
        """Prints how training ended, the run folder, and the commands for a test and for the curves."""
        if is_dry_run(self.trainer) or self._finished is not None:
            return
        folder = folder_of(self.trainer)
        own = folder if folder.name == "checkpoints" and not self.trainer.loggers else folder / "checkpoints"
        if self.trainer.is_global_zero and (text := next_steps(self.trainer, folder, own)):
            notify(text)
