"""The parser's complaints, cut down to the key, what was found and what was expected."""

import errno
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from inspect import signature


def explain(text: str, options: Iterable[str], classes: Mapping[str, Iterable[str]]) -> str:
    """One line for what the parser says of a command line or a config file.

    The parser reports every branch of every union that it tried. Its text is read from the inside: the innermost
    complaint, and the chain of keys that leads to it.

    Args:
        text: The parser's message.
        options: The dotted keys that it knows, for suggestions.
        classes: The short class names that a key takes, by the key's last part.

    Returns:
        The line. A message of unknown shape is returned whole, on one line.
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    if found := re.search(r"Option '(.+?)' is not accepted", text):
        return _unknown_key(f"{key}.{found[1]}", (f"{key}.{name}" for name in _parameters(text)))
    if found := re.search(r"does not accept option '(.+?)'|unrecognized arguments: --(\S+)", text):
        return _unknown_key(found[1] or found[2].partition("=")[0], options)
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        return f"there is no place for {found[1]}; put a pattern in quotes, and a list in brackets: '[a, b]'"
    if found := re.search(r"(?:invalid choice: '(\S+)' \(choose from|\"subcommand\" to be one of) ([^)]+?)[),]", text):
        given = f"there is no command {found[1]}" if found[1] else "no command given"
        return f"{given}; expected fit, validate, test, episodes or compare"
    if found := re.search(r"arguments are required: (.+)", text):
        missing = re.sub(r"\b(fit|validate|test|episodes)\.", "", found[1])
        return f"{key or 'the command line'} lacks {missing}; set it there or in --config"
    if "has no attribute" in text and (found := re.search(r"Got value: (?:Namespace\(class_path=')?([\w.]+)", text)):
        return _unknown_class(key, found[1], classes)
    if found := re.search(r"Problem with given class_path '(\S+)':\s+(?:No module|module|.*not correspond)", text):
        return _unknown_class(key, found[1], classes)
    if found := re.search(r"Import path ?(\S*) does not correspond to a subclass of (\w+)", text):
        given = found[1] or text.rpartition("Given value: ")[2]
        return f"{key} is {given}, which is no {found[2]}; expected {_known_classes(key, classes)}"
    if found := re.search(r"Expected '(\S+)' to be a function that returns <class '(\w+)'>", text):
        return f"{key} is {found[1]}, which makes no {found[2]}; expected {_known_classes(key, classes)}"
    if found := re.search(r'Empty nested key: "(.*)"', text):
        return f"{found[1]!r} is no name of a setting; expected names with single dots between them"
    if "Expected an instantiatable class" in text:
        return f"{key} is an abstract class; expected {_known_classes(key, classes)}"
    takes_number = re.search(r"Expected a <class '(int|float)'>", text)
    if not takes_number and (found := re.search(r"Expected a dot import path string: (\S+)", text)):
        return _unknown_class(key, found[1], classes)
    if found := re.search(r"Expected an? (.+?)\. Got value: (.+)", text):
        return f"{key} is {found[2]}; expected {_readable(found[1])}"
    if key == "config":
        return f"--config: {text.partition(': ')[2]}"
    if found := re.search(r"Given value: (.+)", text):
        kinds = re.findall(r"Expected an? (<class.+>|typing\.Literal\[.+\])", text[: found.start()])
        expected = [_readable(kind) for kind in kinds] + ["a function"] * (
            "expects a function" in text[text.rfind("Parser key") :]
        )
        nested = re.fullmatch(r"NestedArg\(key='.*?', val='?(.*?)'?\)", found[1])
        given = nested[1] if nested else found[1].partition(". Got")[0]
        if expected:
            return f"{key} is {given}; expected {' or '.join(dict.fromkeys(expected))}"
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


def _unknown_class(key: str, found: str, classes: Mapping[str, Iterable[str]]) -> str:
    return f"{key}: there is no class {found}; expected {_known_classes(key, classes)}"


def _known_classes(key: str, classes: Mapping[str, Iterable[str]]) -> str:
    known = [*classes.get(key.rpartition(".")[2], ())]
    ours = f"one of {', '.join(known)}, or " if known else ""
    return f"{ours}the dotted path of a class"


def _parameters(text: str) -> list[str]:
    """The arguments of the class that the innermost complaint is about."""
    paths = re.findall(r"Problem with given class_path '(.+?)'", text)
    if not paths:
        return []
    module, _, name = paths[-1].rpartition(".")
    return [*signature(getattr(import_module(module), name)).parameters]


def _readable(kind: str) -> str:
    """``<class 'float'>`` as ``float``, ``typing.Literal['a', 'b']`` as ``'a' or 'b'``."""
    if found := re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", kind):
        return "null" if found[1] == "NoneType" else found[1]
    if found := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return " or ".join(found[1].split(", "))
    return kind


# No room: on the disk, in a quota, in a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def of_the_machine(error: BaseException) -> str | None:
    """One line for what is no defect of the program: files that can't be made, memory that is not there.

    Returns:
        The line; None for anything else.
    """
    if isinstance(error, OSError) and error.errno in _FULL and not error.filename:  # TensorBoard's writer names no file
        return f"a log can't be written ({error.strerror}): make room, and go on with --ckpt_path last"
    if isinstance(error, OSError):
        return error.filename and f"{error.filename}: {error.strerror}; check the paths in the settings"
    text = str(error)
    if isinstance(error, MemoryError) or "allocate" in text or "out of memory" in text:
        return f"memory is used up ({text.partition(chr(10))[0]}); lower the sizes under data, or set model.task_chunk"
    return None
