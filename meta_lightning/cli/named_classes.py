"""The classes that arguments and config files name, and why one of them can't be imported."""

import itertools
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from meta_lightning.engine.user_code import summarize
from meta_lightning.errors import ConfigError

# The keys whose value may be the path of a class alone, without `class_path`.
_CLASS_KEYS = ("model", "net", "source", "loss", "optimizer", "lr_scheduler", "logger", "callbacks", "profiler")


def check_imports(arguments: list[str]) -> None:
    """Refuses the first class that arguments name and that can't be imported.

    The parser leaves out why. This is asked once the parser has failed.

    Args:
        arguments: The arguments of the command line.

    Raises:
        ConfigError: Names the key and the module, and what the import raised, or what the module lacks.
    """
    for key, path in _named(arguments):
        module = path.rpartition(".")[0]
        error = _import_error(module)
        if error is not None:
            raise ConfigError(f"{key} is {path}, but importing {module} fails: {summarize(error)}") from error
        if reason := why_unknown(path):
            raise ConfigError(f"{key}: there is no class {path}, because {reason}")


def _named(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """The keys of arguments and config files that name a class by its dotted path, and that path."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, has_value, value = argument.partition("=")
        value = value if has_value else following
        if flag in ("--config", "-c"):
            yield from _named_in("", _load(Path(value)))
        elif flag.startswith("--"):
            yield from _named_in(flag[2:].rstrip("+"), _load(value))


def _load(given: str | Path) -> Any:
    try:
        return yaml.safe_load(given.read_text() if isinstance(given, Path) else given)
    except (yaml.YAMLError, ValueError, OSError, RecursionError):  # the parser has a message for it
        return None


def _named_in(key: str, value: Any) -> Iterator[tuple[str, str]]:
    key = key.removesuffix(".init_args").removesuffix(".dict_kwargs").replace(".init_args.", ".")
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _named_in(f"{key}.{name}" if key else str(name), below)
    elif isinstance(value, list):
        for below in value:
            yield from _named_in(key, below)
    elif isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        owner, _, last = key.rpartition(".")
        if last == "class_path":
            yield owner, value
        elif last in _CLASS_KEYS:
            yield key, value


def _import_error(module: str) -> BaseException | None:
    """What importing a module raises; None if it can be imported, or if there is no such module."""
    while module:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module and not module.startswith(f"{error.name}."):
                return error  # another module, which this one imports
            module = module.rpartition(".")[0]
        except (Exception, SystemExit) as error:  # a module may raise anything, and a script may end here
            return error
        else:
            return None
    return None


def why_unknown(path: str) -> str | None:
    """Why there is nothing of a dotted path, as far as that can be told; None if there is.

    Example:
        >>> why_unknown("no_module_of_mine.Net")
        'there is no module no_module_of_mine in this folder, on PYTHONPATH or installed'
        >>> why_unknown("meta_lightning.nets.Conf4")
        'meta_lightning.nets has no Conf4; did you mean meta_lightning.nets.Conv4?'
    """
    parts = path.split(".")
    top = parts[0]
    if _import_error(top) is not None:
        return None
    if top not in sys.modules:
        return f"there is no module {top} in this folder, on PYTHONPATH or installed"
    found: Any = sys.modules[top]
    for number, part in enumerate(parts[1:], start=1):
        name = ".".join(parts[:number])
        if not hasattr(found, part) and isinstance(found, ModuleType) and _import_error(f"{name}.{part}") is not None:
            return None
        if not hasattr(found, part):
            return _hiding(found, top) or f"{name} has no {part}{_suggestion(found, name, part)}"
        found = getattr(found, part)
    return None


def _suggestion(found: Any, name: str, part: str) -> str:
    public = [known for known in vars(found) if not known.startswith("_")]
    close = get_close_matches(part, public, n=1, cutoff=0.7)
    return f"; did you mean {name}.{close[0]}?" if close else ""


def _hiding(found: Any, top: str) -> str | None:
    """The reason if another module has the name of a file in the working folder."""
    file = Path(f"{top}.py")
    used = getattr(found, "__file__", None) or "built into Python"
    if not isinstance(found, ModuleType) or not file.is_file() or file.resolve() == Path(used).resolve():
        return None
    return f"the module {top} is not {file} of this folder but {used}; rename the file"
