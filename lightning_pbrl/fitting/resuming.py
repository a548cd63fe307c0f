"""Settings that may differ when a run goes on: its length, which may only grow.

A run may be made longer if it then ends, bit for bit, as if it had been that long from the start. That holds if the length only
counts rounds, not if a schedule (a cosine to 0 ...) is stretched over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting import checkpoints
from lightning_pbrl.fitting.answers import Asked
from lightning_pbrl.fitting.diverged import check_saved
from lightning_pbrl.fitting.lightning_glue import plain
from lightning_pbrl.fitting.weights import check_fitting_weights

FREE = {"spec", "compile", "layout"}
"""Settings of a method that may differ: those given by the data, and those of how the same updates are computed."""


def read(method: Any, checkpoint: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Check a checkpoint that a method is to load, and convert it to the present layout.

    Returns:
        True if a fit asks for more of the run than it was planned for, and what the method saved, in the present layout.

    Raises:
        UserError: if another method wrote it, weights do not fit or are lost, or settings differ that a run cannot change.
    """
    checkpoints.upgrade(method, checkpoint)
    if method.reward_model is not None:
        method.reward_model.attach(None)  # its engine holds what was trained before
    saved = checkpoint.get("lightning_pbrl")
    if saved is None or saved["method"] != type(method).__name__:
        found = "another program" if saved is None else saved["method"]
        raise UserError(f"The checkpoint was written by {found}, not by {type(method).__name__}; name the method that made it.")
    check_fitting_weights(method, checkpoint)
    more = False
    if method._trainer is not None and method._trainer.state.fn == "fit":
        if "torch_rng" not in saved:
            raise UserError(
                "The checkpoint was written by save() and holds no optimiser: a run goes on from checkpoints/last.ckpt of "
                "its folder."
            )
        before, now = (
            {key: value for key, value in plain(each).items() if key not in FREE}
            for each in (checkpoint["hyper_parameters"], method.hparams)
        )
        more = grown(method.longer, before, now, saved["finished"])
    check_saved(checkpoint, "The checkpoint")
    return more, saved


def asks_for(method: Any, budget: int, given: int, per_round: int | None) -> None:
    """Let a continued run ask more questions than planned; called at the start of a fit.

    Args:
        method: method of the run.
        budget: questions in total.
        given: answers that came with the data.
        per_round: questions per round; None if its rounds follow from the budget.

    Raises:
        UserError: if the run would differ from one with that budget from the start.
    """
    if (restored := method._restored) is None:
        return
    asked = Asked(*restored["asked"])
    before = asked.total - given + asked.remaining
    longer = method.longer if per_round and before else {}
    wanted = {"ask.budget": budget, "ask.per_round": per_round}
    method.grown |= grown(longer, {"ask.budget": before}, wanted, restored["finished"])


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
