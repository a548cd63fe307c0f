"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347): the on-policy learner of PrefPPO and active RLHF.

On its own, with the true reward, it is their oracle. Networks, their initialisation and an update are those of stable-baselines3
2.9 (``benchmarks.ppo`` compares the two weight by weight).

Differences: values and log densities of a rollout are computed in one batch when it is complete; the reference computes them step
by step. They are the same numbers to rounding, except that what follows an episode's end is standardised by the statistics of the
rollout's end. The last rollout is cut, so that a run ends with exactly ``env_steps``. Linear schedules count the steps *before* a
rollout, so that the last one still learns; there its rate is 0. ``target_kl`` is compared after each pass with the pass's mean,
there after each minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Group, Part, Passes, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.ppo import (
    approximate_kl,
    clipped_surrogate,
    explained_variance,
    gae,
    gaussian_entropy,
    standardised,
    value_loss,
)
from lightning_pbrl.methods.base import Metrics, Phase, Spec
from lightning_pbrl.methods.online_policy import OnlinePolicy
from lightning_pbrl.nn import MLP, GaussianActor, RunningNormalizer
from lightning_pbrl.rng import derive

ADAM_EPS = 1e-5
"""As in the original implementation; PyTorch's default is 1e-8."""
KL_SLACK = 1.5
"""Factor on ``target_kl``: a larger KL estimate ends a policy phase."""


