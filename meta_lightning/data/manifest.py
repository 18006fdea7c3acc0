"""Episodes written down: what each consists of, by name, to be replayed elsewhere."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape


class Manifest(NamedTuple):
    """A set of episodes.

    Attributes:
        source: The fingerprint of the data that they are of.
        split: ``train``, ``val`` or ``test``.
        shape: Of an episode.
        episodes: What each consists of, as `Family.describe` says it.
    """

    source: str
    split: str
    shape: EpisodeShape
    episodes: list[Any]


def episode_hash(shape: EpisodeShape, described: Iterable[Any]) -> str:
    """A fingerprint of a set of episodes: the names of what each consists of, never its pixels.

    Two runs with the same hash were judged on the same tasks.

    Args:
        shape: Of an episode.
        described: What each consists of, as `Family.describe` says it.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"[{_text(shape)},[".encode())
    for number, episode in enumerate(described):  # the JSON of both, in pieces: ten thousand episodes are long
        digest.update(f"{',' if number else ''}{_text(episode)}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:16]


def write_manifest(manifest: Manifest, path: Path) -> str:
    """Writes episodes as JSON, the same bytes on every machine.

    Returns:
        Their hash.
    """
    fingerprint = episode_hash(manifest.shape, manifest.episodes)
    content = {**manifest._asdict(), "shape": manifest.shape._asdict(), "episode_hash": fingerprint}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_text(content) + "\n")
    return fingerprint


def read_manifest(path: Path) -> Manifest:
    """Reads what `write_manifest` wrote.

    Raises:
        ConfigError: If it is no manifest, or was changed by hand.
    """
    try:
        content = json.loads(path.read_text())
        manifest = Manifest(
            content["source"], content["split"], EpisodeShape(**content["shape"]), list(content["episodes"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"data.episodes: {path} can't be read ({type(error).__name__}: {error}); expected a file that the command "
            "`episodes` wrote"
        ) from error
    if (found := episode_hash(manifest.shape, manifest.episodes)) != content.get("episode_hash"):
        raise ConfigError(
            f"data.episodes: {path} has hash {found}, but says {content.get('episode_hash')}: its episodes were "
            "changed; write it anew"
        )
    if manifest.split not in ("val", "test"):
        raise ConfigError(f"data.episodes: {path} is of split {manifest.split!r}; expected val or test: write it anew")
    return manifest


def check_manifest(manifest: Manifest, source: str, shape: EpisodeShape, tasks: int) -> None:
    """Refuses episodes of other data, of another shape, or too few of them.

    Args:
        manifest: What was written down.
        source: The fingerprint of the data at hand.
        shape: The shape that the settings ask for.
        tasks: How many the settings ask for.

    Raises:
        ConfigError: Names both values and the key to change.
    """
    for key, there, here in (("source", manifest.source, source), ("shape", manifest.shape, shape)):
        if there != here:
            raise ConfigError(
                f"data.episodes: the manifest is of {key} {there}, but data is of {here}; make them equal"
            )
    if len(manifest.episodes) < tasks:
        raise ConfigError(
            f"data.{manifest.split}_tasks is {tasks}, but the manifest of data.episodes holds "
            f"{len(manifest.episodes)}; lower it, or write more"
        )


def _text(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), sort_keys=True)
