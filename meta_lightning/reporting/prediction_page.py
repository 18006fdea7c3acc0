"""One self-contained HTML page with a support set and the predictions that were made from it."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from meta_lightning.reporting.truth import Comparison
from meta_lightning.runs.adapted import Adapted
from meta_lightning.runs.predictions import Predictions

# A browser shows a few thousand pictures at once. The most certain predictions need no look.
_MAX_PREDICTIONS = 1000
_MAX_SUPPORT = 20  # pictures of each class

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #1a1a1a; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; } .muted { color: #666; }
img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; background: #eee; display: block; }
.row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin: 6px 0; }
.row b { width: 9em; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.card { border: 1px solid #ccc; border-radius: 6px; padding: 8px; overflow-wrap: anywhere; }
.card img { margin: 0 auto 6px; } .wrong { border: 2px solid #c0392b; } .wrong .truth { color: #c0392b; }
.bar { background: #e5e5e5; height: 6px; border-radius: 3px; } .bar div { background: #2f6db3; height: 6px;
  border-radius: 3px; }
.file { font-size: 12px; color: #666; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: 3px 9px; text-align: right; }
th { background: #f4f4f4; } td.hit { background: #dcebdc; } td.miss { background: #f6dcd9; }
"""


def prediction_page(
    adapted: Adapted, predictions: Predictions, pictures: Tensor | None, comparison: Comparison | None, id_name: str
) -> str:
    """The text of the page. The least certain predictions come first.

    Args:
        adapted: The adapted net.
        predictions: Its predictions.
        pictures: The inputs as pictures, see `Reader.pictures`; None if they are none.
        comparison: The predictions beside what is true; None if that is not known.
        id_name: What an id is.
    """
    method = adapted.content["method"]["class_path"].rpartition(".")[2]
    support = adapted.content["support"]
    facts = f"{method} · {len(support['y'])} examples in the support set {support['hash']}"
    body = [f"<h1>{len(predictions.ids)} predictions</h1>", f'<p class="muted">{html.escape(facts)}</p>']
    if comparison is not None:
        body += ["<h2>Beside the truth</h2>", f"<p>{html.escape(comparison.summary)}</p>"]
        if comparison.confusion is not None:
            body.append(_confusion(comparison.confusion, predictions.class_names))
    if support["pictures"] is not None and adapted.class_names:
        body += ["<h2>Support set</h2>", *_support(support["pictures"], support["y"], adapted.class_names)]
    body += _predictions(predictions, pictures, comparison, id_name)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Predictions</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _support(pictures: Tensor, labels: Tensor, names: Sequence[str]) -> list[str]:
    lines = []
    for number, name in enumerate(names):
        members = pictures[labels == number]
        images = "".join(_image(picture) for picture in members[:_MAX_SUPPORT])
        more = f'<span class="muted">and {len(members) - _MAX_SUPPORT} more</span>'
        rest = more if len(members) > _MAX_SUPPORT else ""
        lines.append(f'<div class="row"><b>{html.escape(name)}</b>{images}{rest}</div>')
    return lines


def _predictions(
    predictions: Predictions, pictures: Tensor | None, comparison: Comparison | None, id_name: str
) -> list[str]:
    confidence = predictions.confidence
    order = sorted(range(len(confidence)), key=confidence.__getitem__) or [*range(len(predictions.ids))]
    title = "Predictions, least certain first" if confidence else "Predictions"
    lines = [f"<h2>{title}</h2>"]
    if len(order) > _MAX_PREDICTIONS:
        which = "least certain" if confidence else "first"
        lines.append(f'<p class="muted">The {_MAX_PREDICTIONS} {which} of {len(order)}; the CSV file has all.</p>')
    order = order[:_MAX_PREDICTIONS]
    truth = [""] * len(predictions.ids) if comparison is None else comparison.truth
    if not confidence:
        rows = [
            [predictions.ids[row], ", ".join(f"{value:.6g}" for value in predictions.values[row].tolist()), truth[row]]
            for row in order
        ]
        return [*lines, _table([id_name, "value", "truth"], rows)]
    answers = predictions.answers
    if pictures is None:
        rows = [[predictions.ids[row], answers[row], f"{confidence[row]:.1%}", truth[row]] for row in order]
        return [*lines, _table([id_name, "class", "confidence", "truth"], rows)]
    cards = []
    for row in order:
        wrong = bool(truth[row]) and truth[row] != answers[row]
        cards.append(
            f'<div class="card{" wrong" * wrong}">{_image(pictures[row])}<b>{html.escape(answers[row])}</b> '
            f'{confidence[row]:.1%}<div class="bar"><div style="width:{confidence[row]:.1%}"></div></div>'
            + (f'<div class="truth">truth: {html.escape(truth[row])}</div>' if truth[row] else "")
            + f'<div class="file">{html.escape(predictions.ids[row])}</div></div>'
        )
    return [*lines, f'<div class="grid">{"".join(cards)}</div>']


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    used = [column for column in range(len(headings)) if any(row[column] for row in rows)]
    head = "".join(f"<th>{html.escape(headings[column])}</th>" for column in used)
    lines = ["".join(f"<td>{html.escape(row[column])}</td>" for column in used) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _confusion(counts: Tensor, names: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for row, (name, numbers) in enumerate(zip(names, counts.tolist(), strict=True)):
        kinds = ["hit" if row == column else "miss" if number else "" for column, number in enumerate(numbers)]
        cells = "".join(f'<td class="{kind}">{number}</td>' for kind, number in zip(kinds, numbers, strict=True))
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return f"<table><tr><th>truth \\ answer</th>{head}</tr>{''.join(lines)}</table>"


def _image(pixels: Tensor) -> str:
    """A picture, uint8 ``[1 or 3, height, width]``, as an element that holds it."""
    array = pixels.numpy()
    array = array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    Image.fromarray(array).save(buffer := io.BytesIO(), "png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
