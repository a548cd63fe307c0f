"""``python -m lightning_pbrl``."""

from lightning_pbrl.cli import main

if __name__ == "__main__":
    main()
