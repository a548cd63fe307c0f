"""Film the labelling page: ``python -m benchmarks.people_film RUN docs/images/label.gif``.

RUN is a run whose questions are open (``HumanTeacher``, or ``wait: none``). A simulated person answers some of them by keys in a
headless Chromium, takes one back, and the film is made of screenshots.
"""

from __future__ import annotations

import io
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_pbrl.label_cli import opened, true_returns
from lightning_pbrl.labelling.demo import SimulatedPerson, TrueOpinion, chromium
from lightning_pbrl.labelling.serve import Served, make_app

SIZE = {"width": 760, "height": 660}
"""Pixels of the page; a picture has two thirds of them."""
FPS, ANSWERS, TAKEN_BACK = 6, 4, 2
"""Pictures per second, answers in the film, and after how many of them the last one is taken back."""


class Filmed(SimulatedPerson):
    """A person who is filmed while looking."""

    pictures: list[tuple[float, Image.Image]]

    def look(self, seconds: float) -> None:
        """Look at the page for so long, a picture at a time."""
        end = time.monotonic() + seconds
        while (start := time.monotonic()) < end:
            self.pictures.append((start, Image.open(io.BytesIO(self.tab.screenshot(type="png"))).convert("RGB")))
            self.tab.wait_for_timeout(max(0.0, 1000 / FPS - 1000 * (time.monotonic() - start)))


def main(run: str, out: Path) -> None:
    """Write the film as an animated GIF that repeats."""
    desk, clips = opened(run)
    served = Served(make_app(desk, clips, task="Slide the plate into the goal."))
    with chromium() as browser:
        tab: Any = browser.new_context(viewport=SIZE).new_page()
        person = Filmed(tab, desk, "Ada", TrueOpinion(true_returns(run)), seconds=2.2)
        person.pictures = []
        person.join(f"{served.address}/join/{desk.invite('Ada')}")
        given = 0
        while given < ANSWERS:
            if not person.step():
                continue
            given += 1
            if given == TAKEN_BACK:
                tab.keyboard.press("z")
                tab.wait_for_timeout(800)
                person.look(1.5)
                tab.keyboard.press("z")  # it stands
                tab.wait_for_timeout(500)
    served.stop()
    times, pictures = zip(*person.pictures, strict=True)
    small = [each.resize((each.width * 2 // 3, each.height * 2 // 3), Image.Resampling.LANCZOS) for each in pictures]
    shown = [min(int(1000 * (after - before)), 400) for before, after in itertools.pairwise([*times, times[-1] + 0.4])]  # ms
    palette = small[len(small) // 2].quantize(64)
    frames = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in small]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=shown, loop=0, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
