"""Checks of a config's text before it is parsed: its expanded size, its depth, and duplicate keys."""

from pathlib import Path
from typing import NamedTuple

import yaml

from meta_lightning.errors import ConfigError

_MAX_NODES, _MAX_DEPTH = 10_000, 50


class _OpenCollection(NamedTuple):
    """A mapping or sequence that has not ended yet.

    Attributes:
        anchor: The name of its anchor, if it has one.
        nodes_before: The number of nodes before it.
        keys: The keys of a mapping so far; None for a sequence.
    """

    anchor: str | None
    nodes_before: int
    keys: set[str] | None


def check_yaml(path: Path) -> None:
    """Refuses a file that is not a mapping, that expands to too many entries, or that has a duplicate key.

    The parser would use the last of two equal keys.

    Args:
        path: A YAML file. The parser reports other syntax errors.

    Raises:
        ConfigError: If the file is refused. The message names the key, the limit, or the content that was found.
    """
    try:
        _walk(path)
    except (yaml.YAMLError, UnicodeDecodeError):
        return


def _walk(path: Path) -> None:
    sizes: dict[str, int] = {}  # the number of nodes of each anchor
    open_collections: list[_OpenCollection] = []
    positions: list[int] = []  # the number of children so far of each open collection; keys and values alternate
    nodes = 0
    for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = open_collections.pop()
            positions.pop()
            if ended.anchor:
                sizes[ended.anchor] = nodes - ended.nodes_before
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.AliasEvent) and any(event.anchor == opened.anchor for opened in open_collections):
                raise ConfigError(f"{path}: &{event.anchor} contains itself (*{event.anchor}); remove that alias")
            if not nodes and not isinstance(event, yaml.MappingStartEvent):
                raise _not_a_mapping(path, "a list" if isinstance(event, yaml.CollectionStartEvent) else "one value")
            if open_collections and open_collections[-1].keys is not None:
                _record_key(event, open_collections[-1].keys, positions[-1], path)
            if positions:
                positions[-1] += 1
            nodes_before = nodes
            nodes += sizes.get(str(event.anchor), 1) if isinstance(event, yaml.AliasEvent) else 1
            if isinstance(event, yaml.CollectionStartEvent):
                keys = set[str]() if isinstance(event, yaml.MappingStartEvent) else None
                open_collections.append(_OpenCollection(event.anchor, nodes_before, keys))
                positions.append(0)
        if nodes > _MAX_NODES or len(open_collections) > _MAX_DEPTH:
            raise ConfigError(f"{path} has more than {_MAX_NODES} entries or {_MAX_DEPTH} levels; expected a config")
    if not nodes:
        raise _not_a_mapping(path, "nothing")


def _not_a_mapping(path: Path, content: str) -> ConfigError:
    return ConfigError(f"{path} holds {content}; expected a mapping with sections such as model, data and trainer")


def _record_key(event: yaml.NodeEvent, keys: set[str], position: int, path: Path) -> None:
    if position % 2 or not isinstance(event, yaml.ScalarEvent) or event.value == "<<":
        return
    if event.value in keys:
        raise ConfigError(f"{path}: {event.value} is given twice; leave one of them out")
    keys.add(event.value)
