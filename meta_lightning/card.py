"""The model card: what a trained model is, how it was made and judged, on one page."""

from typing import Any

from meta_lightning.report import Report, circumstances, episode, in_unit, tables
from meta_lightning.runs import Trained, differences

# Settings of the outer optimizer that are at their defaults in practice and say nothing to a reader.
_MECHANICS = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay", "foreach", "fused")


def to_card(
    report: Report, memory: Trained, settings: dict[str, Any], *, paper: str, net: str, fixed_ways: int | None
) -> str:
    """A model card in Markdown.

    Args:
        report: What a test found.
        memory: What the checkpoint remembers of its training.
        settings: The algorithm's in this test.
        paper: Where the algorithm is from, in a line.
        net: What the net consists of.
        fixed_ways: The classes that the net's head has; None where it has no head of a fixed width.
    """
    changed = differences(memory.settings, settings)
    return "\n".join(
        [
            f"# {report.title}",
            "",
            f"{report.metric} {in_unit(report.metric, report.mean)} ± {in_unit(report.metric, report.ci95)} over "
            f"{report.tasks} tasks",
            f"({report.batch_norm} batch norm, episodes `{report.episode_hash}`; interval over tasks, of one model)",
            "",
            "## Use and limits",
            "",
            *(f"- {line}" for line in _limits(report, memory, fixed_ways)),
            "",
            "## Training",
            "",
            *_items(_training(memory)),
            "",
            "## Algorithm",
            "",
            f"{report.algorithm}: {paper}",
            "",
            *_items({key: value for key, value in memory.settings.items() if key.rpartition(".")[2] not in _MECHANICS}),
            *(["", "Changed in this test:", "", *(f"- {line}" for line in changed)] if changed else []),
            "",
            "## Net",
            "",
            "```",
            net,
            "```",
            "",
            "## Figures",
            *tables(report),
            "",
            *(f"- {name}: {value}" for name, value in circumstances(report).items()),
            "",
            "## Made with",
            "",
            *_items(report.versions),
            "",
        ]
    )


def _limits(report: Report, memory: Trained, fixed_ways: int | None) -> list[str]:
    """What follows from the facts."""
    lines = [
        f"Adapts to a task from its support set; measured on {episode(report.ways, report.shots, report.queries)} of "
        f"`{report.source}`. Other data, ways or shots give other figures: test them."
    ]
    if report.ways and fixed_ways:
        lines.append(f"Its head tells {fixed_ways} classes apart, no more and no fewer.")
    elif report.ways:
        lines.append("Takes tasks of any number of classes.")
    if "inductive" in report.modes and report.batch_norm == "transductive":
        lines.append(
            "The figure above needs all queries of a task at once; where they come one by one, inductive below holds."
        )
    if report.trained_on not in (None, report.source):
        lines.append("Tested on other data than it was trained on.")
    return lines


def _training(memory: Trained) -> dict[str, Any]:
    data = memory.data
    shape = data.get("train_shape")
    known = {
        "data": data.get("source"),
        "inputs": data.get("constants") or None,
        "episodes": episode(*shape) if shape else None,
        "tasks a meta-step": data.get("meta_batch_size"),
        "meta-steps": memory.meta_steps,
        "training seed": memory.seed,
        "seed of the training episodes": data.get("seed"),
    }
    return {key: value for key, value in known.items() if value is not None}


def _items(values: dict[str, Any]) -> list[str]:
    return [f"- {key}: `{value}`" for key, value in values.items()]
