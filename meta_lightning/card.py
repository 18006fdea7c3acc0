"""The model card: what a trained model is, how it was made and judged, on one page."""

from typing import Any

from meta_lightning.report import Report, tables


def to_card(report: Report, settings: dict[str, Any], data: dict[str, Any]) -> str:
    """A model card in Markdown.

    Args:
        report: What a test found.
        settings: The algorithm's, see `MetaModule.settings`.
        data: What a checkpoint remembers of the data, see `EpisodicDataModule.state_dict`.
    """
    unit = "{:.2%}" if report.metric == "accuracy" else "{:.3f}"
    return "\n".join(
        [
            f"# {report.algorithm} on {report.benchmark}",
            "",
            f"{report.metric} {unit.format(report.mean)} ± {unit.format(report.ci95)} over {report.tasks} tasks",
            f"({report.batch_norm} batch norm, episodes `{report.episode_hash}`; interval over tasks, of one model)",
            "",
            "## Data",
            "",
            *_items({key: value for key, value in data.items() if key != "constants"}),
            "",
            "## Settings",
            "",
            *_items(settings),
            "",
            "## Figures",
            *tables(report),
            "",
            "## Made with",
            "",
            *_items({**report.versions, "checkpoint": report.checkpoint}),
            "",
        ]
    )


def _items(values: dict[str, Any]) -> list[str]:
    return [f"- {key}: `{value}`" for key, value in values.items()]
