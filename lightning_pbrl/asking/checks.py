"""Do teacher, strategy, method and data fit together? Each check refuses with one sentence."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.asking.plan import AskingPlan, Learner
from lightning_pbrl.asking.schedule import ScheduleName
from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.segment_copies import SegmentCopies
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy


def check_budget(
    budget: int, per_round: int, schedule: ScheduleName, initial: float | None, rounds: int | None, answered: bool
) -> None:
    """Refuse a budget that its rounds cannot spend, or that nobody answers."""
    if budget < 0 or per_round < 1 or (0 < budget < per_round and schedule != "spread"):
        raise UserError(
            f"ask.budget is {budget} and one round asks ask.per_round = {per_round}: raise the budget to at least one "
            "round, or ask fewer per round."
        )
    if budget > 0 and not answered:
        raise UserError(f"ask.budget is {budget} but nobody answers: set ask.teacher, for instance SimulatedTeacher.")
    if rounds is not None and not 1 <= rounds <= max(budget, 1):
        raise UserError(f"ask.rounds is {rounds} and ask.budget {budget}: give at least one round, and a question for each.")
    if schedule == "spread" and rounds == 1 and initial not in (None, 1.0):
        raise UserError(f"ask.rounds is 1 and ask.initial {initial}: the only round asks everything; leave initial null.")


def check_needs(query: QueryStrategy, model: Any) -> None:
    """Refuse a strategy that asks the method for what it does not have."""
    for need in sorted(query.needs):
        if not hasattr(model, need):
            raise UserError(
                f"{type(query).__name__} asks the model for its {need!r}, which {type(model).__name__} does not "
                "have: choose another ask.query, such as UniformQuery."
            )


def check_kinds(plan: AskingPlan, learner: Learner) -> None:
    """Refuse questions that the teacher does not answer or the method does not learn from."""
    for kind in sorted(plan.query.kinds) if plan.budget else ():
        asks = f"{type(plan.query).__name__} asks questions of kind {kind!r}, "
        if kind not in learner.kinds:
            raise UserError(f"{asks}from which {type(learner).__name__} does not learn: choose another ask.query.")
        if plan.teacher is not None and not plan.teacher.answers_kind(kind):
            raise UserError(
                f"{asks}which {type(plan.teacher).__name__} does not answer: choose another ask.query, or RatingTeacher "
                "(single clips) or MixedTeacher (both kinds) as ask.teacher."
            )


def check_scale(plan: AskingPlan, model: Any) -> None:
    """Refuse a teacher whose ratings have more levels than the model knows."""
    theirs, ours = getattr(plan.teacher, "bins", None), getattr(model, "bins", None)
    if plan.budget and "rating" in plan.query.kinds and theirs and ours and theirs != ours:
        raise UserError(
            f"{type(plan.teacher).__name__} rates on {theirs} levels and {type(model).__name__} reads {ours}: set bins of "
            "the teacher and of the reward model alike."
        )


def check_lists(plan: AskingPlan, model: Any, apart: bool) -> None:
    """Refuse ranked lists where answers to a question count each on its own, or do so in the store (``apart``)."""
    apart = apart or getattr(getattr(plan.teacher, "person", plan.teacher), "combine", "majority") == "each"
    derived = getattr(getattr(model, "hparams", None), "pairs", "answers") != "answers"
    if apart and (derived or (plan.budget and plan.query.sequential)):
        raise UserError(
            "Ranked lists need one answer to each question, and here each person's counts on its own (combine: each): set "
            "combine of ask.teacher to majority in a new run."
        )


def check_given(given: Labels, length: int) -> None:
    """Refuse answers that come with the data and are about segments of another length."""
    if given.length != length:
        raise UserError(
            f"The answers that come with the data are about segments of {given.length} steps and data.segment_length "
            f"is {length}: make them equal."
        )


def check_segments(source: Transitions, copies: SegmentCopies | None, budget: int, length: int, context: int, clips: int) -> None:
    """Refuse segments that no episode holds; make room for the copies of those that will be asked about."""
    if copies is None:
        source.pool(length, context=context)
    else:
        copies.reserve(budget, length, context, clips)


def check_schedule(plan: AskingPlan, learner: Learner) -> None:
    """Refuse a schedule that follows what the method does not have."""
    planned, steps = learner.planned_env_steps, learner.planned_round_steps
    if plan.schedule.follows == "rounds left" and plan.rounds is None and (planned is None or steps is None):
        raise UserError(
            f"ask.schedule spread divides the budget among the rounds left, and those of {type(learner).__name__} are "
            "not known: set ask.rounds."
        )
    if plan.schedule.follows == "env steps" and planned is None:
        name = type(plan.schedule).__name__.lower()
        raise UserError(f"ask.schedule {name} follows env steps, and {type(learner).__name__} does not act: leave it constant.")


def check_same_run(plan: AskingPlan, store: LabelStore, run: str, seed: int) -> None:
    """Refuse to mix this run's questions with those another configuration has left under the same name."""
    for number in (plan.first_round, plan.first_round + plan.every):  # the first may have a strategy of its own
        found = store.origin(run, number)
        if not plan.budget or found is None:
            continue
        teacher = {} if plan.teacher is None else plan.teacher.describe()
        ours = {"strategy": plan.strategy(number).describe(), "teacher": teacher, "seed": seed}
        for part in ("strategy", "teacher"):  # what a round noted beside the settings is its own
            found[part] = {key: value for key, value in found[part].items() if key not in ("notes", "in_force")}
        if found == ours:
            continue
        different = ", ".join(key for key in ours if found[key] != ours[key])
        raise UserError(
            f"The label store {store.name} already holds answers of run {run!r} that were asked with another "
            f"{different}: use a new run folder or ask.run, or remove that file."
        )


def check_rounds(plan: AskingPlan, learner: Learner) -> None:
    """Refuse a budget that a run of so few rounds cannot spend."""
    sizes = plan.sizes(learner)
    if sizes is None or sum(sizes) >= plan.budget:
        return
    more = "ask.initial" if plan.schedule.follows == "rounds left" else "ask.per_round"
    longer = "updates" if learner.planned_env_steps is None else "env_steps"
    raise UserError(
        f"The run has {len(sizes)} rounds and would ask {sum(sizes)} of its ask.budget of {plan.budget} questions: raise "
        f"{more} or model.init_args.{longer}, ask in more rounds (ask.every, ask.first_round), or set ask.budget "
        f"to {sum(sizes)}."
    )


def check_anything(plan: AskingPlan, learner: Learner, given: Labels, length: int, store: LabelStore) -> None:
    """Refuse a run that asks nothing where no answer is to be found."""
    if plan.budget or len(given) or any(len(store.labels(kind, length)) for kind in learner.kinds):
        return
    if others := sorted({row["kind"] for row in store.records() if row["length"] == length}):
        raise UserError(
            f"{type(learner).__name__} learns from answers of kind {', '.join(sorted(learner.kinds))}, and those in {store.name} "
            f"are of kind {', '.join(others)}: choose a method that learns from them, such as RewardEnsemble or UnifiedReward."
        )
    raise UserError(
        f"{type(learner).__name__} learns from answers, {store.name} holds none and ask.budget is 0: set ask.budget and "
        "ask.teacher, or ask.store to a label store."
    )
