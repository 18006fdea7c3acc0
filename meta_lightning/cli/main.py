"""The entry point of the command line: runs a command and reports its errors."""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

from meta_lightning.callbacks.calm import hide_warnings
from meta_lightning.cli.app import MetaCLI
from meta_lightning.cli.help import SHORT_NAMES
from meta_lightning.cli.parser_errors import explain, explain_system_error
from meta_lightning.cli.yaml_checks import check_yaml
from meta_lightning.commands import COMMANDS
from meta_lightning.console import complain
from meta_lightning.engine.user_code import explain_user_error, point_to_cause
from meta_lightning.errors import ConfigError, DivergedError, NotFiniteError
from meta_lightning.files import is_file

# Warnings about calls inside the parser or to it, which users can't act on.
_HIDDEN_WARNINGS = (
    r"\s*Unable to serialize instance",  # the default of a class, which config.yaml leaves out
    r"You're using the WeightAveraging callback, but loading a checkpoint outside",  # it holds the average
    r"LightningCLI's args parameter is intended to run from within Python",
    r"(?s)\s*By default only one JsonargparseDeprecationWarning|\s.*deprecated\s+in\s+v4\.\d+",
)


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: The arguments; None for the arguments of the process.

    Returns:
        The exit code: 0 for success, 1 for a run or an evaluation that diverged, 2 for an error that the user can fix,
        in the settings or in code of their own.

    Example:
        >>> main(["fit", "--config", "no_such_file.yaml"])  # prints "error: ..." on the standard error stream
        2
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with warnings.catch_warnings():
            hide_warnings()
            for message in _HIDDEN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            with _quiet_writers():
                _run(arguments)
    except (ConfigError, MisconfigurationException, DivergedError, NotFiniteError) as error:
        if debug:
            raise
        complain(f"{error}{point_to_cause(error)}")
        return 1 if isinstance(error, DivergedError | NotFiniteError) else 2
    except Exception as error:
        if debug:
            raise
        users = explain_user_error(error)
        complaint = explain_system_error(error, ours=users is None)
        if complaint is None and users is None:
            raise
        complain(complaint or users or "", everywhere=complaint is None)  # it may be the code of one process alone
        return 2
    return 0


@contextmanager
def _quiet_writers() -> Iterator[None]:
    """Keeps TensorBoard's threads from printing a traceback: the main thread raises their error again."""
    former = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            former(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = former


def _run(arguments: list[str]) -> None:
    name = next(iter(arguments), "")
    command = COMMANDS.get(name)
    if command is None or command.needs != "nothing":
        MetaCLI(arguments)
        return
    parser = ArgumentParser(exit_on_error=False, prog=f"meta-lightning {name}", description=command.summary)
    parser.add_function_arguments(command.function, as_positional=True)
    try:
        given = parser.parse_args(arguments[1:]).as_dict()
    except ArgumentError as error:
        text = explain(str(error), signature(command.function).parameters, SHORT_NAMES, COMMANDS)
        raise ConfigError(f"{name}: {text.removesuffix(' or in --config')}") from error
    if (config := given.get("config")) is not None and is_file(config):
        check_yaml(config)
    command.function(**given)


def console() -> None:
    """The console script: runs `main`, and exits with its exit code.

    Modules of the working folder are found first, as with ``python -m meta_lightning``.
    """
    folder = os.getcwd()  # noqa: PTH109 - `sys.path` holds strings
    if not sys.flags.safe_path and not {"", folder} & {*sys.path}:
        sys.path.insert(0, folder)
    sys.exit(main())
