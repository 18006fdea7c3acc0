"""Adapted files: all that it takes to predict new inputs after an adaptation, and nothing else."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meta_lightning.algorithms import MetaModule
from meta_lightning.console import first_line, printable
from meta_lightning.data.readers.base import Reader
from meta_lightning.engine import recipes
from meta_lightning.engine.adaptable import Adaptation, adapt_to, rebuild
from meta_lightning.engine.adapted import AdaptedNet
from meta_lightning.errors import ConfigError
from meta_lightning.files import save_whole
from meta_lightning.functional.inputs import Summary, count_examples, select, summaries
from meta_lightning.runs.checkpoint import read_plain
from meta_lightning.runs.predictions import Predictions
from meta_lightning.types import Examples, Inputs
from meta_lightning.version import __version__

FORMAT = 1
"""The version of the files; it grows when an older program can't read newer ones."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "method": dict, "state": dict, "class_names": list, "outputs": (list, type(None)), "support": dict,
    "reader": (dict, type(None)), "preprocessing": dict, "inputs": dict, "versions": dict, "batch_norm": str,
}  # fmt: skip

# The arguments of a method that matter to its training alone.
_OF_TRAINING = ("optimizer", "lr_scheduler", "compile", "task_chunk")


@dataclass(frozen=True)
class Adapted:
    """A net that was adapted to a support set, and how new inputs are prepared for it.

    Attributes:
        net: The adapted net.
        content: The entries of its file: plain data and tensors.
        path: The file, for messages; None for a net that was in none.
    """

    net: AdaptedNet
    content: dict[str, Any]
    path: Path | None = None

    @classmethod
    def of(
        cls,
        module: MetaModule,
        adaptation: Adaptation,
        constants: Mapping[str, Any],
        reader: Reader | None = None,
        ids: list[str] | None = None,
        steps: int | None = None,
    ) -> "Adapted":
        """Gathers what a file of an adaptation holds.

        Args:
            module: The method that was adapted, as a run gives it.
            adaptation: Its adaptation to the support set.
            constants: How inputs are prepared, see `Source.constants`.
            reader: Built from ``constants``; None if they name none.
            ids: What identifies the examples of the support set.
            steps: The adaptation steps that were asked for; None for the method's own.

        Raises:
            ConfigError: If the method was not built by a recipe, or predicts otherwise once it is built again.
        """
        support = adaptation.support
        if module.recipe is None:
            raise ConfigError(
                f"how this {type(module).__name__} was built is not known, so a file can't say it; expected the module "
                "of a run of the command line"
            )
        whole = adaptation.outputs is None  # then the net adapts again
        pictures = None if reader is None else reader.pictures(support.x)
        content = {
            "adapted": FORMAT,
            "method": _without_training(module, {} if steps is None else {"eval_inner_steps": steps}),
            "state": {name: tensor.cpu() for name, tensor in adaptation.net.state_dict().items()},
            "class_names": [str(name) for name in adaptation.net.class_names],
            "outputs": adaptation.outputs,
            "support": {
                "x": support.x if whole else None,
                "y": support.y.cpu(),
                "pictures": None if pictures is None else pictures.cpu(),
                "ids": ids or [],
                "hash": support_hash(support, adaptation.net.class_names),
            },
            "reader": constants.get("reader"),
            "preprocessing": {name: value for name, value in constants.items() if name != "reader"},
            "inputs": {name: summary._asdict() for name, summary in summaries(support.x).items()},
            "batch_norm": module.batch_norm,
            "versions": {"meta_lightning": __version__, "torch": torch.__version__.partition("+")[0]},
        }
        built = cls.from_content(content)
        with torch.no_grad():
            first, again = adaptation.net(support.x), built.net(support.x)
        if not torch.allclose(first, again, rtol=1e-5, atol=1e-6):
            raise ConfigError(
                f"{type(module).__name__} predicts otherwise once it is built again from its settings and tensors; "
                "expected that a constructor's arguments, parameters and buffers are all that predictions depend on"
            )
        return built

    @classmethod
    def from_content(cls, content: dict[str, Any], path: Path | None = None) -> "Adapted":
        """Builds the net of a file's entries.

        Raises:
            ConfigError: If the entries do not fit each other, or a class can't be imported.
        """
        where = "the adapted net" if path is None else str(path)
        try:
            support, method = content["support"], content["method"]
            module: MetaModule = recipes.build(method, MetaModule)  # type: ignore[type-abstract]  # any subclass
            examples = Examples(support["x"], support["y"])
            net = rebuild(module, content["outputs"], examples, content["class_names"], content["state"])
        except ConfigError:
            raise
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = printable(" ".join(str(error).split()))
            raise ConfigError(f"{where} does not fit the net that was built for it: {reason}; adapt again") from error
        return cls(net, content, path)

    @classmethod
    def load(cls, path: str | Path) -> "Adapted":
        """Loads an adapted file, without running code from it.

        Args:
            path: A file that the command ``adapt`` wrote.

        Raises:
            ConfigError: If the file is cut short or damaged, is no adapted file or one of another version, or names a
                class that can't be imported.
        """
        path = Path(path)
        if not path.is_file():
            raise ConfigError(f"--adapted {path}: no such file; expected a file that the command adapt wrote")
        content = read_plain(path, "adapted file", "--adapted")
        version = content.get("adapted") if isinstance(content, dict) else None
        if not isinstance(version, int):
            is_checkpoint = isinstance(content, dict) and "state_dict" in content
            hint = f"adapt --ckpt_path {path}" if is_checkpoint else "check --adapted"
            raise ConfigError(
                f"{path} is {'a checkpoint' if is_checkpoint else 'no adapted file'}; expected a file that the command "
                f"adapt wrote: {hint}"
            )
        if version != FORMAT:
            by = content.get("versions")
            by = by.get("meta_lightning") if isinstance(by, dict) else None
            raise ConfigError(
                f"{path} is an adapted file of version {version}, written by meta_lightning {printable(by)}; this is "
                f"{__version__}, which reads version {FORMAT}: adapt again with this version, or install that one"
            )
        for key, kind in _TYPES.items():
            if not isinstance(content.get(key, ...), kind):
                raise ConfigError(f"{path}: {key} is {printable(content.get(key))}; adapt again")
        return cls.from_content(content, path)

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        save_whole(self.content, path)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes in the order of the net's outputs; empty for regression."""
        return [*self.content["class_names"]]

    @property
    def reader(self) -> Reader:
        """What reads and prepares new inputs.

        Raises:
            ConfigError: If the source of the training states no reader.
        """
        return build_reader(self.content["reader"])

    def predict(self, inputs: Path | str | Inputs, batch_size: int = 64, ids: list[str] | None = None) -> Predictions:
        """Predicts new inputs. A prediction does not depend on the inputs that it is made together with.

        Args:
            inputs: A file or a folder that the reader reads; or prepared inputs, ``[inputs, *shape]``.
            batch_size: How many inputs the net gets at once.
            ids: What identifies prepared inputs; None for their numbers.

        Raises:
            ConfigError: If the inputs can't be read, or are not as those of the support set.
        """
        if isinstance(inputs, str | Path):
            read = self.reader.read(Path(inputs), labelled=False)
            x, ids = read.x, read.ids
        else:
            x, ids = inputs, ids or [*map(str, range(count_examples(inputs)))]
        values = predict_batches(self.net, x, batch_size, {name: part["shape"] for name, part in self.parts.items()})
        finite = values.isfinite().all(1)
        if not bool(finite.all()):
            name = printable(ids[int((~finite).nonzero()[0])])
            raise ConfigError(f"the prediction for {name} is not finite; check the range of its numbers")
        if self.class_names:
            values = values.softmax(1)
        elif self.content["reader"] is not None:
            values = self.reader.denormalise(values)
        return Predictions(ids, self.class_names, values)

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """What the inputs of the support set look like, by part: the fields of `Summary`."""
        parts: dict[str, dict[str, Any]] = self.content["inputs"]
        return parts


