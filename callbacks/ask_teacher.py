"""Questions to a teacher at the start of a round: choose, ask, store, and only then let training go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl import memory
from lightning_pbrl.callbacks import ask_schedule
from lightning_pbrl.data.feedback import Answer, AskKey, Kind, Labels, Query, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.segments import SegmentPool, segment_rows
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Asked, Method
from lightning_pbrl.queries.base import QueryStrategy, take
from lightning_pbrl.queries.mixed import uniformly
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import question_keys, stream
from lightning_pbrl.settings import Checked
from lightning_pbrl.teachers.base import RoundStats, Teacher, rating_rates, realised_rates

RESTORED = 500
"""Questions whose segments are read from the store at a time."""
ANSWERED = 100
"""Questions shown to the teacher, and committed, at a time: what is gathered for them does not grow with the round."""
SAMPLED = 1_000
"""Segments, drawn uniformly from those that may be shown, whose rewards tell a simulated teacher what returns are usual."""


class AskTeacher(Checked, pl.Callback):
    """Spends a budget of questions in rounds; every answer is on disk before a learner sees it.

    It keeps no state of its own: what was asked is in the label store, and every draw belongs to (seed, round) or
    (seed, question). A round that is replayed after a crash therefore proposes the same questions, and those whose key is
    in the store take the *stored* question and answer in place of asking again. Only rank 0 asks; the answers are broadcast.

    A strategy may ask two kinds of question in one round, pairs and ratings (``MixedQuery``). Both are paid from the one budget,
    in which every question counts that was asked, and numbered in one row. Pairs are the method's ``labels``, ratings its
    ``ratings``.

    Answers that come with the data (``labels`` of the data module) are handed to the method before those of the store; where
    there are some, a run with ``budget`` 0 opens no store unless ``store`` names one.

    A replay forgets what it was asked about. What was shown is then kept twice: in the replay's album, at the place of the
    question's number, where learners read it, and in the store, from which the album is filled again when a run is resumed.

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
        schedule: Literal["constant", "decreasing", "increasing", "spread"] = "constant",
        initial: float | None = None,
        rounds: int | None = None,
        store: str | None = None,
        run: str | None = None,
    ) -> None:
        if budget < 0 or per_round < 1 or (0 < budget < per_round and schedule != "spread"):
            raise UserError(
                f"ask.budget is {budget} and one round asks ask.per_round = {per_round}: raise the budget to at least one "
                "round, or ask fewer per round."
            )
        if budget > 0 and teacher is None:
            raise UserError(f"ask.budget is {budget} but nobody answers: set ask.teacher, for instance SimulatedTeacher.")
        if rounds is not None and not 1 <= rounds <= max(budget, 1):
            raise UserError(f"ask.rounds is {rounds} and ask.budget {budget}: give at least one round, and a question for each.")
        if schedule == "spread" and rounds == 1 and initial not in (None, 1.0):
            raise UserError(f"ask.rounds is 1 and ask.initial {initial}: the only round asks everything; leave initial null.")
        self.initial, self.rounds = initial, rounds
        self.teacher, self.query = teacher, query or UniformQuery()
        self.first_round, self.first_round_given, self.every, self.schedule = first_round or 0, first_round, every, schedule
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
        self.first_round = int("env" in pl_module.needs) if self.first_round_given is None else self.first_round_given
        self.query.begin(pl_module.hparams)
        for need in sorted(self.query.needs):
            if not hasattr(pl_module, need):
                raise UserError(
                    f"{type(self.query).__name__} asks the model for its {need!r}, which {type(pl_module).__name__} does not "
                    "have: choose another ask.query, such as UniformQuery."
                )
        self._same_kinds(pl_module)
        self._same_scale(pl_module)
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
        if self.schedule == "spread":
            if self.rounds is None and not {"env_steps", "round_steps"} <= set(pl_module.hparams):
                raise UserError(
                    f"ask.schedule spread divides the budget among the rounds left, and those of {type(pl_module).__name__} are "
                    "not known: set ask.rounds."
                )
        elif self.schedule != "constant" and "env_steps" not in pl_module.hparams:
            raise UserError(
                f"ask.schedule {self.schedule} follows env steps, and {type(pl_module).__name__} does not act: leave it constant."
            )
        even = self.schedule == "constant" and self.initial is None and self.rounds is None
        even &= getattr(self.teacher, "final_gap", None) is None  # it follows how far the budget is spent
        pl_module.asks_for(self.budget, len(self.given), self.per_round if even else None)
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
        if not self.budget and not len(self.given) and not any(len(self.store.labels(k, self.length)) for k in pl_module.kinds):
            raise UserError(
                f"{type(pl_module).__name__} learns from answers, {path} holds none and ask.budget is 0: set ask.budget and "
                "ask.teacher, or ask.store to a label store."
            )

    def _same_kinds(self, method: Method) -> None:
        """Refuse questions that the teacher does not answer or the method does not learn from."""
        for kind in sorted(self.query.kinds) if self.budget else ():
            asks = f"{type(self.query).__name__} asks questions of kind {kind!r}, "
            if kind not in method.kinds:
                raise UserError(f"{asks}from which {type(method).__name__} does not learn: choose another ask.query.")
            if self.teacher is not None and kind not in self.teacher.kinds:
                raise UserError(
                    f"{asks}which {type(self.teacher).__name__} does not answer: choose another ask.query, or RatingTeacher "
                    "(single clips) or MixedTeacher (both kinds) as ask.teacher."
                )

    def _same_scale(self, method: Method) -> None:
        """Refuse a teacher whose ratings have more levels than the method knows."""
        theirs, ours = getattr(self.teacher, "bins", None), getattr(method, "bins", None)
        if self.budget and "rating" in self.query.kinds and theirs and ours and theirs != ours:
            raise UserError(
                f"{type(self.teacher).__name__} rates on {theirs} levels and {type(method).__name__} reads {ours}: set bins of "
                "the teacher and of the reward model alike."
            )

    def _same_question_maker(self, seed: int) -> None:
        """Refuse to mix this run's questions with those another configuration has left under the same name."""
        assert self.store is not None and self.run is not None  # noqa: S101
        for number in (self.first_round, self.first_round + self.every):  # the first may have a strategy of its own
            found = self.store.origin(self.run, number)
            ours = {"strategy": self._strategy(number).describe(), "teacher": self._teacher_settings(), "seed": seed}
            if not self.budget or found is None:
                continue
            for part in ("strategy", "teacher"):  # what a round noted beside the settings is its own
                found[part] = {key: value for key, value in found[part].items() if key not in ("notes", "in_force")}
            if found == ours:
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
        most = 0
        for number, done in enumerate(starts):
            most += self._size(number, method, most, done)
        if most < self.budget:
            more = "ask.initial" if self.schedule == "spread" else "ask.per_round"
            longer = "env_steps" if "env_steps" in method.hparams else "updates"
            raise UserError(
                f"The run has {len(starts)} rounds and would ask {most} of its ask.budget of {self.budget} questions: raise "
                f"{more} or model.init_args.{longer}, ask in more rounds (ask.every, ask.first_round), or set ask.budget "
                f"to {most}."
            )

    def _bring_back(self, method: Method) -> None:
        """Show a source that forgets every segment this run has asked about."""
        assert self.store is not None  # noqa: S101
        source, asked = method.source, self.store.spent(self.run)
        source.reserve(asked, self.length, method.context)
        for kind in ("pair", "rating"):
            for numbers in self.store.numbers(kind, run=self.run).split(RESTORED):
                if len(numbers):
                    source.restore(numbers, self.store.clips(numbers, self.run))

    def _strategy(self, number: int) -> QueryStrategy:
        """What chooses the questions of a round."""
        return uniformly(self.query.kinds) if number == self.first_round and self.uniform_first else self.query

    def _size(self, number: int, method: Method, asked: int, done: int) -> int:
        """How many questions round ``number`` asks, as long as the budget lasts.

        Args:
            number: of the round.
            method: whose settings say how long the run is.
            asked: questions of the rounds before.
            done: env steps when the round begins.
        """
        since = number - self.first_round
        if since < 0 or since % self.every:
            return 0
        if since == 0 and self.initial is not None:
            return ask_schedule.initial(self.budget, self.initial)
        if self.schedule == "constant":
            return self.per_round
        if self.schedule == "spread":
            return ask_schedule.spread(self.budget - asked, self._rounds_left(since // self.every, method, done))
        size = ask_schedule.decreasing if self.schedule == "decreasing" else ask_schedule.increasing
        return size(self.per_round, done, int(method.hparams["env_steps"]))

    def _rounds_left(self, session: int, method: Method, done: int) -> int:
        """Rounds that are still to ask, this one, the (``session`` + 1)-th, included."""
        if self.rounds is not None:
            return self.rounds - session
        steps = int(method.hparams["round_steps"]) * self.every
        return ask_schedule.rounds_left(done, int(method.hparams["env_steps"]), steps)

    def _labels(self, source: Transitions, up_to_round: int) -> dict[Kind, Labels]:
        """All answers that a learner of this round may see, by kind: those given with the data, then those of the store.

        A run that asks nothing uses whatever the store holds; of a source that forgets, its own run's.
        """
        assert self.store is not None  # noqa: S101
        found: dict[Kind, Labels] = {"pair": self.given, "rating": Labels.empty(self.length, clips=1)}
        for kind, given in found.items():
            which: dict[str, Any] = {"length": self.length, "run": self.run if self.budget or source.forgets else None}
            which["up_to_round"] = up_to_round if self.budget else None
            labels = self.store.labels(kind, **which)
            if not source.forgets:
                check_labels(labels, source, f"the label store {self.store.name}")
            start = source.placed(labels.start, self.store.numbers(kind, **which))
            found[kind] = given.then(Labels(start, labels.length, labels.value, labels.status))
        return found

    def _teacher_settings(self) -> dict[str, Any]:
        return {} if self.teacher is None else self.teacher.describe()

    def _record(self, number: int) -> dict[str, dict[str, Any]]:
        """Who asks and who answers in a round, as every record of it tells: the settings, and what else the round went by."""
        assert self.teacher is not None  # noqa: S101
        strategy, in_force = self._strategy(number), self.teacher.in_force()
        notes = strategy.notes()
        return {
            "strategy": {**strategy.describe(), **({"notes": notes} if notes else {})},
            "teacher": {**self._teacher_settings(), **({"in_force": in_force} if in_force else {})},
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """Give a finished run that is resumed the answers it has learned from.

        It has no round to get them in, and a test may follow that tells of them.
        """
        if "labels" not in pl_module.needs or not pl_module.finished:
            return
        message: Any = None
        if trainer.is_global_zero:
            found: dict[Kind, Labels] = {"pair": self.given, "rating": Labels.empty(self.length, clips=1)}
            if self.store is not None:
                found = self._labels(pl_module.source, trainer.current_epoch)
            message = tuple(found["pair"]), tuple(found["rating"])
        labels, ratings = trainer.strategy.broadcast(message)
        pl_module.labels, pl_module.ratings = Labels(*labels), Labels(*ratings)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if "labels" not in pl_module.needs:
            return
        memory.give_back(pl_module.device)  # what evaluation and checkpoint have left
        message: Any = None
        if trainer.is_global_zero:
            message = self._round(trainer.current_epoch, pl_module)
        labels, ratings, asked, pl_module.pending, rates = trainer.strategy.broadcast(message)
        pl_module.answers_from = "" if self.store is None else self.store.name
        pl_module.labels, pl_module.ratings, pl_module.asked = Labels(*labels), Labels(*ratings), Asked(*asked)
        pl_module.log_dict({**rates, "step": float(trainer.global_step)}, on_epoch=True, on_step=False, batch_size=1)

    def _round(self, number: int, method: Method) -> tuple[Any, Any, tuple[int, ...], int, dict[str, float]]:
        """Ask this round's questions: pairs, ratings, counts, pending ones, rates; plain, to be broadcast."""
        given = len(self.given)
        if self.store is None:
            return tuple(self.given), tuple(Labels.empty(self.length, clips=1)), (given, 0, 0), 0, {}
        assert self.run is not None  # noqa: S101
        before = self.store.spent(self.run, before_round=number)
        quota = min(self._size(number, method, before, method.env_steps), self.budget - before)
        asked = self.store.spent(self.run, before_round=number + 1) - before
        if self.store.spent(self.run) > before + asked:  # a later round was asked too: this one is closed as it stands
            quota = min(quota, asked)
        rates = self._ask(number, before, quota, method) if quota > 0 else {}
        labels = self._labels(method.source, number)
        total = self.store.spent(self.run, before_round=number + 1)
        if "rating" in self.query.kinds:
            rates |= {f"labels/{kind}": float(len(found)) for kind, found in labels.items()}
        dry = quota > 0 and total == before
        last = self.rounds is not None and number >= self.first_round + self.every * (self.rounds - 1)
        ratings = sum(kind == "rating" for kind in self.store.kinds(self.run, number).values())
        pending = sum(int((found.status == Status.PENDING).sum()) for found in labels.values()) if self.budget else 0
        counts = (given + total, total - before, max(self.budget - total, 0), ratings, dry or last)
        return tuple(labels["pair"]), tuple(labels["rating"]), counts, pending, rates

    @torch.no_grad()
    def _ask(self, number: int, before: int, quota: int, method: Method) -> dict[str, float]:
        """Propose, answer, store, observe: once, or for a sequential strategy until the quota is spent or nothing is proposed."""
        assert self.teacher is not None and self.store is not None and self.run is not None  # noqa: S101
        strategy = self._strategy(number)
        source, rng = method.source, stream(method.seed, "query", number)
        known = self._labels(source, number - 1)
        pool = source.pool(self.length, self.query.recent, method.context)
        self.teacher.start_round(self._stats(number, before, pool, method))
        strategy.recall(self.store.notes(self.run, number))
        seen: dict[Kind, list[tuple[Tensor, ...]]] = {}
        asked = 0
        while asked < quota:
            proposed = strategy.proposals(pool, quota - asked, method, known, rng)  # type: ignore[arg-type]
            due = self._due(AskKey(self.run, number, before + asked), proposed, quota - asked)
            for query in due:
                parts = []
                for start in query.start.split(ANSWERED):
                    part = Query(query.kind, start, query.length)
                    parts.append(self._answered(AskKey(self.run, number, before + asked), part, method))
                    asked += len(start)
                start, value, status, reward = (torch.cat(part) for part in zip(*parts, strict=True))
                strategy.observe(Query(query.kind, start, query.length), Answer(value, status))
                seen.setdefault(query.kind, []).append((value, status, reward))
                known = {**known, query.kind: known[query.kind].then(Labels(start, query.length, value, status))}
            if not due or not strategy.sequential:
                break
        rates = {**self.teacher.thresholds(self.length), **strategy.metrics()}
        for kind, parts in seen.items():
            value, status, reward = (torch.cat(part) for part in zip(*parts, strict=True))
            rates.update((realised_rates if kind == "pair" else rating_rates)(Answer(value, status), reward))
        return rates

    def _stats(self, number: int, asked: int, pool: SegmentPool, method: Method) -> RoundStats:
        """What a teacher is told at the start of round ``number``."""
        session, total = (number - self.first_round) // self.every, method.hparams.get("env_steps")
        stats = round_stats(session, method.source, pool, stream(method.seed, "teacher", number))
        return stats._replace(progress=method.env_steps / total if total else asked / self.budget)

    def _due(self, first: AskKey, proposed: list[Query], left: int) -> list[Query]:
        """What is to be asked from the question ``first`` on: what is proposed, at most ``left`` (no budget is overspent).

        Questions of a round that was cut short are in the store already. Theirs are the first numbers whatever is proposed now,
        and each counts as one of those proposed; the segments given for them here are replaced by the stored ones.
        """
        assert self.store is not None  # noqa: S101
        count = min(sum(len(query) for query in proposed), left)
        kinds = self.store.kinds(first.run, first.round)
        held = [kinds[number] for number in range(first.number, first.number + count) if number in kinds]
        rest = {query.kind: query.start[held.count(query.kind) :].cpu() for query in proposed}
        parts: list[tuple[Kind, Tensor]] = [(kind, torch.zeros(1, 1 + (kind == "pair"), dtype=torch.int64)) for kind in held]
        parts += list(rest.items())
        due: list[Query] = []
        for kind, start in parts:
            taken = start[: count - sum(len(query) for query in due)]
            if due and due[-1].kind == kind:
                due[-1] = Query(kind, torch.cat([due[-1].start, taken]), self.length)
            elif len(taken):
                due.append(Query(kind, taken, self.length))
        return due

    def _answered(self, first: AskKey, query: Query, method: Method) -> tuple[Tensor, ...]:
        """Answers to ``query``: stored ones where the key is in the store, fresh ones, committed, for the rest.

        Returns:
            Starts of what was asked, (B, C), values and statuses of the answers, (B,), and true rewards, (B, C, T).
        """
        assert self.teacher is not None and self.store is not None  # noqa: S101
        numbers, stored_query, stored = self.store.stored(first.run, first.round, query.kind)
        have = (numbers >= first.number) & (numbers < first.number + len(query))  # batches are committed whole, in order
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
        value = torch.cat([stored.value[have], torch.full((len(new),), torch.nan)])
        status = torch.cat([stored.status[have], torch.full((len(new),), int(Status.PENDING))])
        unanswered = (status == Status.PENDING).nonzero().squeeze(1)
        if len(unanswered):
            keys = question_keys(method.seed, first.number, len(query))[unanswered]
            asked = take(query, unanswered)
            fresh = self.teacher.answer(asked, type(clips)(*(part[unanswered] for part in clips)), keys)
            value[unanswered], status[unanswered] = fresh.value.to(value), fresh.status.to(status)
            begin = int(unanswered[0])  # answers between, which the store has, are put again unchanged
            self.store.put(
                AskKey(first.run, first.round, first.number + begin),
                Query(query.kind, start[begin:], query.length),  # a pending question keeps the name it was stored with
                Answer(value[begin:], status[begin:]),
                **self._record(first.round),
                seed=method.seed,
                answered_by=type(self.teacher).__name__,
                clips=source.content(Query(query.kind, query.start[begin:], query.length)),
            )
        return query.start, value, status, clips.reward


def round_stats(session: int, source: Transitions, pool: SegmentPool, rng: torch.Generator) -> RoundStats:
    """What a teacher is told when it is asked for the (``session`` + 1)-th time, about segments of ``pool``."""
    start = pool.draw(SAMPLED, rng).to(source.device)
    return RoundStats(session, source.mean_reward(), source.reward[segment_rows(start, pool.length)].cpu())
