"""The settings of a run: as it began, and what later commands changed."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from meta_lightning.engine.training_record import Differences
from meta_lightning.files import write_whole
from meta_lightning.runs.folders import CONFIG

CHANGES = "config_changes.yaml"
_NO_SETTINGS = ("config", "ckpt_path")
_OF_A_COMMAND = (*_NO_SETTINGS, "untrained", "weights_only")
_ABSENT = "absent"


def keep_config(folder: Path, text: str) -> None:
    """Writes the settings of a new run, or what a resume changes in them.

    ``config.yaml`` stays as the run began. ``config_changes.yaml`` lists, by date, the settings in which a resume
    differs from it.

    Args:
        folder: The run folder.
        text: The settings of this command, as YAML.
    """
    config, changes = folder / CONFIG, folder / CHANGES
    if not config.is_file():
        write_whole({config: text})
        return
    changed = _changed(_load(config), yaml.safe_load(text))
    if changed == _latest(folder):
        return
    entry = [{"date": time.strftime("%Y-%m-%d %H:%M:%S"), "changed": changed}]
    earlier = changes.read_text() if changes.is_file() else f"# Settings of resumes that differ from {CONFIG}.\n"
    write_whole({changes: earlier + yaml.safe_dump(entry, sort_keys=False)})


def command_line(folder: Path, checkpoint: Path, *, changed: bool = True) -> str:
    """The arguments that resume or evaluate a run with the settings it had last, quoted for a shell.

    Args:
        folder: The run folder.
        checkpoint: The checkpoint.
        changed: Whether to repeat what a resume changed.
    """
    arguments = ["--config", str(folder / CONFIG)] if (folder / CONFIG).is_file() else []
    for key, values in (_latest(folder) if changed else {}).items():
        if "now" in values:
            value = values["now"]
            arguments.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return shlex.join([*arguments, "--ckpt_path", str(checkpoint)])


def differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> Differences:
    """The settings of a command that differ from those in a checkpoint, by their keys on the command line.

    A class that another one replaces is one difference, whatever arguments the two have.

    Args:
        now: The settings of the command.
        then: The settings of the run that wrote the checkpoint.

    Example:
        >>> net = {"class_path": "my.Net", "init_args": {"width": 3}}
        >>> wide = {"class_path": "my.Net", "init_args": {"width": 9}}
        >>> differences({"model": {"net": wide}, "seed": 0}, {"model": {"net": net}, "seed": 0})
        {'model.net.width': (9, 3)}
        >>> [*differences({"model": {"net": {"class_path": "my.Other"}}}, {"model": {"net": net}})]
        ['model.net']
    """
    both = ({key: value for key, value in part.items() if key not in _OF_A_COMMAND} for part in (now, then))
    return {key: (here, there) for key, here, there in _differing("", *both)}


def _differing(key: str, now: Any, then: Any) -> Iterator[tuple[str, Any, Any]]:
    if _are_alike(now, then):
        if isinstance(now, list):
            for number, pair in enumerate(zip(now, then, strict=True)):
                yield from _differing(f"{key}[{number}]", *pair)
            return
        for name in sorted(now.keys() | then.keys(), key=str):
            is_class = "class_path" in now and name in ("init_args", "dict_kwargs")
            below = key if is_class else f"{key}.{name}" if key else str(name)
            if is_class:  # no arguments are null, empty or absent
                yield from _differing(below, now.get(name) or {}, then.get(name) or {})
            else:
                yield from _differing(below, now.get(name, _ABSENT), then.get(name, _ABSENT))
    elif (type(now), now) != (type(then), then):  # one batch is 1, and all batches are 1.0
        yield key, now, then


def _are_alike(now: Any, then: Any) -> bool:
    """Whether two settings are mappings, of one class if they name classes, or equally long lists of such settings."""
    if isinstance(now, dict) and isinstance(then, dict):
        return now.get("class_path") == then.get("class_path")
    if isinstance(now, list) and isinstance(then, list) and now and len(now) == len(then):
        return all(isinstance(part, dict) and _are_alike(part, other) for part, other in zip(now, then, strict=True))
    return False


def _latest(folder: Path) -> dict[str, dict[str, Any]]:
    entries = _load(folder / CHANGES)
    latest = entries[-1] if isinstance(entries, list) and entries else {}
    changed = latest.get("changed") if isinstance(latest, dict) else {}
    return changed if isinstance(changed, dict) else {}


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):  # absent, or somebody edited it
        return {}


def _changed(before: Any, now: Any) -> dict[str, dict[str, Any]]:
    """The settings that differ, by their dotted keys. An absent one has no entry."""
    old, new = _flat(before), _flat(now)
    return {
        key: {name: values[key] for name, values in (("began", old), ("now", new)) if key in values}
        for key in sorted(old.keys() | new.keys())
        if (key in old, old.get(key)) != (key in new, new.get(key)) and key not in _NO_SETTINGS
    }


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
