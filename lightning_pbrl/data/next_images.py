"""Images of next observations in a replay: another row's image, or one that is kept because no row shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class NextImages:
    """Images after rows of a ring: a row's next observation is seen in the next row, so that each image is stored once.

    No row shows what comes after the last row of an episode, nor yet what comes after each environment's newest row. These images
    are kept here, by row, until the ring overwrites the row or the next row shows them.

    Args:
        num_envs: environments that step together.
        lane: rows of the ring per environment.
    """

    def __init__(self, num_envs: int, lane: int) -> None:
        self.num_envs, self.lane = num_envs, lane
        self.kept: dict[int, Tensor] = {}
        self.open: list[int] = []  # the newest rows, of episodes that go on

    def add(self, step: int, images: npt.NDArray[np.uint8] | None, ended: npt.NDArray[np.bool_]) -> None:
        """Keep the images after the rows of a step, (n, S, S, 3), instead of those that this step's rows show; ended, (n,).

        None, of a policy that sees states, keeps nothing.
        """
        if images is None:
            return
        for row in self.open:
            del self.kept[row]
        rows = [env * self.lane + step % self.lane for env in range(self.num_envs)]
        self.kept.update(zip(rows, torch.from_numpy(images).clone(), strict=True))
        self.open = [row for row, over in zip(rows, ended.tolist(), strict=True) if not over]

    def __call__(self, rows: Tensor, images: Tensor) -> Tensor:
        """Return the images after rows of the ring: ids (n,) and the table of their own images -> (n, S, S, 3), on its device."""
        rows = rows.to(images.device)
        found = images.index_select(0, rows - rows % self.lane + (rows + 1) % self.lane)
        for place, row in enumerate(rows.tolist()):
            if row in self.kept:
                found[place] = self.kept[row]
        return found

    def state_dict(self, steps: int) -> dict[str, Any]:
        """Return the kept images by environment and age, of a ring that holds ``steps`` steps so far."""
        rows = torch.tensor(list(self.kept), dtype=torch.int64)
        age = (steps - 1 - rows % self.lane) % self.lane
        images = torch.stack(list(self.kept.values()))
        return {"env": rows // self.lane, "age": age, "images": images, "open": [row in self.open for row in self.kept]}

    def load_state_dict(self, state: Mapping[str, Any], steps: int) -> None:
        """Restore them in a ring of any size; images of rows that it has no room for are left out."""
        slot = (steps - 1 - state["age"]) % self.lane
        rows, fits = (state["env"] * self.lane + slot).tolist(), (state["age"] < self.lane).tolist()
        self.kept = {row: image.clone() for row, image, fit in zip(rows, state["images"], fits, strict=True) if fit}
        self.open = [row for row, still in zip(rows, state["open"], strict=True) if still]
