"""Features of a frozen network in place of images: each image is encoded once, into a data set of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_pbrl.data import archive
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


@torch.no_grad()
def with_features(source: Transitions, network: Callable[[Tensor], Tensor], path: str | Path, tile: int = 64) -> Transitions:
    """Write a data set whose observations are features of the images, or open it if it is there; memory-mapped.

    Rows, episodes, actions, true rewards, successes and the fingerprint are those of ``source``: answers about one are answers
    about the other, and a reward of features is written to ``source`` row by row.

    Args:
        source: data with images.
        network: features of images, (n, 3, S, S), float32 in [0, 1] -> (n, F); for instance a torchvision or timm model in
            ``eval()`` with weights of yours. It is not moved to a device.
        path: the file.
        tile: images that are encoded at once.

    Raises:
        UserError: for data without images, a file of other data, and features of another shape.
    """
    if not source.has_pictures:
        raise UserError("These data have states only, no images whose features could be computed.")
    if Path(path).exists():
        found = archive.load(path)
        if found.about.get("features_of") != source.fingerprint:
            raise UserError(f"{path} holds other data: give another path, or delete it.")
        return found
    before = source.frame_ids(torch.arange(len(source), device=source.device))
    ids, place = torch.stack([before, before + 1]).unique(return_inverse=True)
    parts = []
    for part in ids.split(tile):
        made = network(source.pictures(part).movedim(-1, 1).float() / 255)
        if made.dim() != 2 or len(made) != len(part):
            raise UserError(f"The network gives {tuple(made.shape)} for {len(part)} images: let it return (n, F).")
        parts.append(made.float().cpu())
    features, (now, after) = torch.cat(parts), place.cpu()
    columns = {name: source.column(name).cpu() for name in ("action", "terminated", "truncated")}
    table = Transitions.from_columns(
        features[now],
        next_obs=features[after],
        offsets=source.episodes.offsets,
        reward=source.reward.cpu(),
        success=source.success,
        about={**source.about, "features_of": source.fingerprint},
        drawable=source.drawable,
        success_unknown=source.success_unknown,
        **columns,
    )
    table.about["features"], table._fingerprint = table.fingerprint, source.fingerprint
    return archive.load(archive.save(table, path))
