"""Rules between settings: what follows from another key, and what can't be heeded."""

from jsonargparse import Namespace

from meta_lightning.errors import ConfigError


def check_trainer(trainer: Namespace) -> None:
    """Refuses the trainer's keys that manual optimization can't heed, naming the keys that do their work."""
    instead = {
        "gradient_clip_val": "model.grad_clip instead",
        "accumulate_grad_batches": "data.meta_batch_size, and model.task_chunk for memory",
    }
    defaults = {"gradient_clip_val": None, "accumulate_grad_batches": 1}
    for key, remedy in instead.items():
        if trainer[key] != defaults[key]:
            raise ConfigError(
                f"trainer.{key} is {trainer[key]}; meta-learning steps its optimizer itself: set {remedy}"
            )


def link_ways(settings: Namespace) -> None:
    """A classifier's width is the number of ways; a net that was given another width is refused."""
    ways, train_ways, net = settings.data.ways, settings.data.train_ways, settings.model.init_args.net
    options = net.get("init_args") if isinstance(net, Namespace) else None
    if ways is None or options is None or "out_features" not in options:
        return
    if options.out_features is None:
        options.out_features = ways
    if options.out_features != ways:
        raise ConfigError(
            f"data.ways is {ways}, but model.init_args.net.init_args.out_features is {options.out_features}; "
            "make them equal, or leave out_features out"
        )
    if train_ways not in (None, ways):
        raise ConfigError(
            f"data.train_ways is {train_ways}, but data.ways is {ways}: a classifier has one width; make them equal"
        )
