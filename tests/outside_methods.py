"""Two methods as somebody outside this project would write them: ReBRAC and DPO."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pbrl.data.transitions import fetch
from lightning_pbrl.engine import Below, Draw, Follows, Frozen, Group, Normal, Part, Program
from lightning_pbrl.engine.draws import Place
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.methods.preference_policy import Batch, PreferencePolicy
from lightning_pbrl.nn import MLP, GaussianActor


class StepAndNext(Below):
    """A transition that has one after it in the table, and that one."""

    def __call__(self, u: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        row = super().__call__(u, place)
        return row, row + 1


class ReBRAC(OfflinePolicy):
    """TD3+BC whose critic and actor are penalised apart (Tarasov et al. 2023, arXiv 2305.09836, Eq. 6 and 7)."""

    needs = frozenset({"learned_reward"})

    def __init__(
        self,
        spec: Spec,
        hidden: tuple[int, ...] = (256, 256, 256),
        lr: float = 1e-3,
        batch_size: int = 1024,
        actor_penalty: float = 0.01,
        critic_penalty: float = 0.01,
        discount: float = 0.99,
        polyak: float = 0.005,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, **offline_policy)

    def build(self) -> None:
        h, obs_dim, action_dim = self.hparams, self.spec["obs_dim"], self.spec["action_dim"]
        self.q = MLP(obs_dim + action_dim, 1, h.hidden, members=2)
        self.actor = MLP(obs_dim, action_dim, h.hidden, output=nn.Tanh)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        targets = {"q_target": Follows("q", h.polyak), "actor_target": Follows("actor", h.polyak)}
        return {"q": Group(h.lr), "actor": Group(h.lr), **targets}

    def programs(self) -> dict[str, Program]:
        size = self.hparams.batch_size
        draws = {
            "step": StepAndNext(len(self.source) - 1, size),
            "noise": Normal(size, self.spec["action_dim"]),
        }
        return {"policy": Program([self.critic_loss, self.actor_loss], draws, self.gather, self.columns, every=(1, 2))}

    def gather(self, drawn: dict[str, Any]) -> dict[str, Tensor]:
        row, following = drawn["step"]
        rows = {"rows": fetch(self.source.packed, row), "noise": drawn["noise"]}
        return {**rows, "next_action": fetch(self.source.column("action"), following)}

    def critic_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h, next_obs = self.hparams, self.normalizer(batch["next_obs"])
        with torch.no_grad():
            action = (self.actor_target(next_obs) + (0.2 * batch["noise"]).clamp(-0.5, 0.5)).clamp(-1, 1)
            penalty = (action - batch["next_action"]).square().sum(-1)
            value = self.q_target(torch.cat([next_obs, action], -1)).amin(0).squeeze(-1) - h.critic_penalty * penalty
            target = batch["learned_reward"] + h.discount * (1 - batch["terminated"]) * value
        q = self.q(torch.cat([self.normalizer(batch["obs"]), batch["action"]], -1)).squeeze(-1)
        return {"q": (q - target).square().mean(-1).sum()}

    def actor_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        obs = self.normalizer(batch["obs"])
        action = self.actor(obs)
        value = self.q(torch.cat([obs, action], -1)).amin(0).squeeze(-1)
        scale = value.detach().abs().mean().clamp(min=1e-8)
        penalty = (action - batch["action"]).square().sum(-1)
        return {"actor": (self.hparams.actor_penalty * penalty - value / scale).mean()}

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor(self.normalizer(obs))


class DPO(PreferencePolicy):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7) of a policy over segments."""

    def __init__(
        self, spec: Spec, hidden: tuple[int, ...] = (256, 256), lr: float = 1e-4, beta: float = 0.1, **policy: Any
    ) -> None:
        super().__init__(spec, **policy)

    def build(self) -> None:
        self.actor = GaussianActor(self.spec["obs_dim"], self.spec["action_dim"], self.hparams.hidden)
        self.reference = copy.deepcopy(self.actor).requires_grad_(False)

    def groups(self) -> dict[str, Part]:
        return {"actor": Group(self.hparams.lr), "reference": Frozen()}

    def programs(self) -> dict[str, Program]:
        return {"policy": Program([self.losses], **self.minibatches())}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        steps = batch["obs"].flatten(0, -2), batch["action"].flatten(0, -2)
        ratio = self.actor.log_prob(*steps) - self.reference.log_prob(*steps).detach()
        score = self.hparams.beta * ratio.view(batch["obs"].shape[:-1]).sum(-1)
        return {"actor": F.binary_cross_entropy_with_logits(score[:, 1] - score[:, 0], batch["label"])}


# The same with a fault each ------------------------------------------------------------------------------------------------


class SharedReference(DPO):
    """Says nothing of its reference, which all replicas would share."""

    def groups(self) -> dict[str, Part]:
        return {"actor": Group(self.hparams.lr)}


class Antithetic(Draw):
    """Noise of a whole block, mirrored in its second half: another for every size of block."""

    def __init__(self, *shape: int) -> None:
        self.normal = Normal(*shape)
        self.width = self.normal.width

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        return self.normal((u + u.flip(0)) / 2, place)


class MirroredNoise(ReBRAC):
    """Draws that depend on the block."""

    def programs(self) -> dict[str, Program]:
        policy = super().programs()["policy"]
        draws = {**policy.draws, "noise": Antithetic(self.hparams.batch_size, self.spec["action_dim"])}
        return {"policy": Program(policy.steps, draws, policy.gather, policy.view, every=policy.every)}


class OwnNoise(ReBRAC):
    """Noise from PyTorch's own generator in place of a draw."""

    def gather(self, drawn: dict[str, Any]) -> dict[str, Tensor]:
        batch = super().gather(drawn)
        return {**batch, "noise": torch.randn_like(batch["noise"])}


class Counts(ReBRAC):
    """Looks at the value of a tensor in a loss."""

    def actor_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = super().actor_loss(batch)
        return losses if torch.isfinite(losses["actor"]) else {"actor": losses["actor"] * 0}


class ReadsTheTruth(ReBRAC):
    """Learns from the true reward."""

    def gather(self, drawn: dict[str, Any]) -> dict[str, Tensor]:
        return {**super().gather(drawn), "truth": self.source.reward[drawn["step"][0]]}

    def columns(self, batch: Any) -> dict[str, Any]:
        columns = super().columns(batch)
        return {**columns, "learned_reward": columns.pop("truth").nan_to_num()}


class TooFar(ReBRAC):
    """Acts beyond the action space."""

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return 2.0 * super().act(obs)


class Unseeded(ReBRAC):
    """Initial weights from a generator that nobody has seeded."""

    def build(self) -> None:
        super().build()
        rng = torch.Generator()
        rng.seed()
        with torch.no_grad():
            for weight in self.actor.parameters():
                weight += 0.1 * torch.rand(weight.shape, generator=rng)


class Idle(ReBRAC):
    """Names a group that no loss moves."""

    def build(self) -> None:
        super().build()
        self.idle = nn.Parameter(torch.zeros(2))

    def groups(self) -> dict[str, Part]:
        return {**super().groups(), "idle": Group(1e-3)}


class Remembers(ReBRAC):
    """Keeps a number from one update to the next, which a resumed fit has not."""

    seen = 0

    def gather(self, drawn: dict[str, Any]) -> dict[str, Tensor]:
        self.__dict__["seen"] = self.seen + 1
        batch = super().gather(drawn)
        return {**batch, "noise": batch["noise"] * (1 + 0.1 * self.seen)}
