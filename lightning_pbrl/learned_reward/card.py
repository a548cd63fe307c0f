"""The model card of a learned reward, from what is known of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

UNKNOWN = "not known: it was saved without a run folder that tells"
TEACHERS = {"SimulatedTeacher": "a simulated teacher that reads the true reward (SimulatedTeacher)"}


def card(name: str, content: Mapping[str, Any]) -> str:
    """Return the text of ``README.md``: a header for model hubs, then what the reward was learned from and how good it is.

    Args:
        name: class of the model.
        content: what ``config.json`` says.
    """
    facts, spec, licence = content["facts"], content["spec"], content["licence"]
    side = content.get("images", 0)
    seen = f"images of {side} x {side} pixels" if side else f"{spec['obs_dim']} observed numbers"
    header = [f"license: {licence}"] if licence else []
    header += ["library_name: lightning-pbrl", "tags:", "- reward-model", "- preference-based-reinforcement-learning"]
    lines = [
        "---",
        *header,
        "---",
        "",
        f"# A learned reward: {name}",
        "",
        f"A reward of {seen} and {spec['action_dim']} numbers of an action in [-1, 1], learned from "
        "feedback with lightning-pbrl. It orders behaviour; its unit and its zero mean nothing.",
        "",
        "```python",
        "from lightning_pbrl import rewards",
        "",
        'reward = rewards.load("this folder")',
        "reward.compute_reward(None, action, frames)" if side else "reward.compute_reward(obs, action)",
        "```",
        "",
        "| | |",
        "|---|---|",
        *_axes(content),
        *(f"| {what} | {told} |" for what, told in _rows(facts)),
        f"| licence | {licence or 'not stated: ask whoever made it before you use it'} |",
        "",
        "It is as good as the answers and the behaviour that it has seen. A policy that finds other behaviour may get high "
        "rewards for what nobody would prefer: watch it, and compare with the true reward where there is one.",
        "",
    ]
    return "\n".join(lines)


def _axes(content: Mapping[str, Any]) -> list[str]:
    """Return the row with the weights of the axes of a reward with several."""
    init_args = content.get("reward_model", {}).get("init_args", {})
    told = [f"{axis} {weight:g}" for axis, weight in init_args["weights"].items()] if "axes" in init_args else []
    return [f"| weights of its axes | {', '.join(told)} |"] if told else []


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is known, as subject and sentence."""
    if data := facts.get("data"):
        yield "data", " ".join([data["class"], *data["names"]])
    yield "asked", _asked(facts)
    yield "answered by", _who(facts)
    yield "answers", _answers(facts)
    yield "accuracy on held-out answers", _accuracy(facts.get("held_out"))
    for kind, told in (facts.get("agreement") or {}).items():
        alpha = "" if told["alpha"] is None else f", Krippendorff's alpha {told['alpha']:.2f}"
        yield f"agreement of people ({kind}s)", f"{told['equal']:.2f} equal about {told['shared']} questions{alpha}"
    if "method" in facts:
        yield "trained by", f"{facts['method']}, {facts['updates']:,} updates"
    if versions := facts.get("versions"):
        yield "versions", ", ".join(f"{package} {version}" for package, version in versions.items())


def _asked(facts: Mapping[str, Any]) -> str:
    if "questions" not in facts:
        return UNKNOWN
    kinds = " and ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in sorted(facts["questions"].items()))
    lengths = " or ".join(map(str, facts["segment_lengths"]))
    return f"{kinds} of segments of {lengths} steps, chosen by {', '.join(facts['strategies']) or 'nobody known'}"


def _who(facts: Mapping[str, Any]) -> str:
    people = facts.get("people", 0)
    counted = [f"{people} {'person' if people == 1 else 'people'}"] if people else []
    return ", ".join([*counted, *(TEACHERS.get(name, name) for name in facts.get("teachers", ()))]) or UNKNOWN


def _answers(facts: Mapping[str, Any]) -> str:
    learned = facts.get("learned_from")
    told = [f"{count} {status}" for status, count in (facts.get("answers") or {}).items()]
    told += [f"learned from {learned}"] if learned else []
    return ", ".join(told) or UNKNOWN


def _accuracy(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "not measured"
    text = f"{measured['accuracy']:.3f}"
    if "pairs" not in measured:
        return f"{text}; the number of pairs, and so an interval, is not known"
    return f"{text} (95 % interval {measured['low']:.3f} to {measured['high']:.3f}, {measured['pairs']} pairs)"
