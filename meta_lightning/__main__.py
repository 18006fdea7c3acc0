"""``python -m meta_lightning``."""

from meta_lightning.cli import console

if __name__ == "__main__":
    console()
