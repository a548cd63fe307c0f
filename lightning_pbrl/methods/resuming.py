"""Settings that may differ when a run goes on: its length, which may only grow.

A run may be made longer if it then ends, bit for bit, as if it had been that long from the start. That holds if the length only
counts rounds, not if a schedule (a cosine to 0 ...) is stretched over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.answers import Asked

FREE = {"spec", "compile", "layout"}
"""Settings of a method that may differ: those given by the data, and those of how the same updates are computed."""


def asks_for_more(method: Any, restored: Mapping[str, Any], budget: int, given: int, per_round: int | None) -> bool:
    """Return True if a continued run asks more questions than planned.

    Args:
        method: method of the run.
        restored: content of its checkpoint.
        budget: questions in total.
        given: answers that came with the data.
        per_round: questions per round; None if its rounds follow from the budget.

    Raises:
        UserError: if the run would differ from one with that budget from the start.
    """
    asked = Asked(*restored["asked"])
    before = asked.total - given + asked.remaining
    longer = method.longer if per_round and before else {}
    return grown(longer, {"ask.budget": before}, {"ask.budget": budget, "ask.per_round": per_round}, restored["finished"])


def grown(
    longer: Mapping[str, str], before: Mapping[str, Any], now: Mapping[str, Any], finished: bool, whose: str = "The run"
) -> bool:
    """Return True if ``now`` asks for more of the run that was made with ``before``.

    Args:
        longer: settings that only count rounds, each with the setting that is a round's length.
        before: settings of the run by name; names of one side only are ignored.
        now: settings that the run shall go on with.
        finished: True if the run has ended, perhaps with a shorter last round.
        whose: run, for the sentence.

    Raises:
        UserError: if any other setting differs.
    """
    different = [key for key in before if key in now and before[key] != now[key]]
    for key in different:
        was, wanted, size = before[key], now[key], longer.get(key)
        if size is None:
            raise UserError(
                f"{whose} was made with {key}={was}, and this asks for {wanted}: a run goes on with the settings it has; set "
                f"{key} back, or start a new run in another folder (run_dir)."
            )
        if wanted < was:
            raise UserError(
                f"{whose} was made with {key}={was}, and {wanted} is less: what was learned is not taken back; set {key} to "
                f"{was} or more, or start a new run in another folder (run_dir)."
            )
        if finished and was % now[size]:
            raise UserError(
                f"{whose} has ended with a round that is shorter than {size}={now[size]}, because {key} was {was}: it cannot go "
                f"on as a run of {wanted} would have; start a new run in another folder (run_dir)."
            )
    return bool(different)
