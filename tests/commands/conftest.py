"""Runs that several tests of commands start from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .trained import train


@pytest.fixture(scope="session")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a short run by its name; each is trained once."""
    root, folders = tmp_path_factory.mktemp("trained"), {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = train(name, repository, root)
        return folders[name]

    return folder
