"""Clips of episodes that are repeated in the simulator, from the reset seed and the recorded actions: exact.

On another processor or with another version a simulator may not repeat an episode. Its states are then rebuilt from observations,
if these determine them; otherwise the segment is refused.
"""

from __future__ import annotations

from functools import cached_property

from lightning_pbrl.clips.base import ClipRenderer, Frames, episode_of
from lightning_pbrl.clips.rebuilt import RebuiltStates, state_of
from lightning_pbrl.clips.stage import Stage
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.collect import versions
from lightning_pbrl.errors import UserError

TOLERANCE = 1e-3
"""Difference of an observation, relative or in its own unit, below which a repeated step is the recorded one to the eye."""


class ReplayedEpisodes(ClipRenderer):
    """Renderer of collected data: it repeats each episode, and compares every drawn step with its recorded observation.

    Args:
        source: data whose ``about`` has the ``reset_seeds`` of the episodes.
        simulator: simulator that the data were collected in.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for that of videos.
    """

    how = "episode repeated from its reset seed and actions, exact"

    def __init__(self, source: Transitions, simulator: Simulator, size: int = 256, camera: str | None = None) -> None:
        self.source, self.size, self.camera, self.stage = source, size, camera, Stage(simulator, size, camera)

    def frames(self, start: int, length: int) -> Frames:
        episode, first = episode_of(self.source, start, length)
        action = self.source.column("action")[first : start + length - 1].cpu().numpy()
        frames, seen = self.stage.replay(int(self.source.about["reset_seeds"][episode]), action, start - first)
        recorded = self.source.column("obs")[start : start + length].cpu().numpy()
        try:
            check_repeated(seen, recorded, self.stage.simulator, f"episode {episode}", start - first, self.source.about)
        except UserError:
            if state_of(self.stage.simulator) is None:
                raise
            return self._rebuilt.frames(start, length)
        return frames

    def close(self) -> None:
        self.stage.close()
        if "_rebuilt" in self.__dict__:
            self._rebuilt.close()

    @cached_property
    def _rebuilt(self) -> RebuiltStates:
        return RebuiltStates(self.source, self.stage.simulator, self.size, self.camera)


def check_repeated(
    seen: Array, recorded: Array, simulator: Simulator, which: str, first: int, about: dict[str, object] | None = None
) -> None:
    """Check that a repeated episode is the recorded one.

    Args:
        seen: observations of the repetition, (T, O).
        recorded: observations in the data, (T, O).
        simulator: simulator that repeated it.
        which: name of the episode, for the message.
        first: step of the episode that the first row belongs to.
        about: origin of the data, with the ``versions`` that made them.

    Raises:
        UserError: naming the step that differs first, and the versions.
    """
    apart = (abs(seen - recorded) > TOLERANCE * (1.0 + abs(recorded))).any(axis=1)
    if apart.any():
        made, here = (about or {}).get("versions"), versions(simulator.packages)
        pairs = [(name, value, here[name]) for name, value in made.items() if name in here] if isinstance(made, dict) else []
        other = ", ".join(f"{name} {then}, here {now}" for name, then, now in pairs if then != now)
        raise UserError(
            f"{simulator.name} does not repeat {which}: step {first + int(apart.argmax())} differs from the recorded one"
            f"{f' (recorded with {other})' if other else ''}; collect the data again on this machine, or ask for plots of the "
            "observations (plots=True)."
        )
