"""The model card: one page on how a model was trained, how it performs and where it can be used."""

from typing import Any

from meta_lightning.reporting.report import Report, circumstances, episode, tables
from meta_lightning.runs.checkpoint import TrainingRecord

# Settings of the outer optimizer that are rarely changed and would only lengthen the card.
_LEFT_OUT = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay", "foreach", "fused")


def to_card(
    report: Report, record: TrainingRecord, settings: dict[str, Any], *, paper: str, net: str, fixed_ways: int | None
) -> str:
    """Renders a model card in Markdown.

    Args:
        report: The report of a test.
        record: The training that the weights went through.
        settings: The algorithm's settings in this test.
        paper: The reference of the algorithm, in one line.
        net: The layers of the net, as text.
        fixed_ways: The number of classes that the net's head predicts; None if the number is not fixed.
    """
    changed = record.changes(settings)
    return "\n".join(
        [
            f"# {report.title}",
            "",
            f"{report.metric} {report.kind.text(report.mean)} ± {report.kind.text(report.ci95)} over "
            f"{report.tasks} task{'s' * (report.tasks != 1)}",
            f"({'no' if report.batch_norm == 'none' else report.batch_norm} batch norm, episodes "
            f"`{report.episode_hash}`; 95 % interval over tasks, one model)",
            "",
            "## Use and limits",
            "",
            *(f"- {line}" for line in _limits(report, record, fixed_ways)),
            "",
            "## Training",
            "",
            *_items(_training(record)),
            "",
            "## Algorithm",
            "",
            f"{report.algorithm}: {paper}",
            "",
            *_items({key: value for key, value in record.settings.items() if key.rpartition(".")[2] not in _LEFT_OUT}),
            *(["", "Changed in this test:", "", *(f"- {line}" for line in changed)] if changed else []),
            "",
            "## Net",
            "",
            "```",
            net,
            "```",
            "",
            "## Results",
            *tables(report),
            "",
            *(f"- {name}: {value}" for name, value in circumstances(report).items()),
            "",
            "## Software",
            "",
            *_items(report.versions),
            "",
        ]
    )


def _limits(report: Report, record: TrainingRecord, fixed_ways: int | None) -> list[str]:
    """Sentences about where the model can be used, which follow from the report and the record."""
    lines = [
        "The model adapts to a task from its support set. It was measured on "
        f"{episode(report.ways, report.shots, report.queries)} of `{report.source}`. Test it anew for other data, ways "
        "or shots."
    ]
    if report.ways and fixed_ways:
        lines.append(f"A task must have exactly {fixed_ways} classes.")
    elif report.ways:
        lines.append("A task may have any number of classes.")
    if "inductive" in report.by_batch_norm and report.batch_norm == "transductive":
        lines.append(
            "The result above needs all queries of a task at once. If queries come one by one, the inductive result "
            "below applies."
        )
    if report.trained_on not in (None, report.source):
        lines.append("The model was tested on other data than it was trained on.")
    return lines


def _training(record: TrainingRecord) -> dict[str, Any]:
    data = record.data
    shape = data.get("train_shape")
    entries = {
        "data": data.get("source"),
        "inputs": _preparation(data.get("constants") or {}) or None,
        "episodes": episode(*shape) if shape else None,
        "tasks per meta-step": data.get("meta_batch_size"),
        "meta-steps": record.meta_steps,
        "training seed": record.seed,
        "seed of the training episodes": data.get("seed"),
    }
    return {key: value for key, value in entries.items() if value is not None}


def _preparation(constants: dict[str, Any]) -> dict[str, Any]:
    """How inputs are prepared: the settings of the reader, and what else the source states."""
    others = {name: value for name, value in constants.items() if name != "reader"}
    reader: dict[str, Any] = constants.get("reader", {})
    return {**reader.get("init_args", {}), **others}


def _items(values: dict[str, Any]) -> list[str]:
    return [f"- {key}: `{value}`" for key, value in values.items()]
