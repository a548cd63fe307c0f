"""What the commands share: complaints as user errors, and config files found by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from lightning_pbrl.errors import UserError, nearest

TRAINER_VERBS = ("fit", "validate", "test", "predict")
"""The commands that are LightningCLI's."""


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are a user's errors like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


def packaged_config(name: str) -> str:
    """A config file by its path, or by its name below ``conf/`` as the package ships it.

    Raises:
        UserError: when there is neither.
    """
    shipped = Path(__file__).parent / "conf"
    for path in (Path(name), shipped / name, shipped / name.removeprefix("conf/")):
        if path.is_file():
            return str(path)
    known = [str(path.relative_to(shipped)) for path in sorted(shipped.rglob("*.yaml"))]
    shown = name if name.isprintable() else ascii(name)
    raise UserError(f"There is no config file {shown}: {nearest(name.removeprefix('conf/'), known)}")


def with_packaged_configs(args: list[str]) -> list[str]:
    """The arguments with every ``-c FILE`` resolved by :func:`packaged_config`."""
    out = list(args)
    for at, arg in enumerate(args):
        if arg in ("-c", "--config") and at + 1 < len(args):
            out[at + 1] = packaged_config(args[at + 1])
        elif arg.startswith("--config="):
            out[at] = f"--config={packaged_config(arg.removeprefix('--config='))}"
    return out
