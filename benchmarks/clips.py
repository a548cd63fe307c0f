"""Seconds to draw questions for people: ``python -m benchmarks.clips [--questions 100] [--preferences FILE]``.

A question is two clips of 50 steps, 256 x 256, in both codecs. Four kinds of data: Meta-World collected by the library (episodes
repeated from reset seed and actions), DeepMind Control acted in online (the same, from the replay), preferences about Hopper
(states rebuilt from observations) and simulator states in a robomimic file (Meta-World's scene as its model). The first and last
frame of every clip are compared with a film of the original episode, taken while the episode was acted out. Of logged preferences
(``--preferences``, an npz of hopper-medium-expert-v2) there is no film; without a file, hops of our own are rebuilt and compared.

The frames of fewer than 100 questions are scaled up. One process, no worker beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("MUJOCO_GL", "egl")

import h5py
import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine
from lightning_pbrl.clips.base import ClipRenderer, Frames
from lightning_pbrl.clips.choose import renderer_for
from lightning_pbrl.clips.encode import CODECS, write_clip
from lightning_pbrl.clips.online import RecordedClips
from lightning_pbrl.data.preference_npz import read_preference_npz
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.robomimic import read_robomimic
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.envs.rollout import VectorEnvs

LENGTH, SIZE, EPISODES = 50, 256, 2
LEVELS = 2
"""Difference of a colour, of 255, up to which two pixels count as equal (rounding of rebuilt states)."""
Film = dict[int, Frames]
"""Frames of the original episodes by row of the data."""


class Case(NamedTuple):
    """Data to draw: the renderer, the first rows of the segments, and the film of their first and last rows."""

    name: str
    how: str
    clips: ClipRenderer
    starts: list[int]
    film: Film


class Filmed(Simulator):
    """Simulator that keeps frames of chosen steps, counted over all episodes, while it is acted in."""

    def __init__(self, simulator: Simulator, steps: set[int], settled: bool = False) -> None:
        self.simulator, self.steps, self.settled, self.film = simulator, steps, settled, {}
        for name in ("name", "obs_dim", "action_dim", "horizon", "packages"):
            setattr(self, name, getattr(simulator, name))

    def make(self, render: bool = False) -> Any:
        """Build the environment with a camera in it."""
        env: Any = self.simulator.make()
        env.physics = _Watched(env.physics, self)
        return env

    def describe(self) -> dict[str, Any]:
        """Return the description of the simulator itself."""
        return self.simulator.describe()


class _Watched:
    def __init__(self, physics: Any, filmed: Filmed) -> None:
        self.physics, self.filmed, self.camera, self.row = physics, filmed, physics.camera, 0
        self.eye = Camera(physics, SIZE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.physics, name)

    def begin(self, seed: int) -> Any:
        found = self.physics.begin(seed)
        self._look()
        return found

    def advance(self, action: NDArray[Any]) -> Any:
        found = self.physics.advance(action)
        self.row += 1
        self._look()
        return found

    def _look(self) -> None:
        if self.row in self.filmed.steps:
            if self.filmed.settled:
                mujoco.mj_forward(self.physics.model, self.physics.data)
            self.filmed.film[self.row] = self.eye.frame()


def segments(count: int, horizon: int) -> tuple[list[int], set[int]]:
    """Draw the starts of ``count`` segments in episodes of ``horizon`` steps, and return their first and last rows as well."""
    rng = np.random.default_rng(0)
    starts = [int(rng.integers(EPISODES) * horizon + rng.integers(horizon - LENGTH)) for _ in range(count)]
    return starts, {row for start in starts for row in (start, start + LENGTH - 1)}


def metaworld(count: int, folder: Path) -> Case:
    """Meta-World data, as ``lightning-pbrl collect`` makes them."""
    starts, rows = segments(count, 500)
    filmed = Filmed(MetaWorld("plate-slide"), rows)
    mixture = [Behaviour(random=0.5)]
    filmed.expert = filmed.simulator.expert  # type: ignore[method-assign]
    source = collect(filmed, mixture, EPISODES, folder / "metaworld.safetensors")
    return Case("Meta-World, collected", "seed and actions", renderer_for(source, SIZE), starts, filmed.film)


def online(count: int, folder: Path) -> Case:
    """DeepMind Control, acted in at random by a collector."""
    starts, rows = segments(count, 1000)
    filmed = Filmed(DMControl("walker-walk"), rows)
    collector = Collector(VectorEnvs(filmed, 1), Replay(3000, 1, 24, 6, 1000), seed=0)
    for _ in range(1000 * EPISODES):
        collector.step()
    clips = RecordedClips(filmed.simulator, collector, SIZE)
    return Case("DeepMind Control, online", "seed and actions", clips, starts, filmed.film)


def hopper(count: int, file: Path | None) -> Case:
    """Preferences about Hopper, or hops of our own that begin at the origin."""
    simulator = GymMuJoCo("Hopper-v5", terminate_when_unhealthy=False, physics="d4rl")
    if file is not None:
        source, labels = read_preference_npz(file, clip_actions=True)
        starts = labels.start.flatten().tolist()[:count]
        return Case("Hopper, preferences", "rebuilt states", renderer_for(source, SIZE, simulator=simulator), starts, {})
    starts, obs, action = [LENGTH * number for number in range(count)], [], []
    filmed = Filmed(simulator, {row for start in starts for row in (start, start + LENGTH - 1)}, settled=True)
    env, rng = filmed.make(), np.random.default_rng(0)
    for start in starts:
        env.physics.row = start
        env.reset(seed=start)
        env.physics.data.qpos[0] = 0.0
        env.physics._look()
        seen = env.physics.env._get_obs()
        for step in range(LENGTH):
            obs.append(seen)
            action.append(rng.uniform(-1, 1, 3))
            if step < LENGTH - 1:
                seen = env.step(action[-1].astype(np.float32))[0]
    table = [torch.from_numpy(np.array(part, np.float32)) for part in (obs, action)]
    offsets = torch.arange(count + 1) * LENGTH
    source = Transitions.from_columns(table[0], table[1], table[0], offsets)
    return Case("Hopper, preferences", "rebuilt states", renderer_for(source, SIZE, simulator=simulator), starts, filmed.film)


def demonstrations(count: int, folder: Path) -> Case:
    """States in a robomimic file whose model is Meta-World's scene."""
    env: Any = MetaWorld("plate-slide").make()
    physics, path = env.physics, env.physics.env.fullpath
    spec = mujoco.MjSpec.from_file(path)
    spec.meshdir = spec.texturedir = str(Path(path).parent / spec.meshdir)
    spec.compile()
    model = mujoco.MjModel.from_xml_string(spec.to_xml())
    scene: Any = type("Scene", (), {"model": model, "data": mujoco.MjData(model), "camera": -1})()
    eye, film, rng = Camera(scene, SIZE), {}, np.random.default_rng(0)
    starts, rows = segments(count, 200)
    file = folder / "demos.hdf5"
    with h5py.File(file, "w") as data:
        for episode in range(EPISODES):
            env.reset(seed=episode)
            states, group = [], data.create_group(f"data/demo_{episode}")
            for step in range(200):
                states.append(np.concatenate([[physics.data.time], physics.data.qpos, physics.data.qvel]))
                if (row := episode * 200 + step) in rows:
                    scene.data.qpos[:] = physics.data.qpos
                    mujoco.mj_forward(model, scene.data)
                    film[row] = eye.frame()
                env.step(rng.uniform(-1, 1, 4))
            group["states"], group.attrs["model_file"] = np.array(states), spec.to_xml()
            group["actions"], group["rewards"] = np.zeros((200, 4)), np.zeros(200)
            group["obs"] = np.array(states)
    eye.close()
    clips = renderer_for(read_robomimic(file), SIZE, file=file)
    return Case("robomimic, Meta-World's scene", "stored states", clips, starts, film)