def adapt_to_files(
    module: MetaModule, constants: Mapping[str, Any], path: Path, steps: int | None = None, *, measure: bool = False
) -> tuple[Adapted, Adaptation]:
    """Adapts a method to a support set in files.

    Args:
        module: The method, as a run gives it.
        constants: How inputs are prepared, see `Source.constants`.
        path: A file or a folder that the reader among ``constants`` reads.
        steps: Adaptation steps; None for ``eval_inner_steps``.
        measure: Whether to measure the support set after every step.

    Raises:
        ConfigError: If the support set can't be read or adapted to.
    """
    reader = build_reader(constants.get("reader"))
    new = reader.read(path, labelled=True)
    try:
        adaptation = adapt_to(module, new.x, new.y, steps=steps, class_names=new.class_names, measure=measure)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return Adapted.of(module, adaptation, constants, reader, new.ids, steps), adaptation


def predict_batches(net: AdaptedNet, x: Inputs, batch_size: int, shapes: Mapping[str, list[int]]) -> Tensor:
    """The outputs of an adapted net, batch by batch, on the CPU.

    Raises:
        ConfigError: If the net does not take the inputs.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch_size is {batch_size}; expected 1 or more")
    starts = range(0, count_examples(x), batch_size)
    try:
        with torch.no_grad():
            outputs = [net(select(x, slice(start, start + batch_size))).cpu() for start in starts]
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        found = {name: [*part.shape[1:]] for name, part in (x if isinstance(x, dict) else {"": x}).items()}
        if found == dict(shapes):
            raise
        words = [shown[""] if [*shown] == [""] else shown for shown in (found, dict(shapes))]
        raise ConfigError(
            f"the net takes no inputs of shape {words[0]}: {first_line(error)}; expected {words[1]}, as in the support "
            "set"
        ) from error
    return torch.cat(outputs) if outputs else torch.empty(0, len(net.class_names) or 1)


def build_reader(recipe: Any) -> Reader:
    """Builds a reader from its entry in a source's constants.

    Raises:
        ConfigError: If there is none, or it can't be built.
    """
    if recipe is None:
        raise ConfigError(
            "the source that the run was trained with states no reader, so files can't be prepared for the net; add "
            "constants() to the source, as docs/own_source.md says, or adapt and predict from Python"
        )
    reader: Reader = recipes.build(recipe, Reader)  # type: ignore[type-abstract]  # any subclass
    return reader


def support_hash(support: Examples, names: tuple[Any, ...]) -> str:
    """A checksum of the inputs, targets and class names of a support set."""
    digest = hashlib.sha256(repr(names).encode())
    parts = support.x if isinstance(support.x, dict) else {"": support.x}
    for name, tensor in {**parts, "targets": support.y}.items():
        digest.update(f"{name} {[*tensor.shape]} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def unlike(expected: Mapping[str, Mapping[str, Any]] | None, x: Inputs) -> str | None:
    """How inputs differ by far from others, of which there are the fields of their `Summary`s; None if they do not."""
    for name, summary in summaries(x).items():
        if expected and name in expected and (problem := Summary(**expected[name]).problem(summary)):
            return f"{name}: {problem}" if name else problem
    return None


def _without_training(module: MetaModule, changed: dict[str, Any]) -> recipes.Recipe:
    """A method's recipe, without the arguments that only its training needs if they may be left out."""
    assert module.recipe is not None
    required = {
        name
        for name, parameter in inspect.signature(type(module).__init__).parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    dropped = {*_OF_TRAINING} - required
    init_args = {name: value for name, value in module.recipe.get("init_args", {}).items() if name not in dropped}
    return {**module.recipe, "init_args": init_args | changed}
