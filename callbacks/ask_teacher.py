"""Questions to a teacher at the start of a round: they are answered and stored, and only then training goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_pbrl import memory
from lightning_pbrl.asking.checks import check_budget
from lightning_pbrl.asking.plan import AskingPlan
from lightning_pbrl.asking.schedule import InitialShare, ScheduleName, schedule_of
from lightning_pbrl.asking.session import AskingSession
from lightning_pbrl.asking.waiting import telling
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.lightning_glue import asked_together
from lightning_pbrl.fitting.resuming import asks_for
from lightning_pbrl.labelling.beside import PageBeside, page_beside
from lightning_pbrl.labelling.films import pictures
from lightning_pbrl.methods.base import Method
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.settings import Checked
from lightning_pbrl.teachers.base import Teacher


class AskTeacher(Checked, pl.Callback):
    """Spends a budget of questions in rounds; every answer is on disk before a learner sees it.

    An :class:`~lightning_pbrl.asking.session.AskingSession` asks, on rank 0 alone; the answers are broadcast. What was asked
    is in the label store and nowhere else, so a round that is replayed after a crash asks nothing twice.

    Pairs are the method's ``labels``, ratings its ``ratings``, other kinds its ``others``; one budget and numbering is for all.
    Answers that come with the data (``labels`` of the data module) are handed to the method before those of the store; where
    there are some, a run with ``budget`` 0 opens no store unless ``store`` names one.

    Args:
        teacher: who answers; needed when ``budget`` is above 0.
        query: which questions to ask; uniform pairs when None.
        budget: questions in total; 0 asks nothing (labels that come with the data or are in the store are still used).
        per_round: questions per round that asks.
        uniform_first: ask the first such round uniformly, because an untrained model cannot choose (OPRL, CLARIFY, PEBBLE); half
            of it pairs and half ratings where ``query`` asks both.
        first_round: the first round that asks, from 0; None: 1 for methods that act, which have nothing to ask about before,
            and 0 for others.
        every: every how many rounds questions are asked; for methods that act between them.
        schedule: how the size of a round follows the run's progress (B-Pref): constant; decreasing, ``per_round`` x (T - s) / T,
            or increasing, ``per_round`` x T / (T - s + 1), with s of the method's T env steps done. Rounded down, at least 1, and
            the last round asks what is left of the budget. Or spread: an even part of what is left, whatever ``per_round`` is.
        initial: questions of the first round as a share of the budget; None for no exception.
        rounds: how many rounds ask, for ``spread``; None counts those that the method's ``env_steps`` and ``round_steps`` leave.
        store: file or database URL of the label store; ``labels.sqlite`` in the run folder when None.
        run: name of this run's rows in the store; "seed" and the seed when None.

    Raises:
        UserError: for a budget smaller than one round, without a teacher, or for rounds that do not exist; at the start of a
            fit that has too few rounds to spend the budget, where the method's settings tell how many it has (``env_steps`` and
            ``round_steps``, or ``updates`` and ``eval_interval``). A run that goes on is not checked again, and
            ``trainer.max_epochs`` is a place to pause.
    """

    def __init__(
        self,
        teacher: Teacher | None = None,
        query: QueryStrategy | None = None,
        budget: int = 0,
        per_round: int = 50,
        uniform_first: bool = True,
        first_round: int | None = None,
        every: int = 1,
        schedule: ScheduleName = "constant",
        initial: float | None = None,
        rounds: int | None = None,
        store: str | None = None,
        run: str | None = None,
    ) -> None:
        check_budget(budget, per_round, schedule, initial, rounds, answered=teacher is not None)
        sizes, share = schedule_of(schedule, budget, per_round), None if initial is None else InitialShare(budget, initial)
        first, self.query = first_round or 0, query or UniformQuery()
        self.plan = AskingPlan(teacher, self.query, budget, sizes, share, uniform_first, first, every, rounds)
        self.first_round, self.per_round, self.store_path, self.run, self.teacher = first_round, per_round, store, run, teacher
        self.session: AskingSession | None = None
        self.page: PageBeside | None = None

    @property
    def store(self) -> LabelStore | None:
        """Label store of the present fit; None without one, and on ranks that do not ask."""
        return None if self.session is None or self.session.state is None else self.session.state.store

    def plan_for(self, method: Method) -> AskingPlan:
        """Return the plan with the first round that suits a method, unless it was given."""
        return replace(self.plan, first_round=int("env" in method.needs)) if self.first_round is None else self.plan

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        self.session = None
        if "labels" not in pl_module.needs:
            if self.plan.budget:
                raise UserError(f"{type(pl_module).__name__} does not learn from answers: set ask.budget to 0.")
            return
        data, source, self.plan = trainer.datamodule, pl_module.source, self.plan_for(pl_module)  # type: ignore[attr-defined]
        self.run = self.run or f"seed{pl_module.seed}"
        session = AskingSession(pl_module, source, data.segment_length, self.plan, data.labels, pl_module.seed, self.run)
        asks_for(pl_module, self.plan.budget, len(session.given), self.per_round if self.plan.even else None)
        silent = len(session.given) > 0 and not self.plan.budget and self.store_path is None  # the data bring all there is
        if trainer.is_global_zero and not silent:
            path = self.store_path or Path(trainer.default_root_dir) / "labels.sqlite"
            session.open(LabelStore(path, source.fingerprint, self.run))
        if self.teacher is not None and trainer.is_global_zero:
            session.recorder, session.frames = pictures(self.teacher, trainer.default_root_dir, data)
            self.page = page_beside(self.teacher.serve, trainer.default_root_dir)
        self.session = session

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """Give a finished run that is resumed, which has no round to get them in, the answers it has learned from."""
        if (session := self.session) is None or not pl_module.finished:
            return
        labels = asked_together(trainer, session, lambda: session.labels(trainer.current_epoch))
        pl_module.labels, pl_module.ratings, pl_module.others = labels.pop("pair"), labels.pop("rating"), labels

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """Ask on rank 0, where all ranks help to score candidates, and give every rank the answers."""
        if (session := self.session) is None:
            return
        memory.give_back(pl_module.device)  # what evaluation and checkpoint have left
        if self.page is not None:
            self.page.open()
        told = telling(trainer.print, "" if self.page else self.store_path or trainer.default_root_dir)
        asked = asked_together(trainer, session, lambda: session.round(trainer.current_epoch, told))
        pl_module.labels, pl_module.ratings, pl_module.asked, pl_module.pending, metrics, pl_module.others = asked
        pl_module.answers_from = "" if self.store is None else self.store.name
        pl_module.log_dict({**metrics, "step": float(trainer.global_step)}, on_epoch=True, on_step=False, batch_size=1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """Mark the answers that this round has learned from, before its checkpoint is written."""
        if self.session is not None and self.session.state is not None:
            self.session.state.fix()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """Record that a run has come to its end, which the page says, and close the page beside it."""
        if self.session is not None and self.session.state is not None and self.plan.budget and pl_module.finished:
            self.session.state.end("ended")
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        """Close the page of a teacher who serves one."""
        if self.page is not None:
            self.page.close()