class PPO(OnlinePolicy):
    r"""Proximal policy optimisation on the true reward (Schulman et al. 2017).

    .. math::
        \delta_t &= r_t + \gamma V(s_{t+1}) - V(s_t), \qquad \hat A_t = \sum_l (\gamma \lambda)^l \delta_{t+l} \\
        L &= -E[\min(\rho \hat A, \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) \hat A)]
            + c_V E[(V(s) - (\hat A + V_{\text{old}}(s)))^2] - c_H H(\pi),
            \quad \rho = \pi(a \mid s) / \pi_{\text{old}}(a \mid s)

    A round is some rollouts of ``n_steps`` per environment, each followed by ``n_epochs`` passes in shuffled minibatches. With
    ``explore_steps``, round 0 is rewarded by the state entropy (PEBBLE's pre-training), and the last layer of the value then
    starts anew. The policy is a Gaussian whose standard deviation does not depend on the state. Actions are clipped for the
    environment and the replay alone; the ratio is that of the action as it was drawn.

    Args:
        spec: sizes, linked from the data module.
        env_steps: env steps in total.
        explore_steps: env steps among these of the pre-training in round 0; 0 leaves it out.
        round_steps: env steps of a round, that is between evaluations (and questions): a multiple of a rollout.
        n_steps: steps of a rollout in each environment.
        batch_size: rows per update.
        n_epochs: passes over a rollout.
        explore_epochs: passes over a rollout of the pre-training.
        hidden: hidden layers of policy and value, which share none, with tanh.
        lr: learning rate per update, one Adam for both.
        lr_schedule: constant, or linear: falls to 0 at ``env_steps``.
        clip: ε.
        clip_schedule: the same for ε.
        discount: γ.
        gae_lambda: λ.
        value_coef: c_V.
        entropy_coef: c_H.
        max_grad_norm: bound of the gradient's norm, of policy and value together.
        target_kl: end the passes over a rollout when the KL estimate exceeds 1.5 times as much, in nats; None never.
        normalize_obs: standardise observations by running statistics of those acted on, clipped to 10 standard deviations.
        **online: further arguments of :class:`~lightning_pbrl.methods.online_policy.OnlinePolicy`.
    """

    normalizer: RunningNormalizer | None

    def __init__(
        self,
        spec: Spec,
        env_steps: int = 1_000_000,
        explore_steps: int = 0,
        round_steps: int = 20_480,
        n_steps: int = 2_048,
        batch_size: int = 64,
        n_epochs: int = 10,
        explore_epochs: int = 50,
        hidden: Sequence[int] = (64, 64),
        lr: float = 3e-4,
        lr_schedule: Literal["constant", "linear"] = "constant",
        clip: float = 0.2,
        clip_schedule: Literal["constant", "linear"] = "constant",
        discount: float = 0.99,
        gae_lambda: float = 0.95,
        value_coef: float = 0.5,
        entropy_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        target_kl: float | None = None,
        normalize_obs: bool = True,
        **online: Any,
    ) -> None:
        super().__init__(spec, env_steps, explore_steps, round_steps, **online)
        if explore_steps >= env_steps:
            raise UserError(f"env_steps is {env_steps}, and {explore_steps} exploring steps use them up: raise it.")
        learning = n_epochs * (env_steps - explore_steps) + explore_epochs * explore_steps
        self.updates = learning // batch_size  # about; auto-compile reads it

    def build(self) -> None:
        obs_dim, hidden = self.spec["obs_dim"], self.hparams.hidden
        self.actor = GaussianActor.unbounded(obs_dim, self.spec["action_dim"], hidden)
        gains = (math.sqrt(2.0), 1.0)
        self.critic = MLP(obs_dim, 1, hidden, activation=nn.Tanh, ortho_init=True, gains=gains)
        self.normalizer = RunningNormalizer(obs_dim) if self.hparams.normalize_obs else None

    @property
    def rollout_rows(self) -> int:
        """Number of env steps of a whole rollout."""
        return self.hparams.n_steps * self.source.num_envs

    def on_fit_start(self) -> None:
        super().on_fit_start()
        h, rows = self.hparams, self.rollout_rows
        for name in ("explore_steps", "round_steps"):
            if h[name] % rows:
                raise UserError(
                    f"model.init_args.{name} is {h[name]} and a rollout has n_steps x num_envs = {rows}: make it a multiple."
                )
        if self.source.lane < h.n_steps:
            raise UserError(f"The replay cannot hold a rollout of {rows} steps: raise data.init_args.capacity to at least that.")

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        schedule = self.share_left if h.lr_schedule == "linear" else None
        adam = Group(h.lr, options={"eps": ADAM_EPS}, schedule=schedule, clip=h.max_grad_norm, modules=("actor", "critic"))
        return {"policy": adam}

    def programs(self) -> dict[str, Program]:
        h = self.hparams
        draws = {"rows": Passes(lambda: len(self.rows), h.batch_size)}
        ragged = self.rollout_rows % h.batch_size != 0
        return {"policy": Program([self.losses], draws, self.gather, self.view, ("policy",), ragged=ragged)}

    def plan(self, round_number: int) -> list[Phase]:
        h = self.hparams
        if round_number == 0 and h.explore_steps:
            return self.rollouts("explore", h.explore_steps, h.explore_epochs, self.novelty)
        restart = [Phase("reset", start=self.reset_value)] if round_number == 1 and h.explore_steps else []
        begin, end = [*self.round_starts(), h.env_steps][round_number : round_number + 2]
        return [*restart, *self.rollouts("policy", end - begin, h.n_epochs, self.collected_reward)]

    def round_starts(self) -> list[int]:
        h = self.hparams
        return [0, *range(h.explore_steps or h.round_steps, h.env_steps, h.round_steps)]

    def rollouts(self, name: str, steps: int, epochs: int, reward: Callable[[Tensor], Tensor]) -> list[Phase]:
        """Return rollouts of ``steps`` env steps in all, ``epochs`` passes over each; ``reward`` of their rows, (n,) -> (n,)."""
        h, plan, end = self.hparams, [], partial(self.end_rollout, reward)
        while steps > 0:
            rows = min(steps, self.rollout_rows)
            one_pass = math.ceil(rows / h.batch_size)
            ends: dict[str, Any] = {} if h.target_kl is None else {"block": one_pass, "done": self.moved_enough}
            plan.append(Phase("rollout", env_steps=rows, block=rows, start=self.begin_rollout))
            plan.append(Phase(name, "policy", epochs * one_pass, start=end, **ends))
            steps -= rows
        return plan

    def moved_enough(self, metrics: Metrics) -> bool:
        """Return True if the policy has moved enough; asked after every pass."""
        return metrics["kl"] > KL_SLACK * self.hparams.target_kl

    def share_left(self, _: int = 0) -> float:
        """Return the fraction of all env steps that were left when the present rollout began, in (0, 1]."""
        return 1.0 - (self.env_steps - len(self.rows)) / self.hparams.env_steps

    def reset_value(self) -> None:
        """Draw new weights for the last layer of the value; the optimiser and everything else go on."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "init", "value reset"))
            self.critic.ortho_init(-1)

    # A rollout ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_rollout(self) -> None:
        """Allocate storage for the coming rollout, and draw its noise."""
        envs = self.source.num_envs
        shape, sizes = (self.rounds.phases[0].size // envs, envs), (self.spec["obs_dim"], self.spec["action_dim"])
        self.obs, self.drawn = (torch.empty(*shape, size, device=self.device) for size in sizes)
        self.noise = self.actor.log_std.exp() * torch.randn(self.drawn.shape, generator=self.acting_rng, device=self.device)
        self.filled = 0

    def behave(self, obs: Tensor) -> Tensor:
        """Return mean plus noise, not clipped; keep it with the observation as the policy saw it."""
        if self.normalizer is not None:
            self.normalizer.see(obs)
        obs, t = self.normalized(obs), self.filled
        action = self.actor.mean(obs) + self.noise[t]
        self.obs[t], self.drawn[t], self.filled = obs, action, t + 1
        return action

    @torch.no_grad()
    def end_rollout(self, reward_of: Callable[[Tensor], Tensor]) -> None:
        """Compute rewards, values and advantages of the rollout: the table of the coming minibatches."""
        h, source, (steps, envs) = self.hparams, self.source, self.drawn.shape[:2]
        age = torch.arange(steps - 1, -1, -1)[:, None] * envs + torch.arange(envs)
        rows = source.rows_of_age(age.to(self.device))
        reward = reward_of(rows.flatten())
        source.write("learned_reward", reward, rows.flatten())
        terminated = source.column("terminated")[rows]
        ended = torch.maximum(terminated, source.column("truncated")[rows])

        value = self.critic(self.obs).squeeze(-1)
        follows = value.roll(-1, 0)
        last = ended.bool()
        last[-1] = True  # the next observation was not acted on
        follows[last] = self.critic(self.normalized(source.column("next_obs")[rows[last]])).squeeze(-1)
        advantage = gae(reward.view(steps, envs), value, follows, terminated, ended, h.discount, h.gae_lambda)
        target = advantage + value
        scalars = torch.stack([self.actor.log_prob(self.obs, self.drawn), advantage, target], -1)
        self.rows = torch.cat([self.obs, self.drawn, scalars], -1).flatten(0, 1)
        clip = torch.tensor(h.clip * (self.share_left() if h.clip_schedule == "linear" else 1.0), device=self.device)
        self.about = {"clip": clip, "explained_variance": explained_variance(value, target)}

    def novelty(self, rows: Tensor) -> Tensor:
        """Return the reward of exploring, the state entropy: ids (n,) -> (n,)."""
        return self.entropy(self.source.column("obs")[rows], self.source.seen())

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"rows": self.rows.index_select(0, drawn["rows"]), **self.about}

    def view(self, gathered: dict[str, Tensor]) -> dict[str, Tensor]:
        obs, action, scalars = gathered["rows"].split([self.spec["obs_dim"], self.spec["action_dim"], 3], -1)
        log_prob, advantage, target = scalars.unbind(-1)
        return {**gathered, "obs": obs, "action": action, "log_prob": log_prob, "advantage": advantage, "target": target}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h = self.hparams
        log_ratio = self.actor.log_prob(batch["obs"], batch["action"]) - batch["log_prob"]
        ratio = log_ratio.exp()
        surrogate = clipped_surrogate(ratio, standardised(batch["advantage"]), batch["clip"])
        value_error = value_loss(self.critic(batch["obs"]).squeeze(-1), batch["target"])
        entropy = gaussian_entropy(self.actor.log_std)
        return {
            "policy": surrogate + h.value_coef * value_error - h.entropy_coef * entropy,
            "surrogate": surrogate,
            "value_error": value_error,
            "entropy": entropy,
            "kl": approximate_kl(log_ratio.detach(), ratio.detach()),
            "clip_fraction": ((ratio.detach() - 1.0).abs() > batch["clip"]).float().mean(),
            "explained_variance": batch["explained_variance"],
        }

    def normalized(self, obs: Tensor) -> Tensor:
        """Return observations as the networks see them: (..., O) -> (..., O)."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalized(obs), sample)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.actor.log_prob(self.normalized(obs), action)
