"""The help of the command line: its texts, their order, and the help of classes that keys name."""

import inspect
from types import ModuleType

from rich.table import Table
from torch import nn

from meta_lightning import algorithms, nets
from meta_lightning.algorithms import MetaModule
from meta_lightning.console import show
from meta_lightning.data import Source, sources
from meta_lightning.errors import ConfigError

_KINDS: dict[str, tuple[ModuleType, type]] = {
    "model": (algorithms, MetaModule),
    "net": (nets, nn.Module),
    "source": (sources, Source),
}


def _named(package: ModuleType, kind: type) -> dict[str, type]:
    classes = {name: getattr(package, name) for name in package.__all__}
    return {name: cls for name, cls in classes.items() if issubclass(cls, kind) and not inspect.isabstract(cls)}


_CLASSES = {key: _named(*owner) for key, owner in _KINDS.items()}

SHORT_NAMES = {key: [*classes] for key, classes in _CLASSES.items()}
"""The classes that a config may name without their module, by key. It names any other class by its dotted path."""

ROOT_EPILOG = "After any command, --debug shows where an error came from."

# The sections of a command's help by the first part of their keys. None stands for the arguments of the command itself.
_SECTIONS: dict[str | None, str] = {
    "model": "The method (keys of one: --model.help MAMLModule; keys of a net: --model.net.help Conv4)",
    "data": "The episodes (keys of a source: --data.source.help Glyphs)",
    None: "The command",
    "checkpoint": "What the best checkpoint is",
    "report": "The report of a test",
    "figures": "Plots of adaptation, in TensorBoard",
    "trainer": "Lightning's trainer",
}

# In the place of Lightning's texts, which are about features that this command line does not have.
_KEY_HELP = {
    "seed_everything": "The random seed; true for a new one.",
    "ckpt_path": "The checkpoint: ``last`` or ``best`` of the newest run, or a path.",
    "weights_only": "Load only tensors and plain data from the checkpoint; null for true.",
}
_COMMAND_HELP = {
    (
        "fit",
        "ckpt_path",
    ): "Resume ``last`` or ``best`` of the newest run, or a path. Null for a new run.",
    (
        "test",
        "ckpt_path",
    ): "``last`` or ``best`` of the newest run, a path, a pattern in quotes, or a list.",
}

_MOST_NAMES = 20  # of classes in a text


def usage(command: str) -> str:
    """The first line of a command's help."""
    return f"meta-lightning {command} --config FILE [--KEY VALUE ...]"


def section(keys: list[str]) -> tuple[int, str] | None:
    """The place and the title of a section with these keys; None for the options at the top."""
    first = keys[0].partition(".")[0] if keys else ""
    if first in ("", "help", "config", "print_config", "seed_everything"):
        return None
    name = first if first in _SECTIONS else None
    return [*_SECTIONS].index(name), _SECTIONS[name]


def key_help(command: str, key: str) -> str | None:
    """The text of a key, in the place of Lightning's; None where that stays."""
    return _COMMAND_HELP.get((command, key)) or _KEY_HELP.get(key)


def class_names(key: str, known: list[str]) -> str:
    """Which classes a key may name, for its text. The parser knows every subclass in memory, hundreds for a net.

    Example:
        >>> class_names("model.net", ["torch.nn.Linear", "meta_lightning.nets.MLP"])
        ', MLP, Conv4 or the dotted path of another class'
        >>> class_names("trainer.profiler", ["a.SimpleProfiler", "a.AdvancedProfiler"])
        ', a class such as SimpleProfiler, AdvancedProfiler'
        >>> class_names("model.loss", ["a.Class"] * 100)
        ', or the dotted path of a class'
    """
    if short := SHORT_NAMES.get(key.rpartition(".")[2]):
        return f", {', '.join(short)} or the dotted path of another class"
    if len(known) > _MOST_NAMES:
        return ", or the dotted path of a class"
    return f", a class such as {', '.join(dict.fromkeys(path.rpartition('.')[2] for path in known))}"


def class_help(arguments: list[str]) -> list[str]:
    """Finds a request for the help of a class, and answers it or puts it as the parser understands it.

    Args:
        arguments: The arguments of the command line.

    Returns:
        The arguments. The keys of a net, an optimizer or a schedule are those of a method's constructor, so the parser
        has to be asked for the method first.

    Raises:
        SystemExit: If the answer was printed.
        ConfigError: If there is no such class.

    Example:
        >>> class_help(["fit", "--model.net.help", "Conv4"])
        ['fit', '--model.help=MAMLModule', '--model.net.help', 'Conv4']
    """
    for number, argument in enumerate(arguments):
        flag, has_value, value = argument.partition("=")
        if not flag.startswith("--") or not flag.endswith(".help"):
            continue
        following = value if has_value else next(iter(arguments[number + 1 :]), "")
        key = flag[2:].removesuffix(".help")
        kind = key.rpartition(".")[2]
        if kind in _CLASSES and (not following or following.startswith("-")):
            show(_table(flag, _CLASSES[kind]))
            raise SystemExit(0)
        if kind in _CLASSES and following not in _CLASSES[kind] and "." not in following:
            known = f"one of {', '.join(SHORT_NAMES[kind])}, or the dotted path of a class"
            raise ConfigError(f"{flag}: there is no class {following}; expected {known}")
        if key.startswith("model.") and "--model.help" not in "".join(arguments[:number]):
            method = f"--model.help={_method(arguments)}"
            return [*arguments[:1], method, *arguments[number : number + (1 if has_value else 2)]]
    return arguments


def _method(arguments: list[str]) -> str:
    """The method that the arguments name, or else the first one."""
    for number, argument in enumerate(arguments):
        flag, has_value, value = argument.partition("=")
        if flag in ("--model", "--model.class_path"):
            return value if has_value else next(iter(arguments[number + 1 :]), "")
    return SHORT_NAMES["model"][0]


def _table(flag: str, classes: dict[str, type]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, cls in classes.items():
        table.add_row(f"{flag} {name}", (cls.__doc__ or "").partition("\n")[0])
    return table
