"""All private names of Lightning's command line and of jsonargparse that are used; `tests/cli` has a contract for each.

Those of its trainer and its loggers are in `meta_lightning.runs.lightning_seams`.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import yaml
from jsonargparse import DefaultHelpFormatter, Namespace, _typehints
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from meta_lightning.cli.help import class_names, key_help, section, usage
from meta_lightning.commands import COMMANDS
from meta_lightning.console import notify
from meta_lightning.engine.constructing import instantiate
from meta_lightning.engine.recipes import import_class

# Classes that stand in for each other, with keys that mean the same: these keep what was given to the former one.
_INTERCHANGEABLE = (LightningModule, Logger)


@contextmanager
def own_defaults() -> Iterator[list[str]]:
    """Makes the parser give every class that is named its own defaults, not those of the class that it replaces.

    The parser would pass on each value that the new class has an argument for: the defaults of the default class, and
    the values that a config gave to another class. Only algorithms and loggers keep what was given.

    Yields:
        Notes on given values that are dropped, which grows while arguments are parsed.
    """
    notes: list[str] = []
    former_rule: Callable[..., None] = _typehints.discard_init_args_on_class_path_change

    def discard(action: Any, former: Any, named: Any) -> None:
        if not isinstance(former, Namespace) or not former.get("class_path") or not former.get("init_args"):
            former_rule(action, former, named)
            return
        is_default = _typehints.sub_defaults.get()  # nobody gave these values
        cls, former_class = import_class(named["class_path"]), import_class(former.class_path)
        if cls is former_class:
            return
        if not is_default and isinstance(cls, type) and issubclass(cls, _INTERCHANGEABLE):
            given = [*vars(former.init_args)]
            former_rule(action, former, named)
            if lacks := [key for key in given if key not in (former.get("init_args") or {})]:
                add(f"{cls.__name__} replaces {former_class.__name__} and has no {', '.join(lacks)}")
            return
        dropped = [*vars(former.init_args)]
        for key in dropped:
            former.init_args.pop(key)
        if not is_default:
            add(
                f"{cls.__name__} replaces {former_class.__name__} and keeps none of its settings ({', '.join(dropped)})"
            )

    def add(note: str) -> None:
        if note not in notes:
            notes.append(note)

    _typehints.discard_init_args_on_class_path_change = discard
    try:
        yield notes
    finally:
        _typehints.discard_init_args_on_class_path_change = former_rule


class _Formatter(DefaultHelpFormatter):
    """Names few classes for a key, where the parser lists each subclass that is in memory."""

    def _expand_help(self, action: argparse.Action) -> str:
        def few(match: re.Match[str]) -> str:
            return class_names(action.dest, match[1].split(", ")) + match[2]

        return re.sub(r", known subclasses: ([^)]*)(\)|$)", few, super()._expand_help(action))


class OrderedParser(LightningArgumentParser):
    """A parser whose help is short, also for a class that a key names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Formatter, **kwargs})

    def arrange_help(self, command: str) -> None:
        """Puts our sections first and Lightning's last, with our titles and texts."""
        for action in self._actions:
            action.help = key_help(command, action.dest) or action.help
        places: dict[int, int] = {}
        for group in self._action_groups:
            found = section([action.dest for action in group._group_actions])
            places[id(group)] = -1 if found is None else found[0]
            if found is not None:
                group.title = found[1]
        cast(list[Any], self._action_groups).sort(key=lambda group: places[id(group)])

    def format_help(self, *args: Any) -> str:
        """The help. That of a class has no line of usage, which would repeat every key."""
        is_class = str(self.description).startswith("Help for --")
        if is_class:
            self.usage = argparse.SUPPRESS
        return super().format_help(*args)


class SeamedCLI(LightningCLI):
    """`LightningCLI` with public names for the private steps that a subclass changes."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses. Every class that is named gets its own defaults."""
        with own_defaults() as notes:
            super().parse_arguments(parser, args)
        for note in notes:
            notify(f"Note: {note}")

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that lets the exceptions of constructors through, unchanged."""
        parser = super().init_parser(**kwargs)
        parser.instantiate_classes = partial(instantiate, parser)  # which Lightning calls
        return parser

    def known_options(self) -> set[str]:
        """The dotted keys of all commands."""
        return {action.dest for parser in self._subcommand_parsers.values() for action in parser._actions}

    def plain_settings(self, settings: Namespace) -> dict[str, Any]:
        """Settings of the current command as plain data."""
        parser = self._subcommand_parsers[str(self.subcommand)]
        text = parser.dump(settings, skip_link_targets=False, skip_none=False, format="yaml")
        plain: dict[str, Any] = yaml.safe_load(text)
        return plain

    def make_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Constructs the trainer from its settings and the callbacks that have their own sections."""
        return super()._instantiate_trainer(config, callbacks)

    def set_seed(self) -> None:
        """Sets the random seeds of the process."""
        super()._set_seed()

    def run_command(self, command: str) -> None:
        """Calls the hook before the command, the command, and the hook after it."""
        super()._run_subcommand(command)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        return self.make_trainer(config, callbacks)

    def _set_seed(self) -> None:
        self.set_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_command(subcommand)

    def _parse_ckpt_path(self) -> None:
        """Does nothing, since Lightning would override the command line with the checkpoint's hyper-parameters."""

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Adds the commands of `COMMANDS` with their summaries. Those without a config only appear in the help."""
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        group = parser.add_subcommands()
        trainer_class = cast(type, self.trainer_class)
        for name, command in COMMANDS.items():
            if command.needs == "nothing":  # `main` runs these itself
                group.add_subcommand(name, LightningArgumentParser(), help=command.summary)
                continue
            options = {"description": command.summary, "usage": usage(name), **kwargs.get(name, {})}
            self._subcommand_parsers[name] = self._prepare_subcommand_parser(trainer_class, name, **options)
            cast(OrderedParser, self._subcommand_parsers[name]).arrange_help(name)
            group.add_subcommand(name, self._subcommand_parsers[name], help=command.summary)
