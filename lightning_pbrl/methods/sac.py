"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) in a simulator: the learner of PEBBLE and QPA.

On its own, with the true reward, it is the oracle of preference-based methods. Networks, bounds and order of updates are those of
B-Pref (arXiv 2111.03026).

Differences: the target critics move by the count of gradient updates instead of env steps, which is the same for one update
per env step. An update follows the env step that it belongs to; the released code does it just before the next one.

From images it is DrQ (Kostrikov et al. 2020, arXiv 2004.13649) with K = M = 1. The critics' loss alone trains the convolutions,
whose features the actor reads. Every image of a minibatch is moved at random. One image is seen at a time, not three.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_pbrl.data.replayed_images import images_around
from lightning_pbrl.data.transitions import fetch, unpack
from lightning_pbrl.engine import Follows, Frozen, Group, Normal, Part, Program, Uniform
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.sac import gaussian_kl, soft_actor_loss, soft_td_target, temperature_loss, twin_critic_loss
from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.online_policy import OnlinePolicy
from lightning_pbrl.nn import MLP, AtariTorso, SquashedGaussianActor
from lightning_pbrl.nn.picture import PAD, Trunk
from lightning_pbrl.nn.picture_critic import PictureCritic
from lightning_pbrl.nn.squashed_actor import squash
from lightning_pbrl.rng import derive


