"""The examples in docstrings run, and what a person calls from Python has one."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

import meta_lightning
from meta_lightning import callbacks, data, functional, nets
from meta_lightning.cli import main
from meta_lightning.data import sources

PUBLIC = (meta_lightning, callbacks, data, functional, nets, sources)
MODULES = [
    name for _, name, _ in pkgutil.walk_packages(meta_lightning.__path__, "meta_lightning.") if "__main__" not in name
]


@pytest.fixture(scope="session")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the short run that some examples load."""
    folder = tmp_path_factory.mktemp("doctest")
    short = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--data.val_tasks=4"]
    config = str(repository / "configs/sinusoid/maml.yaml")
    assert main(["fit", "--config", config, *short, f"--trainer.logger.save_dir={folder}/logs"]) == 0
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, globs={**vars(module), "torch": torch})
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        torch.manual_seed(0)
        runner.run(test)
    assert not runner.failures


def public(module: ModuleType) -> list[str]:
    return [
        name
        for name in module.__all__
        if inspect.isfunction(made := getattr(module, name))
        or (inspect.isclass(made) and not issubclass(made, Exception))
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module in (meta_lightning, callbacks, data, functional, nets, sources)
        for name in public(module)
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.rpartition(".")[2],
)
def test_what_is_public_has_an_example(module: ModuleType, name: str) -> None:
    assert "Example:" in (getattr(module, name).__doc__ or "")
