"""Renderers without a simulator, for tests of what draws in another process: that process imports little."""

from __future__ import annotations

import numpy as np

from lightning_pbrl.clips.base import ClipRenderer, Frames


class Ramp(ClipRenderer):
    """Renderer without a simulator: frame t of a clip is grey of level (start + t) mod 200; some rows misbehave."""

    how = "grey levels"

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def frames(self, start: int, length: int) -> Frames:
        import os
        import signal
        import time

        from lightning_pbrl.errors import UserError

        if start == 666:
            os.kill(os.getpid(), signal.SIGSEGV)
        if start == 777:
            raise UserError("Row 777 cannot be drawn: ask about another.")
        if start == 888:
            time.sleep(60)
        if start == 999:
            print("a library that prints", flush=True)
        level = (start + np.arange(length)) % 200
        return np.broadcast_to(level[:, None, None, None], (length, self.size, self.size, 3)).astype(np.uint8)


def broken() -> ClipRenderer:
    """A renderer that cannot be made."""
    from lightning_pbrl.errors import UserError

    raise UserError("There is no simulator: set data.simulator.")
