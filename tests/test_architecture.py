"""The shape of the code base: imports go one way from wing to wing, and what the design fixes stays."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "meta_lightning"

# The wings from the bottom to the top, and what each may import of the package beside itself.
EVERYBODYS = {"types", "errors", "console", "files", "version"}
MAY_IMPORT: dict[str, set[str]] = {
    "functional": set(),
    "nets": {"functional"},
    "engine": {"functional"},
    "algorithms": {"engine", "functional"},
    "data": {"functional"},
    "runs": {"algorithms", "data", "engine", "functional"},
    "checks": {"algorithms", "data", "engine", "functional", "runs"},
    "reporting": {"algorithms", "data", "engine", "functional", "runs"},
    "callbacks": {"checks", "algorithms", "data", "engine", "functional", "reporting", "runs"},
    "profiling": {"algorithms", "callbacks", "data"},
    "commands": {"algorithms", "checks", "data", "engine", "functional", "profiling", "reporting", "runs"},
    "cli": {"algorithms", "callbacks", "checks", "commands", "data", "engine", "nets", "reporting", "runs"},
}
TOP = {"__init__", "__main__"}
# The functional core and the nets are usable without Lightning.
TORCH_ONLY = {"functional", "nets", "types"}
MAX_LINES = 400


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def wing(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_file_stands_in_a_wing() -> None:
    assert {wing(path) for path in modules()} == {*MAY_IMPORT} | EVERYBODYS | TOP


def test_no_two_wings_import_each_other() -> None:
    order = [*MAY_IMPORT]
    for number, name in enumerate(order):
        assert MAY_IMPORT[name] <= set(order[:number]), f"{name} may import a wing above itself"


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_go_one_way(name: str) -> None:
    wings = {*MAY_IMPORT} | TOP
    for path in modules():
        if wing(path) == name:
            ours = {found.split(".")[1] for found in imported(path) if found.startswith("meta_lightning.")}
            assert ours & wings <= MAY_IMPORT[name] | {name}, path


@pytest.mark.parametrize("name", sorted(EVERYBODYS))
def test_what_is_everybodys_imports_no_wing(name: str) -> None:
    ours = {found.split(".")[1] for found in imported(PACKAGE / f"{name}.py") if found.startswith("meta_lightning.")}
    assert ours <= EVERYBODYS


@pytest.mark.parametrize("path", [path for path in modules() if wing(path) in TORCH_ONLY], ids=lambda path: path.name)
def test_the_core_needs_torch_alone(path: Path) -> None:
    import sys

    foreign = {name.split(".")[0] for name in imported(path)} - {*sys.stdlib_module_names, "torch", "meta_lightning"}
    assert not foreign
    assert "meta_lightning.console" not in imported(path)


def test_private_names_of_lightning_are_touched_in_the_seams_alone() -> None:
    """Of its trainer, its command line and its parser; each of the two wings that need any has one such file."""
    owners = {"trainer", "parser", "cli", "LightningCLI", "loop", "strategy"}
    for path in modules():
        if path.name == "lightning_seams.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                assert name not in owners, f"{path}: {name}.{node.attr}"


def test_what_a_method_inherits_is_abstract_or_said_to_vary() -> None:
    """Of our own classes only these are subclassed here; a method of a user's may build on any."""
    bases: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    abstract = {name for name, parents in bases.items() if parents & {"ABC", "Protocol"}}
    stated = {
        "AdaptableModule",
        "InnerLoopModule",
        "MetaModule",
        "ClassTable",
        "SeamedCLI",
        "MetaTrainer",
        "_ExactInstanceNorm",
        "_FixedStatistics",
    }
    subclassed = {parent for parents in bases.values() for parent in parents if parent in bases}
    assert subclassed <= abstract | stated


def test_files_stay_small() -> None:
    long = {str(path): lines for path in modules() if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


# What writes a file by itself. `download.py` has torch write to a temporary file, which it renames.
WRITES = {"write_text", "write_bytes", "savefig", "mkstemp", "NamedTemporaryFile", "fdopen"}
DUMPS = {("torch", "save"), ("np", "save"), ("json", "dump"), ("pickle", "dump"), ("parser", "save")}


def test_files_are_written_in_one_place() -> None:
    """So that no file is ever half-written."""
    for path in modules():
        if path.name in ("files.py", "lightning_seams.py"):  # the latter appends rows to `metrics.csv`
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(node.func, "value", None)
            owners = (getattr(owner, "id", ""), getattr(owner, "attr", ""))
            assert name not in WRITES, f"{path}:{node.lineno}"
            assert not {(one, name) for one in owners} & DUMPS, f"{path}:{node.lineno}"
            if name == "open" and "Image" not in owners:
                modes = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
                words = [mode.value for mode in modes if isinstance(mode, ast.Constant) and len(str(mode.value)) < 4]
                assert not [word for word in words if {*"wax+"} & {*str(word)}], f"{path}:{node.lineno}"
