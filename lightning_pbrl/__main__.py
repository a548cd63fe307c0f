"""``python -m lightning_pbrl``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:  # -m puts the working folder first, where a user's statistics.py hides the standard library's
        del sys.path[0]

    from lightning_pbrl.cli import main

    main()
