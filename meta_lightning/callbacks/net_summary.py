"""What is trained, in one line."""

from collections import Counter

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from torch import nn
from torch.nn.parameter import UninitializedParameter

from meta_lightning.console import notify


class NetSummary(ModelSummary):
    """Prints the net's class and the number of parameters in one line.

    Lightning's own table also has columns for floating-point operations and modes, which it can't know here. It is
    printed where it is asked for: ``trainer.callbacks: [{class_path: RichModelSummary, init_args: {max_depth: 2}}]``.

    Example:
        >>> trainer = Trainer(callbacks=[NetSummary()], logger=False)
        >>> any(isinstance(callback, NetSummary) for callback in trainer.callbacks)
        True
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line."""
        if trainer.is_global_zero:
            notify(summary(pl_module))


def summary(module: nn.Module) -> str:
    """The number of learned parameters by the module's parts, and of those that stay as they are.

    Example:
        >>> from meta_lightning import MAMLModule
        >>> summary(MAMLModule(nn.Linear(2, 3)))
        'MAMLModule learns 9 parameters: net (Linear) 9'
    """
    learned: Counter[str] = Counter()
    fixed = 0
    for name, param in module.named_parameters():
        size = 0 if isinstance(param, UninitializedParameter) else param.numel()
        if param.requires_grad:
            learned[name.partition(".")[0]] += size
        else:
            fixed += size
    parts = ", ".join(f"{_titled(module, name)} {size:,}" for name, size in learned.items())
    rest = f"; {fixed:,} more stay as they are" if fixed else ""
    return f"{type(module).__name__} learns {learned.total():,} parameters: {parts or 'none'}{rest}"


def _titled(module: nn.Module, name: str) -> str:
    part = getattr(module, name)
    return f"{name} ({type(part).__name__})" if name == "net" else name
