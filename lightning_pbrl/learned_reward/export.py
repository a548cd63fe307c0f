"""The folder in which a learned reward is passed on: safetensors, JSON and a model card, none of which runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lightning_pbrl import registry
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.finite import all_finite
from lightning_pbrl.fitting.lightning_glue import plain
from lightning_pbrl.learned_reward.card import card
from lightning_pbrl.methods.base import Method
from lightning_pbrl.rewards.base import RewardModel, chosen, described

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""Files of the folder."""
FORMAT, SCHEMA = "lightning-pbrl learned reward", 1
"""Name and version of what ``config.json`` says."""


def write(model: Any, facts: Mapping[str, Any], folder: Path, licence: str | None) -> None:
    """Write a reward model, or a method that is one itself, to a folder.

    Args:
        model: what is saved.
        facts: how it was made, plain JSON types, for the model card.
        folder: made if it is not there.
        licence: SPDX name; None if it is not stated.

    Raises:
        UserError: for weights that are not finite, and for a folder that cannot be written.
    """
    name = type(model).__name__
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    if not all_finite(weights):
        raise UserError(f"The weights of {name} are not finite, so they are not saved: train it again with a smaller lr.")
    content: dict[str, Any] = {"format": FORMAT, "schema": SCHEMA, "spec": dict(model.spec), "seed": model.seed}
    if side := getattr(model, "side", 0):
        content["images"] = side
    if isinstance(model, RewardModel):
        content["reward_model"] = described(model)
        if hasattr(model, "weigh"):
            by_axis: Any = model.weights  # may have been set since it was built
            content["reward_model"]["init_args"]["weights"] = dict(by_axis)
    else:
        content["method"] = {"name": name, "hyper_parameters": plain(model.hparams)}
    content |= {"licence": licence, "facts": dict(facts)}
    with replacing(folder / WEIGHTS) as part:
        save_file(weights, part, {"format": "pt"})
    for file, text in ((CONFIG, json.dumps(content, indent=2) + "\n"), (CARD, card(name, content))):
        with replacing(folder / file) as part:
            part.write_text(text, encoding="utf-8")


def read(folder: Path, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Return what a folder that :func:`write` has filled holds: the trained model, and how it was made.

    The class is found by its name, never imported because the file says so.

    Raises:
        UserError: for files that are damaged, of a later version, or of a class that no imported module defines.
    """
    cure = "save the reward again, or fetch the folder anew"
    with reading(folder / CONFIG, "is damaged", cure):
        content = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{folder / CONFIG} does not describe a learned reward: give a folder that LearnedReward.save has written."
        )
    if not isinstance(content.get("schema"), int) or content["schema"] > SCHEMA:
        raise UserError(
            f"{folder / CONFIG} has schema {content.get('schema')!r:.20} and this version reads {SCHEMA}: upgrade it."
        )
    with reading(folder / WEIGHTS, "is damaged or is not of this reward", cure):
        weights = load_file(folder / WEIGHTS)
        if not all_finite(weights):
            raise ValueError("it holds numbers that are not finite")
    with reading(folder / CONFIG, "does not fit its weights or this version", cure):
        model = _built(content)
        model.load_state_dict(weights)
        facts = dict(content["facts"])
    return model.to(device).eval().requires_grad_(False), facts


def _built(content: dict[str, Any]) -> Any:
    """Return the untrained model that a folder describes."""
    if "reward_model" in content:
        model = chosen(content["reward_model"], content["spec"], content["seed"])
        with torch.random.fork_rng(devices=[]):
            model.build()
        return model
    registry.import_all()
    name = content["method"]["name"]
    if name not in Method.registry:
        raise UserError(f"The learned reward is a {name!r:.100}: {nearest(name, Method.registry)}")
    method = Method.registry[name](**content["method"]["hyper_parameters"])
    method.configure_model()
    return method
