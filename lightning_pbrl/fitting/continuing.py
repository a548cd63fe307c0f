"""Start of a learner that acts from checkpoints of other stages: their reward model, their policy, their critics.

Whatever cannot be taken over is refused by name, before anything is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import yaml
from torch import nn

from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.fitting.answers import check_learned
from lightning_pbrl.nn import MLP, SquashedGaussianActor
from lightning_pbrl.nn.taken_over import as_squashed, folded, mean_network

PARTS = ("reward", "policy", "critic")
"""Keys of ``start_from``."""
ARGUMENT = "model.init_args.start_from"
_MEANING = ("output", "score", "normalize_obs")  # settings of a reward model that its weights do not show
_CRITICS = (("critic", "critic_target"), ("q", "q_target"))
_OBSERVED = 1_024


def check_parts(method: Any, start_from: Mapping[str, str] | None) -> None:
    """Raise a UserError for parts that do not exist, and for a policy that the pre-training would overwrite."""
    for name in start_from or {}:
        if name not in PARTS:
            raise UserError(f"{ARGUMENT} has no {name!r}: {nearest(name, PARTS)}")
    if "policy" in (start_from or {}) and method.hparams.explore_steps:
        raise UserError(
            f"{ARGUMENT}.policy would be overwritten by {method.hparams.explore_steps} steps of pre-training: set "
            "model.init_args.explore_steps to 0."
        )


@torch.no_grad()
def take_over(method: Any, given: Mapping[str, Any]) -> None:
    """Load networks of trained methods into a method that has not begun.

    Args:
        method: method that acts, with its replay; its engine does not exist yet.
        given: trained methods by part, ``reward``, ``policy`` or ``critic``.

    Raises:
        UserError: naming the part and the setting that does not fit.
    """
    if method.hparams.get("critic_updates") and not method.source.logged.count:
        raise UserError("model.init_args.critic_updates learn from logged rows: set data.init_args.start_from.")
    for part, trained in given.items():
        wanted, found = ({key: each.spec[key] for key in ("obs_dim", "action_dim")} for each in (method, trained))
        if wanted != found or trained.pixels:
            raise _refused(part, trained, f"is for {found} (pictures: {bool(trained.pixels)}), this run for {wanted}", "one task")
    if "reward" in given:
        _reward(method, given["reward"])
    if "policy" in given:
        _policy(method, given["policy"])
    if "critic" in given:
        _critics(method, given["critic"])


def _reward(method: Any, trained: Any) -> None:
    ours, theirs = method.reward_model, trained.reward_model
    if ours is None or theirs is None:
        without = method if ours is None else trained
        raise _refused("reward", trained, f"cannot be used: {type(without).__name__} holds no reward model", "others")
    if type(ours) is not type(theirs):
        why = f"holds a {type(theirs).__name__}, this run a {type(ours).__name__}"
        raise _refused("reward", trained, why, "model.init_args.reward_model like it")
    check_learned(trained, f"{ARGUMENT}.reward")
    weights, here = theirs.state_dict(), ours.state_dict()
    alike = {key: value.shape for key, value in weights.items()} == {key: value.shape for key, value in here.items()}
    differ = {name: theirs.hparams[name] for name in ours.hparams if theirs.hparams.get(name) != ours.hparams[name]}
    decisive = {name: value for name, value in differ.items() if not alike or name in _MEANING}
    if not alike or decisive:
        told = ", ".join(f"{name}={value}" for name, value in decisive.items())
        raise _refused("reward", trained, f"has {told or 'other weights'}", "model.init_args.reward_model like it")
    ours.load_state_dict(weights)


def _policy(method: Any, trained: Any) -> None:
    into = getattr(method, "actor", None)
    if not isinstance(into, SquashedGaussianActor):
        raise _refused("policy", trained, f"cannot be continued by {type(method).__name__}", "SAC, or a method built on it")
    actor: Any = getattr(trained, "actor", None)
    net = None if actor is None else mean_network(actor)
    if net is None or not isinstance(net.activation, nn.ReLU):
        raise _refused(
            "policy", trained, "has no actor with ReLU layers and a squashed mean", "a policy of docs/offline-to-online"
        )
    _check_hidden("policy", trained, net, into.net)
    normalizer, source = getattr(trained, "normalizer", None), method.source
    rows = source.logged.rows(source.device)[:: max(source.logged.count // _OBSERVED, 1)]
    usual = torch.zeros(method.spec["obs_dim"]) if normalizer is None else normalizer.mean
    obs = source.column("obs")[rows].cpu() if len(rows) else usual.unsqueeze(0)
    into.load_state_dict(as_squashed(actor, normalizer, obs, into))
    if hasattr(method, "first_actor"):
        method.first_actor.load_state_dict(into.state_dict())


def _critics(method: Any, trained: Any) -> None:
    if not isinstance(getattr(method, "critic", None), MLP) or not hasattr(method, "critic_target"):
        raise _refused("critic", trained, f"cannot be continued by {type(method).__name__}", "SAC, or a method built on it")
    pair = next(([getattr(trained, name) for name in names] for names in _CRITICS if hasattr(trained, names[-1])), None)
    if pair is None or pair[0].members != method.critic.members:
        raise _refused("critic", trained, "has no twin critics", "IQL, TD3BC, or SAC and its kin")
    _check_hidden("critic", trained, pair[0], method.critic)
    if pair[0].layer_norm != method.critic.layer_norm:
        raise _refused("critic", trained, f"has layer_norm={pair[0].layer_norm}", "model.init_args.layer_norm alike")
    then, now = trained.hparams.discount, method.hparams.discount
    if then != now:
        raise _refused(
            "critic", trained, f"was trained with discount={then}, this run has {now}", "model.init_args.discount alike"
        )
    if scaled := _scaled(trained):
        raise _refused("critic", trained, f"read rewards scaled by {scaled}, which online rewards are not", f"{scaled} off there")
    normalizer = getattr(trained, "normalizer", None)
    for net, into in zip(pair, (method.critic, method.critic_target), strict=True):
        into.load_state_dict(folded(net, normalizer))


def _check_hidden(part: str, trained: Any, net: MLP, into: MLP) -> None:
    """Raise a UserError if two networks differ in their inputs or hidden layers."""
    wide, ours = (each.weights[0].shape[-1] for each in (net, into))
    if wide != ours:
        raise _refused(part, trained, f"reads {wide} numbers (a goal, too?), this run {ours}", "a policy of states alone")
    then, now = ([weight.shape[-2] for weight in each.weights][:-1] for each in (net, into))
    if then != now:
        raise _refused(part, trained, f"has hidden layers {then}, this run {now}", "model.init_args.hidden alike")


def _scaled(trained: Any) -> str:
    """Return the setting by which the rewards of a run were scaled; empty if they were not, or nobody knows."""
    written = None if trained.run_dir is None else trained.run_dir / "config.yaml"
    relabel = (yaml.safe_load(written.read_text()).get("relabel") or {}) if written is not None and written.is_file() else {}
    asked = relabel.get("reward") is not None
    return next((f"relabel.{name}" for name in ("normalize", "bonus") if asked and relabel.get(name)), "")


def _refused(part: str, trained: Any, why: str, cure: str) -> UserError:
    return UserError(f"{ARGUMENT}.{part}, a {type(trained).__name__}, {why}: use {cure}.")
