"""Parse command lines alike in all commands: complaints as user errors, and config files found by name."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from lightning_pbrl.configs import as_argument
from lightning_pbrl.configs import packaged_config as packaged_config
from lightning_pbrl.errors import UserError, nearest

TRAINER_VERBS = ("fit", "validate", "test", "predict")
"""The commands that are LightningCLI's."""


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are a user's errors like all others."""

    def error(self, message: str) -> NoReturn:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        if other := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            message = f"{message}, {nearest(other[1], known).rstrip('?.')}"
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


def with_packaged_configs(args: list[str]) -> list[str]:
    """Return the arguments with every ``-c FILE`` found by :func:`packaged_config`; a text of several lines is a config."""

    def found(config: str) -> str:
        return config if "\n" in config else as_argument(packaged_config(config))

    out = list(args)
    for at, arg in enumerate(args):
        if arg in ("-c", "--config") and at + 1 < len(args):
            out[at + 1] = found(args[at + 1])
        elif arg.startswith("--config="):
            out[at] = f"--config={found(arg.removeprefix('--config='))}"
    return out
