"""Simulators to act in whose episodes depend on seed and actions, and a method that only acts and asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_pbrl.engine import Frozen, Part
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.methods.base import Method, Phase


class WalkPhysics:
    """A point on a line, pushed by the action; it falls (terminates) beyond ``edge``. Pays its position, solved beyond 0.5."""

    camera: str | int = -1
    model = data = None

    def __init__(self, edge: float, success: bool) -> None:
        self.edge, self.success = edge, success

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        self.x = np.random.default_rng(seed).uniform(-0.5, 0.5)
        self.t = 0
        return self._seen(), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        self.x += 0.3 * float(action[0])
        self.t += 1
        info = {"success": float(self.x > 0.5)} if self.success else {}
        return self._seen(), self.x, abs(self.x) > self.edge, info

    def _seen(self) -> Array:
        return np.array([self.x, self.t])


class WalkSimulator(Simulator):
    """Episodes of at most ``horizon`` steps, shorter where ``edge`` is near."""

    obs_dim, action_dim = 2, 1

    def __init__(self, horizon: int = 6, edge: float = 9.0, success: bool = True) -> None:
        self.name, self.horizon, self.edge, self.success = "walk-v0", horizon, edge, success

    def make(self, render: bool = False) -> Any:
        from lightning_pbrl.envs.episodic import Episodic

        return Episodic(self, WalkPhysics(self.edge, self.success))

    def describe(self) -> dict[str, Any]:
        return {"simulator": "WalkSimulator", "horizon": self.horizon}


class PointPhysics:
    """A point on the line from -1 to 1 that moves by a quarter of the action and is paid 1 - |place - 0.5|."""

    camera: str | int = -1
    model = data = None

    def __init__(self, pay: float) -> None:
        self.pay = pay

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        self.place = np.random.default_rng(seed).uniform(-1, 1)
        return np.array([self.place]), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + 0.25 * float(action[0]), -1, 1))
        return np.array([self.place]), self.pay * (1 - abs(self.place - 0.5)), False, {}


class PointSimulator(Simulator):
    """Twenty steps of :class:`PointPhysics`."""

    name = "point-v0"
    obs_dim, action_dim, horizon = 1, 1, 20

    def __init__(self, pay: float = 1.0) -> None:
        self.pay = pay

    def make(self, render: bool = False) -> Any:
        from lightning_pbrl.envs.episodic import Episodic

        return Episodic(self, PointPhysics(self.pay))

    def describe(self) -> dict[str, Any]:
        return {"class": "PointSimulator"}


class _Actor(Method):
    """Acts by a fixed random network, ``round_steps`` env steps a round (a third of them at random), until ``env_steps``."""

    needs = frozenset({"labels"})

    def __init__(self, spec: dict[str, Any], env_steps: int = 60, round_steps: int = 20, seed: int = 0) -> None:
        super().__init__(spec, seed=seed)

    def build(self) -> None:
        self.policy = torch.nn.Linear(self.spec["obs_dim"], self.spec["action_dim"])

    def groups(self) -> dict[str, Part]:
        return {"policy": Frozen()}

    def plan(self, round_number: int) -> list[Phase]:
        steps = self.hparams.round_steps
        return [Phase("random", env_steps=steps // 3, random=True), Phase("act", env_steps=steps - steps // 3)]

    def is_finished(self) -> bool:
        return self.env_steps >= self.hparams.env_steps

    def act(self, obs: torch.Tensor, sample: bool = False) -> torch.Tensor:
        return self.policy(obs).tanh()

    def behave(self, obs: torch.Tensor) -> torch.Tensor:
        return self.act(obs)

    def returns(self, query: Any) -> torch.Tensor:
        """Two members that disagree where observations are large: what strategies ask for."""
        total = self.source.segments(query.start, query.length).sum((-1, -2))
        return torch.stack([total, -total])


Method.registry.pop("_Actor")


class Watching:
    """Notes phases of a method that acts, with its counts as each begins: ``class Watched(Watching, PEBBLE)``."""

    def plan(self: Any, round_number: int) -> list[Phase]:
        noted = self.__dict__.setdefault("noted", [])

        def noting(name: str, start: Any) -> Any:
            def begin() -> None:
                noted.append((round_number, name, self.env_steps, *self.counts()))
                if start:
                    start()

            return begin

        return [phase._replace(start=noting(phase.name, phase.start)) for phase in super().plan(round_number)]  # type: ignore[misc]

    def counts(self) -> tuple[int, ...]:
        return ()


class WatchingPay(Watching):
    """Notes also what rollouts were paid, beside what each row is worth then."""

    def novelty(self, rows: torch.Tensor) -> torch.Tensor:
        return self.noted_reward(rows, super().novelty(rows))  # type: ignore[misc]

    def collected_reward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.noted_reward(rows, super().collected_reward(rows))  # type: ignore[misc]

    def noted_reward(self: Any, rows: torch.Tensor, paid: torch.Tensor) -> torch.Tensor:
        self.__dict__.setdefault("paid", []).append((self.rounds.name, paid, self.worth(rows)))
        return paid
