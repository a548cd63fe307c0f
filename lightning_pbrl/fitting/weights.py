"""Check that a checkpoint's weights fit the method that they are loaded into; else the setting that differs is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.lightning_glue import plain


def check_fitting_weights(method: pl.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Raise a UserError that names every setting that differs, then and now, if weights have other names or shapes."""
    misfit = _misfit(checkpoint["state_dict"], method.state_dict())
    if misfit is None:
        return
    name = type(method).__name__
    then, now = (dict(_leaves(plain(settings))) for settings in (checkpoint["hyper_parameters"], method.hparams))
    differing = [key for key in then if key in now and then[key] != now[key]]
    if not differing:
        raise UserError(f"The checkpoint does not fit this version's {name} ({misfit}): use the version that wrote it.")
    before, after = (", ".join(f"{key}={settings[key]}" for key in differing) for settings in (then, now))
    raise UserError(
        f"The checkpoint is of a {name} with {before}, and this run has {after}: set it back, or start another run folder."
    )


def _leaves(settings: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _misfit(there: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Return the first weight that is missing, left over or of another shape; empty ones here are resized when loaded."""
    for key in sorted(there.keys() | wanted.keys()):
        if key in there and key in wanted and not wanted[key].numel():
            continue
        shapes = [tuple(weights[key].shape) if key in weights else "absent" for weights in (there, wanted)]
        if shapes[0] != shapes[1]:
            return f"{key} is {shapes[0]} there and {shapes[1]} here"
    return None
