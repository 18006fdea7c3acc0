"""Short runs that the commands on adapted files start from, and pictures of new classes for them."""

from pathlib import Path

import torch
from PIL import Image

from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Glyphs
from meta_lightning.types import Examples

ALGORITHMS = {
    "maml": ["--config={configs}/glyphs_5w1s/maml.yaml"],
    "fomaml": ["--config={configs}/glyphs_5w1s/maml.yaml", "--model.first_order=true"],
    "reptile": ["--config={configs}/glyphs_5w1s/reptile.yaml", "--model.eval_inner_steps=4"],
    "meta_sgd": ["--config={configs}/glyphs_5w1s/meta_sgd.yaml"],
    "protonet": ["--config={configs}/glyphs_5w1s/protonet.yaml", "--model.batch_norm=inductive"],
    "sinusoid": ["--config={configs}/sinusoid/maml.yaml", "--trainer.max_steps=40", "--trainer.val_check_interval=40"],
}
SHORT = [
    "--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.num_sanity_val_steps=0",
    "--data.meta_batch_size=4", "--data.val_tasks=4", "--data.eval_batch_size=4", "--model.check_derivative=false",
    "--figures.every_n_validations=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip
NARROW = ["--model.net.width=6"]


def train(name: str, repository: Path, root: Path) -> Path:
    """The run folder of a short training."""
    first, *more = ALGORITHMS[name]
    narrow = [] if name == "sinusoid" else NARROW
    where = [f"--trainer.logger.save_dir={root}", f"--trainer.logger.name={name}"]
    assert main(["fit", first.format(configs=repository / "configs"), *SHORT, *narrow, *more, *where]) == 0
    return root / name / "version_0"


def letters(shots: int = 2, queries: int = 4) -> tuple[Examples, Examples]:
    """Letters of five classes, as the source has them: bytes, ink bright on dark."""
    task = EpisodicDataModule(Glyphs(), ways=5, shots=shots, queries=queries).draw("test", torch.arange(1))
    support, query = (Examples(part.x[0], part.y[0]) for part in (task.support, task.query))
    return support, query


NAMES = ["a b", "über", "c", "d", "e"]


def write_pictures(root: Path, examples: Examples) -> Path:
    """Writes pictures, dark on bright, into a folder for each class."""
    for number, (pixels, label) in enumerate(zip(examples.x, examples.y.tolist(), strict=True)):
        file = root / NAMES[label] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels[0].numpy()).save(file)
    return root