class SAC(OnlinePolicy):
    """Soft actor-critic with a learned temperature on the true reward (Haarnoja et al. 2018).

    .. math::
        y &= r + \\gamma (\\min_i \\hat Q_i(s', a') - \\alpha \\log \\pi(a' \\mid s')), \\quad a' \\sim \\pi(s') \\\\
        L_Q &= \\sum_i E[(Q_i(s, a) - y)^2] \\\\
        L_\\pi &= E[\\alpha \\log \\pi(\\tilde a \\mid s) - \\min_i Q_i(s, \\tilde a)] \\\\
        L_\\alpha &= E[\\alpha (-\\log \\pi(\\tilde a \\mid s) - \\bar H)], \\quad \\bar H = -A

    Round 0 collects ``seed_steps`` by uniform actions, without updates, then ``explore_steps`` by a policy rewarded by the state
    entropy (PEBBLE's pre-training). Each later round is ``round_steps`` env steps with ``update_ratio`` updates after each.

    Args:
        spec: sizes, linked from the data module.
        env_steps: env steps in total.
        seed_steps: first of these env steps, without updates: random actions, or those of the policy that the run continues.
        explore_steps: state-entropy pre-training after these; at its end the critic starts anew and makes ``reset_updates``
            updates before it goes on. 0 leaves it out.
        round_steps: env steps of a round, that is between evaluations (and questions).
        update_ratio: gradient updates per env step.
        hidden: hidden layers of actor and critics.
        batch_size: transitions per update.
        lr: learning rate of the actor, per update.
        critic_lr: learning rate of the critics; as ``lr`` when None.
        discount: γ.
        polyak: rate at which the target critics follow.
        target_every: updates between two moves of the target critics.
        init_temperature: α at the start.
        alpha_lr: learning rate of log α.
        reset_updates: updates right after the critic has started anew.
        critic_updates: updates of the critics alone, before the first env step, on logged rows: they evaluate the policy that
            the run continues (``start_from``) before they move it. They need about 3 ``target_every`` / (``polyak`` (1 - γ)).
        layer_norm: standardise the critics' hidden layers, which bounds their values of actions without data (RLPD, sec. 4.2).
        kl_weight: weight of KL(π ‖ π_0) in the actor's loss, π_0 being the policy that the run continues (BRAC's policy
            regularisation, arXiv 1911.11361, toward that policy): a learned reward is trusted near it alone.
        shift: largest random shift of images in an update, pixels (DrQ); None for 4, 0 for none.
        **online: further arguments of :class:`~lightning_pbrl.methods.online_policy.OnlinePolicy`.
    """

    pictures = True
    shared_steps: ClassVar[tuple[str, ...]] = ("env_steps", "seed_steps", "explore_steps", "round_steps")

    def __init__(
        self,
        spec: Spec,
        env_steps: int = 500_000,
        seed_steps: int = 1_000,
        explore_steps: int = 0,
        round_steps: int = 10_000,
        update_ratio: int = 1,
        hidden: Sequence[int] = (1024, 1024),
        batch_size: int = 1024,
        lr: float = 5e-4,
        critic_lr: float | None = None,
        discount: float = 0.99,
        polyak: float = 0.005,
        target_every: int = 2,
        init_temperature: float = 0.1,
        alpha_lr: float = 1e-4,
        reset_updates: int = 100,
        critic_updates: int = 0,
        layer_norm: bool = False,
        kl_weight: float = 0.0,
        shift: int | None = None,
        **online: Any,
    ) -> None:
        super().__init__(spec, env_steps, explore_steps, round_steps, **online)
        neighbours, name = self.entropy.k, type(self).__name__
        self.side, self.shift = self.pixels, PAD if shift is None else shift  # of the images that it sees; 0 for states
        if env_steps <= seed_steps + explore_steps:
            raise UserError(
                f"env_steps is {env_steps}, and {seed_steps} random plus {explore_steps} exploring steps use them up: raise it."
            )
        if explore_steps and seed_steps <= neighbours:
            raise UserError(
                f"Exploring compares a state with its {neighbours} nearest neighbours and only {seed_steps} random steps are "
                "stored before: raise seed_steps."
            )
        if kl_weight and "policy" not in (self.hparams.start_from or {}):
            raise UserError(f"{name} has kl_weight={kl_weight:g} and continues no policy: set model.init_args.start_from.policy.")
        if not self.pixels and shift is not None:
            raise UserError(f"{name} has shift={shift} and sees states: use the simulator Pixels.")
        if self.pixels and not 0 <= self.shift < self.pixels:
            raise UserError(f"{name} has shift={shift} for images of {self.pixels} pixels: give 0 to {self.pixels - 1}.")
        if self.pixels and explore_steps and self.pictures:
            raise UserError(
                f"{name} explores by distances between states and sees pictures: set model.init_args.explore_steps to 0."
            )
        self.updates = update_ratio * (env_steps - seed_steps) + (reset_updates if explore_steps else 0) + critic_updates

    def build(self) -> None:
        h = self.hparams
        torso = Trunk(AtariTorso(self.side).features) if self.side else None  # reads what the critic's convolutions give
        self.actor = SquashedGaussianActor(self.spec["obs_dim"], self.spec["action_dim"], h.hidden, torso=torso)
        if h.kl_weight:
            self.first_actor = copy.deepcopy(self.actor).requires_grad_(False)  # take_over fills it
        self.critic = self.new_critic()
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(h.init_temperature)))

    def new_critic(self) -> MLP | PictureCritic:
        """Return two untrained critics."""
        sizes, h = (self.spec["obs_dim"] + self.spec["action_dim"], 1), self.hparams
        if self.side:
            return PictureCritic(self.side, self.spec["action_dim"], h.hidden, h.layer_norm)
        return MLP(*sizes, h.hidden, members=2, ortho_init=True, layer_norm=h.layer_norm)

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        critics: dict[str, Part] = {"critic": Group(h.critic_lr or h.lr), "critic_target": Follows("critic", h.polyak)}
        first: dict[str, Part] = {"first_actor": Frozen()} if h.kl_weight else {}
        return {**critics, **first, "actor": Group(h.lr), "log_alpha": Group(h.alpha_lr)}

    def programs(self) -> dict[str, Program]:
        policy = self.program(self.replayed)
        first = {"critic": replace(policy, steps=[self.critic_losses], moves=("critic",))} if self.hparams.critic_updates else {}
        return {"policy": policy, "explore": self.program(self.novel), **first}

    def program(self, gather: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Program:
        """Return a program that updates critics, actor and temperature on the minibatches of ``gather``."""
        h = self.hparams
        noise = Normal(h.batch_size, self.spec["action_dim"])
        draws = {"place": Uniform(h.batch_size), "next_noise": noise, "noise": noise}
        if self.side and self.shift:
            draws["shift"] = Uniform(2, 2, h.batch_size)
        moves = "critic", "actor", "log_alpha"
        steps = [self.critic_losses, self.policy_losses]
        return Program(steps, draws, gather, self.view, moves, follow_every=h.target_every)

    def plan(self, round_number: int) -> list[Phase]:
        if round_number == 0:
            first = [Phase("critic", "critic", self.hparams.critic_updates)] if self.hparams.critic_updates else []
            return [*first, self.random_steps(), *self.explore()]
        return [*self.restart(round_number), self.learn(round_number)]

    def random_steps(self) -> Phase:
        """Act without updates: uniformly, or by the policy that the run continues."""
        return Phase("random", env_steps=self.hparams.seed_steps, random="policy" not in (self.hparams.start_from or {}))

    def explore(self) -> list[Phase]:
        """Return the pre-training; its last steps have no updates, since these would change what starts anew."""
        h, together = self.hparams, self.source.num_envs
        if not h.explore_steps:
            return []
        updates = h.update_ratio * (h.explore_steps - together)
        return [Phase("explore", "explore", updates, env_steps=1 / h.update_ratio), Phase("explore", env_steps=together)]

    def restart(self, round_number: int) -> list[Phase]:
        """Return, after the pre-training, a reset of the critic and ``reset_updates`` updates before the next env step."""
        if round_number != 1 or not self.hparams.explore_steps:
            return []
        return [Phase("reset", "policy", self.hparams.reset_updates, start=self.reset_critic)]

    def learn(self, round_number: int) -> Phase:
        """Act and update until the round or the run ends."""
        h = self.hparams
        begin, end = [*self.round_starts(), h.env_steps][round_number : round_number + 2]
        return Phase("policy", "policy", (end - begin) * h.update_ratio, env_steps=1 / h.update_ratio)

    def round_starts(self) -> list[int]:
        h = self.hparams
        return [0, *range(h.seed_steps + h.explore_steps, h.env_steps, h.round_steps)]

    def reset_critic(self) -> None:
        """Draw new weights for critics and targets, with a fresh optimiser; actor and temperature stay."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "init", "critic reset"))
            fresh = self.new_critic()
        self.running.state.reset("critic", {f"critic.{name}": value for name, value in fresh.state_dict().items()})

    def replayed(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather rows of the replay, (B, W), uniform over all that are stored when the update begins."""
        return self.rows_and_images(drawn, self.source.uniform_rows(drawn["place"]))

    def rows_and_images(self, drawn: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Return these rows of the replay, packed, and where the policy sees images those around them, beside what was drawn."""
        images = images_around(self.source, rows, drawn.get("shift"), self.shift) if self.side else {}
        return {**drawn, "rows": fetch(self.source.packed, rows), **images}

    def view(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the columns of packed rows by name, images in place of states if there are some, beside the noise."""
        return {**unpack(batch["rows"], self.source.layout), **batch}

    def seen(self, obs: Tensor, critic: Any = None) -> Tensor:
        """Return what actor and ``critic`` (the present one) read of observations: states, or features of images."""
        net: Any = critic or self.critic
        return net.see(obs) if self.side else obs

    def novel(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather the same rows, rewarded by the state entropy."""
        batch = self.replayed(drawn)
        obs = batch["rows"][:, : self.source.obs_dim]
        batch["rows"][:, self.source.layout["learned_reward"][0]] = self.entropy(obs, self.source.seen())
        return batch

    def critic_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            next_action, log_prob = self.actor.sample(self.seen(batch["next_obs"]), batch["next_noise"])
            next_obs = self.seen(batch["next_obs"], self.critic_target)
            next_q = self.critic_target(torch.cat([next_obs, next_action], -1)).squeeze(-1)
            target = soft_td_target(
                self.reward_of(batch), self.hparams.discount, batch["terminated"], next_q, log_prob, self.log_alpha.exp()
            )
        q = self.critic(torch.cat([self.seen(batch["obs"]), batch["action"]], -1)).squeeze(-1)
        return {"critic": twin_critic_loss(q, target), "q": q.mean()}

    def policy_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of actor and temperature, with the critics that have just moved."""
        with torch.no_grad():
            obs = self.seen(batch["obs"])
        mean, log_std = self.actor(obs)
        action, log_prob = squash(mean, log_std, batch["noise"])
        q = self.critic(torch.cat([obs, action], -1)).squeeze(-1)
        loss, kl = soft_actor_loss(log_prob, q, self.log_alpha.exp()), {}
        if self.hparams.kl_weight:
            kl["kl"] = gaussian_kl(mean, log_std, *self.first_actor(obs)).mean()
            loss = loss + self.hparams.kl_weight * kl["kl"]
        return {
            **kl,
            "actor": loss,
            "log_alpha": temperature_loss(self.log_alpha, log_prob, -float(self.spec["action_dim"])),
            "temperature": self.log_alpha.exp(),
            "entropy": -log_prob.mean(),
        }

    def reward_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the reward that the critics learn, of the rows of a minibatch, (B,)."""
        return batch["learned_reward"]

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.seen(obs), sample)

    def behave(self, obs: Tensor) -> Tensor:
        return self.actor.act(self.seen(obs), sample=True, generator=self.acting_rng)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.actor.log_prob(self.seen(obs), action)

    def on_env_step(self) -> None:
        rows = self.source.newest
        self.source.write("learned_reward", self.collected_reward(rows), rows)
