"""The command ``adapt``, which adapts a trained run to a support set and writes what `predict` needs."""

from pathlib import Path

import yaml
from jsonargparse import dict_to_namespace
from rich.table import Table

from meta_lightning.console import notify, show
from meta_lightning.engine.adaptable import Adaptation
from meta_lightning.engine.leave_one_out import leave_one_out
from meta_lightning.errors import ConfigError
from meta_lightning.files import check_writable
from meta_lightning.functional import norm
from meta_lightning.functional.task_kind import CLASSIFICATION, kind_of
from meta_lightning.runs import Run, load_run
from meta_lightning.runs.adapted import Adapted, adapt_to_files, unlike
from meta_lightning.runs.folders import Runs, find_checkpoint

# The longest table of losses; of more steps some are left out.
_MAX_ROWS = 12


def adapt(
    *,
    ckpt_path: str,
    support: Path,
    output: Path = Path("adapted.pt"),
    steps: int | None = None,
    config: Path | None = None,
) -> None:
    """Adapts a trained run to a support set, and writes what `predict` and `export` need to one file.

    Args:
        ckpt_path: A checkpoint or a run folder; with --config also best or last.
        support: The support set: a folder or a zip with a folder of pictures for each class, or a table with its
            targets.
        output: The file to write.
        steps: Adaptation steps; by default those of the run's evaluation.
        config: The config of the run, which says where best or last are.

    Raises:
        ConfigError: If there is no such run, the support set can't be read, or the file can't be written.
    """
    check_writable([output])
    run = load_run(_checkpoint(ckpt_path, config))
    constants = run.record.data.get("constants") or {}
    adapted, adaptation = adapt_to_files(run.module, constants, support, steps, measure=True)
    for note in _notes(run, adaptation, support):
        notify(f"Note: {note}")
    _show_steps(adaptation)
    notify(_left_out(run, adaptation, adapted, steps))
    adapted.save(output)
    notify(
        f"Adapted file: {output}\nPredict with it: python -m meta_lightning predict --adapted {output} --input FILES "
        "--output predictions.csv"
    )


def _checkpoint(wanted: str, config: Path | None) -> Path:
    if wanted not in ("best", "last"):
        if not Path(wanted).exists():
            raise ConfigError(f"--ckpt_path {wanted}: no such file; expected a checkpoint or a run folder")
        return Path(wanted)
    if config is None:
        raise ConfigError(
            f"--ckpt_path {wanted} needs --config, which says where the runs are; or give the path of a run folder"
        )
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {config} can't be read ({error}); expected the YAML file of a run") from error
    trainer = content.get("trainer") if isinstance(content, dict) else None
    if not isinstance(trainer, dict):
        raise ConfigError(f"--config {config} has no section trainer; expected the YAML file of a run")
    path = find_checkpoint(wanted, Runs.of(dict_to_namespace(trainer)))
    notify(f"Checkpoint: {path}")
    return path


def _notes(run: Run, adaptation: Adaptation, path: Path) -> list[str]:
    notes = []
    protocol = norm.in_use(run.module.net, run.module.batch_norm)
    if protocol not in ("none", "inductive", "running"):
        notes.append(
            f"the run was trained with model.batch_norm: {protocol}, but predictions use the statistics of the support "
            "set (inductive), for which figures of its test hold under inductive alone; train with inductive"
        )
    if problem := unlike(run.record.inputs, adaptation.support.x):
        notes.append(
            f"the inputs of {path} are unlike those of the training ({problem}); check that both are prepared alike, "
            "such as dark on bright or bright on dark"
        )
    return notes


def _show_steps(adaptation: Adaptation) -> None:
    kind = kind_of(adaptation.support.y)
    last = len(adaptation.metrics) - 1
    rows = sorted({round(last * row / (_MAX_ROWS - 1)) for row in range(_MAX_ROWS)})
    table = Table(title="support set")
    for heading in ("step", "loss", kind.metric):
        table.add_column(heading, justify="right")
    for step in rows:
        measured = adaptation.metrics[step]
        table.add_row(str(step), f"{measured['loss']:.4f}", kind.text(measured[kind.metric]))
    show(table)


def _left_out(run: Run, adaptation: Adaptation, adapted: Adapted, steps: int | None) -> str:
    """What leaving examples out says of the predictions to come, in a line."""
    kind = kind_of(adaptation.support.y)
    left = leave_one_out(run.module, adaptation.support, steps)
    if left is None:
        return "Each class has one example, so none can be left out: the accuracy on new inputs is not known"
    of = f"{len(left.rows)} of the {left.candidates} examples" if len(left.rows) < left.candidates else "the examples"
    if kind is CLASSIFICATION:
        value = kind.text(float(kind.measure(left.predictions, left.targets)))
        alone = len(adaptation.support.y) - left.candidates
        rest = f" ({alone} are alone in their class and can't be left out)" if alone else ""
        return f"Leave-one-out accuracy: {value}, each of {of} predicted from the others{rest}"
    ours = [adapted.reader.denormalise(values).cpu() for values in (left.predictions, left.targets)]
    error = float((ours[0] - ours[1]).square().mean().sqrt())
    return f"Leave-one-out error (root of the mean square): {error:.4g}, each of {of} predicted from the others"
