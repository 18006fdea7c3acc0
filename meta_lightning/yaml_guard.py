"""A look at a config's text before it is built: what it would grow to, how deep it is, and keys given twice."""

from pathlib import Path
from typing import NamedTuple

import yaml

from meta_lightning.errors import ConfigError

_MOST_NODES, _DEEPEST = 10_000, 50


class _Open(NamedTuple):
    """A mapping or sequence whose end is still to come."""

    anchor: str | None
    nodes_before: int
    keys: set[str] | None  # of a mapping


def check_yaml(path: Path) -> None:
    """Refuses a text that is no mapping, that would grow out of bounds, or that gives a key twice.

    The parser would take the last of two.

    Args:
        path: A YAML file. Other faults of syntax are left to the parser.

    Raises:
        ConfigError: Names the key, the bound, or what stands there instead of a mapping.
    """
    try:
        _walk(path)
    except (yaml.YAMLError, UnicodeDecodeError):
        return


def _walk(path: Path) -> None:
    sizes: dict[str, int] = {}  # what each anchor stands for
    above: list[_Open] = []
    places: list[int] = []  # how many children each of those above has had: keys and values take turns
    nodes = 0
    for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = above.pop()
            places.pop()
            if ended.anchor:
                sizes[ended.anchor] = nodes - ended.nodes_before
        elif isinstance(event, yaml.NodeEvent):
            if not nodes and not isinstance(event, yaml.MappingStartEvent):
                raise _no_mapping(path, "a list" if isinstance(event, yaml.CollectionStartEvent) else "one value")
            if above and above[-1].keys is not None:
                _note_key(event, above[-1].keys, places[-1], path)
            if places:
                places[-1] += 1
            before, nodes = (
                nodes,
                nodes + (sizes.get(str(event.anchor), 1) if isinstance(event, yaml.AliasEvent) else 1),
            )
            if isinstance(event, yaml.CollectionStartEvent):
                above.append(_Open(event.anchor, before, set() if isinstance(event, yaml.MappingStartEvent) else None))
                places.append(0)
        if nodes > _MOST_NODES or len(above) > _DEEPEST:
            raise ConfigError(f"{path} has more than {_MOST_NODES} entries or {_DEEPEST} levels; expected a config")
    if not nodes:
        raise _no_mapping(path, "nothing")


def _no_mapping(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} holds {what}; expected a mapping with sections such as model, data and trainer")


def _note_key(event: yaml.NodeEvent, keys: set[str], place: int, path: Path) -> None:
    if place % 2 or not isinstance(event, yaml.ScalarEvent) or event.value == "<<":
        return
    if event.value in keys:
        raise ConfigError(f"{path}: {event.value} is given twice; leave one of them out")
    keys.add(event.value)
