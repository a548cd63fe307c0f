"""Questions to a teacher at the start of a round: choose, ask, store, and only then let training go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl import memory
from lightning_pbrl.data.feedback import Answer, AskKey, Labels, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Asked, Method
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import question_keys, stream
from lightning_pbrl.teachers.base import RoundStats, Teacher, realised_rates

RESTORED = 500
"""Questions whose segments are read from the store at a time."""
ANSWERED = 100
"""Questions shown to the teacher, and committed, at a time: what is gathered for them does not grow with the round."""


class AskTeacher(pl.Callback):
    """Spends a budget of questions in rounds; every answer is on disk before a learner sees it.

    It keeps no state of its own: what was asked is in the label store, and every draw belongs to (seed, round) or
    (seed, question). A round that is replayed after a crash therefore proposes the same questions, and those whose key is
    in the store take the *stored* question and answer in place of asking again. Only rank 0 asks; the answers are broadcast.

    Answers that come with the data (``labels`` of the data module) are handed to the method before those of the store; where
    there are some, a run with ``budget`` 0 opens no store unless ``store`` names one.

    A replay forgets what it was asked about. What was shown is then kept twice: in the replay's album, at the place of the
    question's number, where learners read it, and in the store, from which the album is filled again when a run is resumed.

    Args:
        teacher: who answers; needed when ``budget`` is above 0.
        query: which questions to ask; uniform pairs when None.
        budget: questions in total; 0 asks nothing (labels that come with the data or are in the store are still used).
        per_round: questions per round that asks.
        uniform_first: ask the first such round uniformly, because an untrained model cannot choose (OPRL, CLARIFY, PEBBLE).
        first_round: the first round that asks, from 0; for methods that act before there is anything to ask about.
        every: every how many rounds questions are asked; for methods that act between them.
        schedule: how the size of a round follows the run's progress (B-Pref): constant; decreasing, ``per_round`` x (T - s) / T,
            or increasing, ``per_round`` x T / (T - s + 1), with s of the method's T env steps done. Rounded down, at least 1, and
            the last round asks what is left of the budget.
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
        first_round: int = 0,
        every: int = 1,
        schedule: Literal["constant", "decreasing", "increasing"] = "constant",
        store: str | None = None,
        run: str | None = None,
    ) -> None:
        if budget < 0 or per_round < 1 or 0 < budget < per_round:
            raise UserError(
                f"ask.budget is {budget} and one round asks ask.per_round = {per_round}: raise the budget to at least one "
                "round, or ask fewer per round."
            )
        if budget > 0 and teacher is None:
            raise UserError(f"ask.budget is {budget} but nobody answers: set ask.teacher, for instance SimulatedTeacher.")
        if first_round < 0 or every < 1:
            raise UserError(f"ask.first_round counts from 0 and ask.every from 1, got {first_round} and {every}.")
        self.teacher, self.query = teacher, query or UniformQuery()
        self.first_round, self.every, self.schedule = first_round, every, schedule
        self.budget, self.per_round, self.uniform_first = budget, per_round, uniform_first
        self.store_path, self.run = store, run
        self.store: LabelStore | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.length, self.store = data.segment_length, None
        self.given = Labels.empty(self.length) if data.labels is None else data.labels
        self.run = self.run or f"seed{pl_module.seed}"
        if "labels" not in pl_module.needs:
            if self.budget:
                raise UserError(f"{type(pl_module).__name__} does not learn from answers: set ask.budget to 0.")
            return
        self.query.begin(pl_module.hparams)
        for need in sorted(self.query.needs):
            if not hasattr(pl_module, need):
                raise UserError(
                    f"{type(self.query).__name__} asks the model for its {need!r}, which {type(pl_module).__name__} does not "
                    "have: choose another ask.query, such as UniformQuery."
                )
        if self.given.length != self.length:
            raise UserError(
                f"The answers that come with the data are about segments of {self.given.length} steps and data.segment_length "
                f"is {self.length}: make them equal."
            )
        source = pl_module.source
        if source.forgets:
            source.reserve(self.budget, self.length, pl_module.context)
        else:
            source.pool(self.length, context=pl_module.context)  # fails early when no episode is long enough
        if self.schedule != "constant" and "env_steps" not in pl_module.hparams:
            raise UserError(
                f"ask.schedule {self.schedule} follows env steps, and {type(pl_module).__name__} does not act: leave it constant."
            )
        silent = len(self.given) > 0 and not self.budget and self.store_path is None  # the data bring all there is
        if silent or not trainer.is_global_zero:
            return
        path = self.store_path or str(Path(trainer.default_root_dir) / "labels.sqlite")
        self.store = LabelStore(path, source.fingerprint, self.run)
        self._same_question_maker(pl_module.seed)
        if self.budget and not self.store.spent(self.run):
            self._rounds_enough(pl_module)
        if source.forgets:
            self._bring_back(pl_module)
        if not self.budget and not len(self.given) and not len(self.store.labels("pair", self.length)):
            raise UserError(
                f"{type(pl_module).__name__} learns from answers, {path} holds none and ask.budget is 0: set ask.budget and "
                "ask.teacher, or ask.store to a label store."
            )

    def _same_question_maker(self, seed: int) -> None:
        """Refuse to mix this run's questions with those another configuration has left under the same name."""
        assert self.store is not None and self.run is not None  # noqa: S101
        for number in (self.first_round, self.first_round + self.every):  # the first may have a strategy of its own
            found = self.store.origin(self.run, number)
            ours = {"strategy": self._strategy(number).describe(), "teacher": self._teacher_settings(), "seed": seed}
            if not self.budget or found is None or found == ours:
                continue
            different = ", ".join(key for key in ours if found[key] != ours[key])
            raise UserError(
                f"The label store {self.store.name} already holds answers of run {self.run!r} that were asked with another "
                f"{different}: use a new run folder or ask.run, or remove that file."
            )

    def _rounds_enough(self, method: Method) -> None:
        """Refuse a budget that a run of so few rounds cannot spend."""
        starts = method.round_starts()
        if starts is None:
            return
        most = sum(self._size(number, method, steps) for number, steps in enumerate(starts))
        if most < self.budget:
            longer = "env_steps" if "env_steps" in method.hparams else "updates"
            raise UserError(
                f"The run has {len(starts)} rounds and would ask {most} of its ask.budget of {self.budget} questions: raise "
                f"ask.per_round or model.init_args.{longer}, ask in more rounds (ask.every, ask.first_round), or set ask.budget "
                f"to {most}."
            )

    def _bring_back(self, method: Method) -> None:
        """Show a source that forgets every segment this run has asked about."""
        assert self.store is not None  # noqa: S101
        source, asked = method.source, self.store.spent(self.run)
        source.reserve(asked, self.length, method.context)
        for at in range(0, asked, RESTORED):
            source.restore(at, self.store.clips(range(at, min(at + RESTORED, asked)), self.run))

    def _strategy(self, number: int) -> QueryStrategy:
        """What chooses the questions of a round."""
        return UniformQuery() if number == self.first_round and self.uniform_first else self.query

    def _size(self, number: int, method: Method, done: int) -> int:
        """How many questions round ``number``, which begins after ``done`` env steps, asks as long as the budget lasts."""
        since = number - self.first_round
        if since < 0 or since % self.every:
            return 0
        if self.schedule == "constant":
            return self.per_round
        total = int(method.hparams["env_steps"])
        left = total - done
        if self.schedule == "increasing":
            return max(1, self.per_round * total // (max(left, 0) + 1))
        return max(1, self.per_round * left // total if left > 0 else self.per_round // 100)

    def _labels(self, source: Transitions, up_to_round: int) -> Labels:
        """All answers that a learner of this round may see: those given with the data, then those of the store.

        A run that asks nothing uses whatever the store holds; of a source that forgets, its own run's.
        """
        assert self.store is not None  # noqa: S101
        run = self.run if self.budget or source.forgets else None
        labels = self.store.labels("pair", self.length, run=run, up_to_round=up_to_round if self.budget else None)
        return self.given.then(Labels(source.placed(labels.start, 0), labels.length, labels.value, labels.status))

    def _teacher_settings(self) -> dict[str, Any]:
        return {} if self.teacher is None else self.teacher.describe()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if "labels" not in pl_module.needs:
            return
        memory.give_back(pl_module.device)  # what evaluation and checkpoint have left
        message: Any = None
        if trainer.is_global_zero:
            message = self._round(trainer.current_epoch, pl_module)
        labels, asked, rates = trainer.strategy.broadcast(message)
        pl_module.labels, pl_module.asked = Labels(*labels), Asked(*asked)
        pl_module.log_dict({**rates, "step": float(trainer.global_step)}, on_epoch=True, on_step=False, batch_size=1)

    def _round(self, number: int, method: Method) -> tuple[tuple[Any, ...], tuple[int, ...], dict[str, float]]:
        """Ask this round's questions; plain tuples, so that they can be broadcast."""
        given = len(self.given)
        if self.store is None:
            return tuple(self.given), (given, 0, 0), {}
        assert self.run is not None  # noqa: S101
        before = self.store.spent(self.run, before_round=number)
        quota = min(self._size(number, method, method.env_steps), self.budget - before)
        asked = self.store.spent(self.run, before_round=number + 1) - before
        if self.store.spent(self.run) > before + asked:  # a later round was asked too: this one is closed as it stands
            quota = min(quota, asked)
        rates = self._ask(number, before, quota, method) if quota > 0 else {}
        labels = self._labels(method.source, number)
        total = self.store.spent(self.run, before_round=number + 1)
        return tuple(labels), (given + total, total - before, max(self.budget - total, 0)), rates

    @torch.no_grad()
    def _ask(self, number: int, before: int, quota: int, method: Method) -> dict[str, float]:
        """Propose, answer, store, observe: once, or for a sequential strategy until the quota is spent or nothing is proposed."""
        assert self.teacher is not None and self.store is not None and self.run is not None  # noqa: S101
        strategy = self._strategy(number)
        source, rng = method.source, stream(method.seed, "query", number)
        known = self._labels(source, number - 1)
        pool = source.pool(self.length, self.query.recent, method.context)
        self.teacher.start_round(round_stats((number - self.first_round) // self.every, source))
        answers, rewards, asked = [], [], 0
        while asked < quota:
            query = strategy.propose(pool, quota - asked, method, known, rng)  # type: ignore[arg-type]
            if len(query) == 0:
                break
            parts = []
            for start in query.start[: quota - asked].split(ANSWERED):  # the budget is never overspent
                first = AskKey(self.run, number, before + asked)
                parts.append(self._answered(first, Query(query.kind, start, query.length), method))
                asked += len(start)
            start, value, status, reward = (torch.cat(part) for part in zip(*parts, strict=True))
            answer = Answer(value, status)
            strategy.observe(Query(query.kind, start, query.length), answer)
            answers.append(answer)
            rewards.append(reward)
            known = known.then(Labels(start, query.length, *answer))
            if not strategy.sequential:
                break
        rates = {**self.teacher.thresholds(self.length), **strategy.metrics()}
        if answers:
            answer = Answer(*(torch.cat(part) for part in zip(*answers, strict=True)))
            rates.update(realised_rates(answer, torch.cat(rewards)))
        return rates

    def _answered(self, first: AskKey, query: Query, method: Method) -> tuple[Tensor, ...]:
        """Answers to ``query``: stored ones where the key is in the store, fresh ones, committed, for the rest.

        Returns:
            Starts of what was asked, (B, C), values and statuses of the answers, (B,), and true rewards, (B, C, T).
        """
        assert self.teacher is not None and self.store is not None  # noqa: S101
        numbers, stored_query, stored = self.store.stored(first.run, first.round, "pair")
        have = (numbers >= first.number) & (numbers < first.number + len(query))  # batches are committed whole, in order
        count = int((stored.status[have] != Status.PENDING).cumprod(0).sum())  # up to the first that is still open
        if have.any() and stored_query.length != query.length:
            raise UserError(
                f"The label store {self.store.name} holds questions of run {first.run!r} about segments of "
                f"{stored_query.length} steps, this run shows {query.length}: set segment_length back, or use a new run folder "
                "or ask.run."
            )
        source, there = method.source, int(have.sum())
        new = Query(query.kind, query.start.cpu()[there:], query.length)
        start = torch.cat([stored_query.start[have], source.keep(new, first.number + there).start])
        query = Query(query.kind, source.placed(start, first.number), query.length)
        clips = source.clips(query)
        answer = Answer(stored.value[have][:count], stored.status[have][:count])
        if count < len(query):
            rest = Query(query.kind, query.start[count:], query.length)
            keys = question_keys(method.seed, first.number + count, len(rest))
            fresh = self.teacher.answer(rest, type(clips)(*(part[count:] for part in clips)), keys)
            self.store.put(
                AskKey(first.run, first.round, first.number + count),
                Query(query.kind, start[count:], query.length),  # a pending question keeps the name it was stored with
                fresh,
                strategy=self._strategy(first.round).describe(),
                teacher=self._teacher_settings(),
                seed=method.seed,
                answered_by=type(self.teacher).__name__,
                clips=source.content(rest),
            )
            answer = Answer(torch.cat([answer.value, fresh.value]), torch.cat([answer.status, fresh.status]))
        return query.start, *answer, clips.reward


def round_stats(session: int, source: Transitions) -> RoundStats:
    """What a teacher is told when it is asked for the (``session`` + 1)-th time."""
    return RoundStats(session, source.mean_reward())
