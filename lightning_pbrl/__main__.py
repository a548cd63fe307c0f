"""``python -m lightning_pbrl``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:  # -m puts the working folder first, where a user's statistics.py hides the standard library's
        del sys.path[0]

    from lightning_pbrl.cli import program

    if sys.argv[1:2] == ["fork-server"]:
        from lightning_pbrl.fork_server import serve

        serve(int(sys.argv[2]))  # returns in a child, as the process of a job
    program()
