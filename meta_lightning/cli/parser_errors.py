"""Error messages of the parser and the system, reduced to the key, the value found and the value expected."""

import errno
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from inspect import Parameter, isfunction, signature
from pathlib import Path

from meta_lightning.engine.recipes import import_class
from meta_lightning.errors import ConfigError

_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def explain(text: str, options: Iterable[str], classes: Mapping[str, Iterable[str]], commands: Iterable[str]) -> str:
    """Reduces an error message of the parser to one line.

    The parser reports every branch of every union that it tried. The line consists of the innermost error and the
    chain of keys that leads to it.

    Args:
        text: The parser's message.
        options: The dotted keys that the parser knows, for suggestions.
        classes: The short class names that a key takes, by the key's last part.
        commands: The names of all commands.

    Returns:
        The line. A message of an unknown form is returned complete, on one line.

    Example:
        >>> explain("unrecognized arguments: --data.shotz=1", ["data.shots", "data.ways"], {}, [])
        'there is no key data.shotz; did you mean data.shots?'
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    if match := re.search(r"Option '(.+?)' is not accepted", text):
        parameters, is_open = _parameters(text)
        if is_open and not get_close_matches(match[1], parameters, n=1, cutoff=0.8):
            return f"{key} does not state the argument {match[1]}; expected it under dict_kwargs, beside init_args"
        if not parameters:
            return f"there is no key {key}.{match[1]}: {_arguments(text)}"
        return _unknown_key(f"{key}.{match[1]}", (f"{key}.{name}" for name in parameters))
    if match := re.search(r"does not accept option '(.+?)'|unrecognized arguments: --(\S+)", text):
        return _unknown_key(match[1] or match[2].partition("=")[0], options)
    if match := re.search(r"unrecognized arguments: (\S+)", text):
        return f"unexpected argument {match[1]}; put a pattern in quotes, and a list in brackets: '[a, b]'"
    if match := re.search(r"(?:invalid choice: '(\S+)' \(choose from|\"subcommand\" to be one of) ([^)]+?)[),]", text):
        problem = f"there is no command {match[1]}" if match[1] else "no command given"
        return f"{problem}; expected one of {', '.join(commands)}"
    if match := re.search(r"arguments are required: (.+)", text):
        missing = re.sub(rf"\b({'|'.join(commands)})\.", "", match[1])
        linked = "; a net whose out_features has the default None gets data.ways" if missing == "out_features" else ""
        return f"{key or 'the command line'} lacks {missing}; set it there or in --config{linked}"
    if "has no attribute" in text and (match := re.search(r"Got value: (?:Namespace\(class_path=')?([\w.]+)", text)):
        return _unknown_class(key, match[1], classes)
    if match := re.search(r"Problem with given class_path '(\S+)':\s+(?:No module|module|.*not correspond)", text):
        return _unknown_class(key, match[1], classes)
    if match := re.search(r"Import path ?(\S*) does not correspond to a subclass of (\w+)", text):
        value = match[1] or text.rpartition("Given value: ")[2]
        known = f"{_known_classes(key, classes)}{_annotation_advice(value)}"
        return f"{key} is {value}, which is not a {match[2]}; expected {known}"
    if match := re.search(r"Expected '(\S+)' to be a function that returns <class '(\w+)'>", text):
        known = f"{_known_classes(key, classes)}{_annotation_advice(match[1])}"
        return f"{key} is {match[1]}, which returns no {match[2]}; expected {known}"
    if match := re.search(r'Empty nested key: "(.*)"', text):
        return f"{match[1]!r} is not a setting's name; expected names separated by single dots"
    if "Expected an instantiatable class" in text:
        return _unfinished_class(key, text) or f"{key} is an abstract class; expected {_known_classes(key, classes)}"
    takes_number = re.search(r"Expected a <class '(int|float)'>", text)
    if not takes_number and (match := re.search(r"Expected a dot import path string: (\S+)", text)):
        return _unknown_class(key, match[1], classes)
    if match := re.search(r"Expected an? (.+?)\. Got value: (.+)", text):
        return f"{key} is {match[2]}; expected {_readable(match[1])}"
    if key == "config":
        return f"--config: {text.partition(': ')[2]}"
    if match := re.search(r"Given value: (.+)", text):
        kinds = re.findall(r"Expected an? (<class.+>|typing\.Literal\[.+\])", text[: match.start()])
        expected = [_readable(kind) for kind in kinds] + ["a function"] * (
            "expects a function" in text[text.rfind("Parser key") :]
        )
        nested = re.fullmatch(r"NestedArg\(key='.*?', val='?(.*?)'?\)", match[1])
        value = nested[1] if nested else match[1].partition(". Got")[0]
        if expected:
            return f"{key} is {value}; expected {' or '.join(dict.fromkeys(expected))}"
    return " ".join(text.split())


def _unknown_key(key: str, known: Iterable[str]) -> str:
    known = sorted(set(known))
    groups = {name.partition(".")[0] for name in known}
    group = key.partition(".")[0]
    if group not in groups:
        key, known = group, sorted(groups)
    close = get_close_matches(key, known, n=1, cutoff=0.8)
    if close:
        return f"there is no key {key}; did you mean {close[0]}?"
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    return f"there is no key {key}; expected {'one of ' + ', '.join(siblings) if siblings else 'a key of --help'}"


def _unknown_class(key: str, name: str, classes: Mapping[str, Iterable[str]]) -> str:
    return f"{key}: there is no class {name}; expected {_known_classes(key, classes)}"


def _known_classes(key: str, classes: Mapping[str, Iterable[str]]) -> str:
    known = [*classes.get(key.rpartition(".")[2], ())]
    short_names = f"one of {', '.join(known)}, or " if known else ""
    return f"{short_names}the dotted path of a class" + (" or a function" if key.endswith(".loss") else "")


def _unfinished_class(key: str, text: str) -> str | None:
    """What a class lacks that the user wrote; None for a class that is abstract on purpose."""
    match = re.search(r"but (\S+) is abstract$|Given value: (?:Namespace\(class_path=')?([\w.]+)", text)
    path = (match[1] or match[2]) if match else ""
    if "." not in path or path.startswith("meta_lightning."):
        return None
    lacks = sorted(getattr(import_class(path), "__abstractmethods__", ()))
    return f"{key} is {path}, which does not define {', '.join(lacks)}; define what its base class asks for"


def _arguments(text: str) -> str:
    """What the class takes that the innermost error is about, where its arguments have no names."""
    path = re.findall(r"Problem with given class_path '(.+?)'", text)[-1]
    for parameter in signature(import_class(path)).parameters.values():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            name = parameter.name
            return f"{path} takes *{name}, which a config can't name; give it one parameter, such as {name}: list[int]"
    return f"{path} takes no arguments"


def _parameters(text: str) -> tuple[list[str], bool]:
    """The parameters of the class or function that the innermost error is about, and whether it takes ``**kwargs``."""
    paths = re.findall(r"Problem with given class_path '(.+?)'", text)
    if not paths:
        return [], False
    named = import_class(paths[-1])
    parameters = signature(named).parameters.values()
    stated = [parameter.name for parameter in parameters if parameter.kind not in _VARIADIC]
    ours = named.__module__.startswith("meta_lightning.")  # the parser knows every argument of these
    return stated, not ours and any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)


def _annotation_advice(path: str) -> str:
    """Advice for a function without a return annotation; empty for anything else."""
    try:
        named = import_class(path)
    except ConfigError:
        return ""
    if isfunction(named) and "return" not in named.__annotations__:
        return "; annotate what the function returns, for example with '-> torch.nn.Module'"
    return ""


def _readable(kind: str) -> str:
    """Turns ``<class 'float'>`` into ``float``, and ``typing.Literal['a', 'b']`` into ``'a' or 'b'``."""
    if match := re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", kind):
        return "null" if match[1] == "NoneType" else match[1]
    if match := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return " or ".join(match[1].split(", "))
    return kind


# No space on the disk, in the quota, or below the file-size limit.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain_system_error(error: BaseException, *, ours: bool = True) -> str | None:
    """One line for an error that is not a defect of the program: a file that can't be used, or too little memory.

    Args:
        error: The error.
        ours: Whether no code of the user's was running. A file that such code can't use is not named by a setting.

    Returns:
        The line; None for any other error.

    Example:
        >>> explain_system_error(FileNotFoundError(2, "No such file or directory", "logs/run"))
        'logs/run: No such file or directory; check the paths in the settings'
    """
    # The errors of TensorBoard's writer have no file name.
    if isinstance(error, OSError) and error.errno in _NO_SPACE and not error.filename:
        return f"a log can't be written ({error.strerror}): free some space and resume with --ckpt_path last"
    if isinstance(error, FileNotFoundError) and "events.out.tfevents" in str(error.filename):  # it was there before
        folder = Path(os.fsdecode(error.filename)).parent
        return f"{folder} was deleted while its run was trained; start a new run"
    if isinstance(error, OSError):
        named = f"{error.filename}: {error.strerror}; check the paths in the settings"
        return named if ours and error.filename else None
    text = str(error)
    is_memory = isinstance(error, RuntimeError) and any(word in text for word in ("allocate memory", "out of memory"))
    if isinstance(error, MemoryError) or is_memory:
        return f"out of memory ({text.partition(chr(10))[0]}); lower the sizes under data, or set model.task_chunk"
    return None