def clocks() -> NDArray[np.float64]:
    """Return wall-clock seconds, and CPU seconds of this process and of the encoders that it has run."""
    used = os.times()
    return np.array([time.perf_counter(), used.user + used.system + used.children_user + used.children_system])


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Draw, encode and compare every clip of a case."""
    spent, apart, sizes = np.zeros(4), [], []
    case.clips.frames(case.starts[0], 2)  # builds the environment and the OpenGL context
    for number, start in enumerate(case.starts):
        began = clocks()
        frames = case.clips.frames(start, LENGTH)
        middle = clocks()
        files = write_clip(folder / str(number), frames)
        spent += np.concatenate([middle - began, clocks() - middle])
        sizes.append([files[codec].stat().st_size for codec in CODECS])
        for row in (start, start + LENGTH - 1):
            if row in case.film:
                off = np.abs(frames[row - start].astype(int) - case.film[row].astype(int))
                apart.append(float((off.max(-1) > LEVELS).mean()))
    case.clips.close()
    draw, draw_cpu, encode, encode_cpu = (spent * 200 / len(case.starts)).round(1).tolist()
    return {
        "data": case.name,
        "drawn from": case.how,
        "questions": len(case.starts) // 2,
        "draw_s_per_100": draw,
        "draw_cpu_s_per_100": draw_cpu,
        "encode_s_per_100": encode,
        "encode_cpu_s_per_100": encode_cpu,
        "frames_compared": len(apart),
        "largest_share_of_pixels_apart": max(apart) if apart else None,
        "kilobytes_webm_mp4": [round(float(size) / 1e3, 1) for size in np.mean(sizes, axis=0)],
    }


def cases(count: int, folder: Path, preferences: Path | None) -> Iterator[Callable[[], Case]]:
    """Yield the four cases, each made when it is called."""
    yield lambda: metaworld(count, folder)
    yield lambda: online(count, folder)
    yield lambda: hopper(count, preferences)
    yield lambda: demonstrations(count, folder)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--preferences", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = cases(2 * chosen.questions, Path(folder), chosen.preferences)
        rows = [measured(make(), Path(folder) / "clips") for make in made]
    table = Table("", *(row["data"] for row in rows))
    for name in list(rows[0])[1:]:
        table.add_row(name.replace("_", " "), *(str(row[name]) for row in rows))
    Console(width=150).print(table)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
