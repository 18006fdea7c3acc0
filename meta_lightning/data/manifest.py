"""Manifests: files that name the content of each episode, so that the episodes can be replayed elsewhere."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from meta_lightning.console import printable
from meta_lightning.errors import ConfigError
from meta_lightning.files import write_whole
from meta_lightning.types import EpisodeShape, Split


class Manifest(NamedTuple):
    """The description of a set of evaluation episodes.

    Attributes:
        source: The fingerprint of the data, see `Source.fingerprint`.
        split: ``val`` or ``test``.
        seed: The seed of the episodes. Random choices inside an episode depend on it, such as the order of queries.
        shape: The shape of an episode.
        episodes: The description of each episode, see `Family.describe`.
    """

    source: str
    split: Split
    seed: int
    shape: EpisodeShape
    episodes: list[Any]


def episode_hash(shape: EpisodeShape, described: Iterable[Any]) -> str:
    """A hash of a set of episodes. It depends on the names of their classes and examples, not on pixels.

    Two runs with the same hash were evaluated on the same tasks.

    Args:
        shape: The shape of an episode.
        described: The description of each episode, see `Family.describe`.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"[{canonical(shape)},[".encode())
    for number, episode in enumerate(described):  # in pieces, as the JSON of all episodes is long
        digest.update(f"{',' if number else ''}{canonical(episode)}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:16]


def write_manifest(manifest: Manifest, path: Path) -> str:
    """Writes a manifest as JSON. The bytes are the same on every machine.

    Returns:
        The hash of the episodes.
    """
    fingerprint = episode_hash(manifest.shape, manifest.episodes)
    content = {**manifest._asdict(), "shape": manifest.shape._asdict(), "episode_hash": fingerprint}
    write_whole({path: canonical(content) + "\n"})
    return fingerprint


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest that `write_manifest` wrote.

    Raises:
        ConfigError: If the file is not a manifest, or if its episodes were changed by hand.
    """
    try:
        content = json.loads(path.read_text())
        manifest = Manifest(
            content["source"], content["split"], _seed(content["seed"]), _shape(content["shape"]),
            list(content["episodes"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"data.episodes: {path} can't be read ({type(error).__name__}: {error}); expected a file that the command "
            "`episodes` wrote"
        ) from error
    if (actual := episode_hash(manifest.shape, manifest.episodes)) != content.get("episode_hash"):
        raise ConfigError(
            f"data.episodes: the episodes in {path} have hash {actual}, but the file states "
            f"{content.get('episode_hash')}: they were changed; write the file again"
        )
    if manifest.split not in ("val", "test"):
        raise ConfigError(
            f"data.episodes: {path} has split {manifest.split!r}; expected val or test: write the file again"
        )
    return manifest


def _seed(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise ValueError(f"seed {printable(value)}")
    return value


def _shape(counts: dict[str, Any]) -> EpisodeShape:
    for value in counts.values():
        if isinstance(value, bool):  # which Python takes for 0 or 1
            raise ValueError(f"shape {printable(counts)}")
    return EpisodeShape(**counts)


def check_manifest(manifest: Manifest, source: str, shape: EpisodeShape, tasks: int) -> None:
    """Checks that a manifest fits the data and the settings.

    Args:
        manifest: The manifest.
        source: The fingerprint of the configured data.
        shape: The configured shape.
        tasks: The configured number of episodes.

    Raises:
        ConfigError: If the source or the shape differs, or if the manifest has too few episodes.
    """
    for key, described, configured in (("source", manifest.source, source), ("shape", manifest.shape, shape)):
        if described != configured:
            raise ConfigError(
                f"data.episodes: the manifest has {key} {described}, but the data has {configured}; make them equal"
            )
    if len(manifest.episodes) < tasks:
        raise ConfigError(
            f"data.{manifest.split}_tasks is {tasks}, but the manifest of data.episodes holds "
            f"{len(manifest.episodes)}; lower data.{manifest.split}_tasks or write a manifest with more episodes"
        )


def canonical(content: Any) -> str:
    """The JSON of a description, the same for equal content."""
    return json.dumps(content, separators=(",", ":"), sort_keys=True)
