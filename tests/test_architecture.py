"""The shape of the code base: imports go one way, and what the design fixes stays."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "meta_lightning"

# What each layer may import of the package. `types`, `errors`, `files` and `limits` are everybody's.
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "files": set(),
    "limits": set(),
    "version": set(),
    "functional": {"functional"},
    "nets": {"nets"},
    "algorithms": {"algorithms", "functional"},
    "data": {"data", "functional"},
    "statistics": set(),
    "timing": set(),
    "report": {"statistics"},
    "card": {"report", "runs"},
    "seeds": {"report", "runs", "statistics"},
    "drawing": {"statistics"},
    "runs": set(),
    "explain": set(),
    "settings": set(),
    "yaml_guard": set(),
    "rehearsal": {"algorithms"},
    "preflight": {"algorithms", "data", "rehearsal", "runs"},
    "commands": {"algorithms", "callbacks", "commands", "data", "functional", "report", "runs", "statistics", "timing"},
    "callbacks": {
        "algorithms",
        "callbacks",
        "card",
        "data",
        "drawing",
        "functional",
        "report",
        "runs",
        "statistics",
        "version",
    },
}
# The functional core and the nets are usable without Lightning.
TORCH_ONLY = {"functional", "nets", "types"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    of = layer(path)
    if of not in MAY_IMPORT:
        assert of in {"__init__", "__main__", "cli"}, f"{of} is a new layer: say in MAY_IMPORT what it may import"
        return
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("meta_lightning.")}
    layers = {name for name in ours if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()}
    assert layers <= MAY_IMPORT[of] | {"types", "errors", "files", "limits"}


@pytest.mark.parametrize("path", [path for path in modules() if layer(path) in TORCH_ONLY], ids=lambda path: path.name)
def test_the_core_needs_torch_alone(path: Path) -> None:
    import sys

    foreign = {name.split(".")[0] for name in imported(path)} - {*sys.stdlib_module_names, "torch", "meta_lightning"}
    assert not foreign


def test_abstract_or_final() -> None:
    """No concrete class of ours is subclassed, but by classes that torch's own layers make necessary."""
    bases: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    abstract = {name for name, parents in bases.items() if parents & {"ABC", "Protocol"}} | {"_ExactInstanceNorm"}
    subclassed = {parent for parents in bases.values() for parent in parents if parent in bases}
    assert subclassed <= abstract


def test_files_stay_small() -> None:
    long = {str(path): lines for path in modules() if (lines := len(path.read_text().splitlines())) > 300}
    assert not long
