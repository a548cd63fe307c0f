"""The questions of one run: propose, answer, keep."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.asking import checks
from lightning_pbrl.asking.feedback import Batch, Due, Feedback
from lightning_pbrl.asking.plan import AskingPlan, Learner
from lightning_pbrl.asking.state import RoundState, Seen
from lightning_pbrl.asking.statistics import round_stats
from lightning_pbrl.asking.waiting import Told, wait
from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Answer, Asked, AskKey, Kind, Labels, Query, Status, beside
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy, take
from lightning_pbrl.rng import question_keys, stream
from lightning_pbrl.teachers.base import RoundStats, Teacher, rates

RESTORED = 500
"""Questions whose segments are read from the store at a time."""
ANSWERED, LOOKED_AT = 100, 10
"""Questions shown, and committed, at a time: what is gathered for them does not grow with the round; fewer with frames."""


class AskingSession:
    """One run's questions, asked in rounds; every answer is kept before a learner sees it. It knows no Trainer.

    A simulated teacher answers a whole round at once::

        session.open(LabelStore("labels.sqlite", source.fingerprint))
        feedback = session.round(0)

    Answers from anywhere else, such as a page or a notebook, come in batches::

        session.begin(0)
        while (due := session.due()) is not None:
            session.answer(compare(due.clips), answered_by="Ada")
        feedback = session.end()

    Every draw belongs to (seed, round) or (seed, question). A round that is replayed after a crash proposes the same questions,
    and those that are in the store take the *stored* question and answer.

    Args:
        learner: the method that learns from the answers; a strategy may ask it for predictions.
        source: what the questions are about.
        length: steps per segment.
        plan: who asks, who answers, how many, and when.
        given: answers that come with the data; they come first in what a learner gets.
        seed: of the run.
        run: name of the run in the store.
        frames: function that draws the segments of questions, (B, C, T, H, W, 3), uint8, for a teacher that looks at frames.

    Raises:
        UserError: when teacher, strategy, method and data do not fit together.
    """

    def __init__(
        self,
        learner: Learner,
        source: Transitions,
        length: int,
        plan: AskingPlan,
        given: Labels | None = None,
        seed: int = 0,
        run: str = "run",
        frames: Callable[[Query], Tensor] | None = None,
    ) -> None:
        self.learner, self.source, self.length, self.plan, self.seed, self.run = learner, source, length, plan, seed, run
        self.given = Labels.empty(length) if given is None else given
        self.frames, self.copies = frames, getattr(source, "copies", None)  # of a source that forgets what was asked about
        self.state: RoundState | None = None
        self.number = self._before = self._quota = 0
        self._asking: Generator[Due, tuple[Answer, str | Sequence[str]], dict[str, float]] | None = None
        self._due: Due | None = None
        self._metrics: dict[str, float] = {}
        self._told: Told | None = None
        self.recorder: Callable[[int, Query], None] | None = None
        """Keeps what the clips of new questions are drawn from: the first number, and questions about rows of the source."""
        self.kinds: list[Kind] = list(dict.fromkeys(["pair", "rating", *sorted({*learner.kinds, *plan.query.kinds})]))
        self.model: Any = getattr(learner, "scorer", learner)  # by which strategies score: the reward model that it holds
        plan.query.begin(learner.hparams)
        checks.check_needs(plan.query, self.model)
        checks.check_kinds(plan, learner)
        checks.check_scale(plan, self.model)
        checks.check_given(self.given, length)
        checks.check_segments(source, self.copies, plan.budget, length, learner.context, plan.query.segments)
        checks.check_schedule(plan, learner)

    @property
    def teacher(self) -> Teacher:
        """Teacher who answers; there is one wherever anything is asked."""
        assert self.plan.teacher is not None  # noqa: S101
        return self.plan.teacher

    def open(self, store: LabelStore) -> None:
        """Take over what a store holds of the run; without a store, a session hands over what came with the data.

        Raises:
            UserError: when its answers are of another configuration, or nothing is asked and it holds no answer.
        """
        checks.check_same_run(self.plan, store, self.run, self.seed)
        people = self.plan.teacher is not None and not self.plan.teacher.simulated
        everyone = not self.plan.budget and self.copies is None
        state = RoundState(store, self.run, self.source, self._given(), everyone, marked=people)
        if self.plan.budget and not state.spent():
            checks.check_rounds(self.plan, self.learner)
        if self.copies is not None:
            self.copies.reserve(state.spent(), self.length, self.learner.context, state.questions.clips)
            for kind in self.kinds:
                for numbers in state.questions.number[state.questions.of(kind)].split(RESTORED):
                    if len(numbers):
                        self.copies.restore(numbers, store.clips(numbers, self.run))
        checks.check_lists(self.plan, self.model, state.several)
        checks.check_anything(self.plan, self.learner, self.given, self.length, store)
        self.state = state

    def labels(self, up_to_round: int) -> dict[Kind, Labels]:
        """Return all answers that a learner of round ``up_to_round`` may see, by kind: those given, then those of the store.

        A run that asks nothing uses whatever the store holds; of a source that forgets, its own run's.
        """
        return {kind: seen.labels for kind, seen in self._seen(up_to_round).items()}

    def _seen(self, up_to_round: int) -> dict[Kind, Seen]:
        """Return the same with their numbers."""
        if self.state is None:
            return {kind: Seen.of(given) for kind, given in self._given().items()}
        return {kind: self.state.seen(kind, up_to_round if self.plan.budget else None) for kind in self.state.given}

    def _given(self) -> dict[Kind, Labels]:
        """Return the answers that come with the data, by every kind of the run."""
        empty = {kind: Labels.empty(self.length, clips=kinds.of(kind).clips or 2) for kind in self.kinds}
        return {**empty, "pair": self.given}

    # A round -------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def round(self, number: int, told: Told | None = None) -> Feedback:
        """Have the teacher answer the questions of round ``number``, and return what the learner gets.

        Args:
            number: of the round.
            told: gets the numbers of questions and of answers of the round, as often as they change while people answer.
        """
        self._told = told
        self.begin(number)
        while (due := self.due()) is not None:
            self.answer(self.teacher.answer(due.query, due.clips, due.keys), self.teacher.answered_by())
        if self.state is not None and self._quota > 0 and not self.teacher.simulated and number not in self.state.marks:
            self.state.wait(number, self.teacher.enough, told)
        return self.end()

    def begin(self, number: int) -> None:
        """Begin round ``number``: read the store, and propose the first questions if the round asks."""
        self.number, self._asking, self._due, self._metrics = number, None, None, {}
        if self.state is None:
            return
        self.state.read(number)
        before, total = self.state.spent(number), self.state.spent()
        asked = self.state.spent(number + 1) - before
        quota = min(self.plan.size(number, self.learner, before, self.learner.env_steps), self.plan.budget - before)
        if total > before + asked or self._has_target(number - 1):  # with a later round, this one is closed as it stands
            quota = min(quota, asked)
        self._before, self._quota = before, quota
        if quota > 0:
            self.state.end(None)
            self._asking = self._ask(self.state, number, before, quota)
            self._go_on(None)

    def due(self) -> Due | None:
        """Return the questions that wait for an answer, at most ``ANSWERED`` of one kind; None when the round has asked all."""
        return self._due

    def answer(self, answer: Answer, answered_by: str | Sequence[str] | None = None) -> None:
        """Keep the answers to what is :meth:`due`, on disk when this returns, and go on to the next questions.

        Args:
            answer: one per question; a pending one leaves the question open for later.
            answered_by: who answered, one name or one per question; the teacher when None.

        Raises:
            UserError: when nothing is due, or for another number of answers; for an answer that the store refuses, after which
                the round is to be begun again.
        """
        if self._due is None:
            raise UserError("No question waits for an answer: begin a round that asks, or begin this one again after an error.")
        asked, given = len(self._due.query), len(answer.value)
        if asked != given:
            raise UserError(f"{asked} questions got {given} answers: give one per question, pending where there is none yet.")
        self._go_on((answer, answered_by or type(self.teacher).__name__))

    def end(self) -> Feedback:
        """Return what the learner of this round gets."""
        if self.state is not None:
            self.state.close(self.number)
        seen = self._seen(self.number)
        labels: dict[Kind, Labels] = {kind: each.labels for kind, each in seen.items()}
        if self.state is None:
            return Feedback(labels.pop("pair"), labels.pop("rating"), Asked(len(self.given)), 0, {}, labels)
        metrics = self._metrics
        if self.plan.query.kinds != {"pair"}:
            metrics = metrics | {f"labels/{kind}": float(len(found)) for kind, found in labels.items()}
        this_round = self.state.asked(self.number)
        total = self._before + len(this_round)
        over = (self._quota > 0 and not len(this_round)) or self.plan.is_last(self.number) or self._has_target(self.number)
        pairs, ratings, remaining = *(int(this_round.of(k).sum()) for k in ("pair", "rating")), max(self.plan.budget - total, 0)
        asked = Asked(len(self.given) + total, len(this_round), remaining, ratings, over, len(this_round) - pairs - ratings)
        if self.plan.budget:
            self.state.end("asked" if over or not remaining else None)
        pending = sum(each.pending for each in seen.values()) if self.plan.budget else 0
        return Feedback(labels.pop("pair"), labels.pop("rating"), asked, pending, metrics, labels)

    def _has_target(self, number: int) -> bool:
        """Return True if a learner of round ``number`` has as many usable answers as the teacher is asked for (``target``)."""
        target = getattr(self.plan.teacher, "target", 0)
        return bool(target) and sum(seen.usable for seen in self._seen(number).values()) >= target

    def _go_on(self, answered: tuple[Answer, str | Sequence[str]] | None) -> None:
        """Run on to the next questions that wait for an answer."""
        assert self._asking is not None  # noqa: S101
        self._due = None  # also where an error ends the round
        try:
            self._due = self._asking.send(answered)  # type: ignore[arg-type]  # None starts it
        except StopIteration as ended:
            self._metrics = ended.value

    @torch.no_grad()
    def _ask(
        self, state: RoundState, number: int, before: int, quota: int
    ) -> Generator[Due, tuple[Answer, str | Sequence[str]], dict[str, float]]:
        """Propose, ask, keep, observe: once, or for a sequential strategy until the quota is spent or nothing is proposed.

        Yields:
            Questions that wait for an answer; it is sent their answers and who gave them.

        Returns:
            What to log.
        """
        plan, learner, strategy = self.plan, self.learner, self.plan.strategy(number)
        rng = stream(self.seed, "query", number)
        known = self.labels(number - 1)
        pool = self.source.pool(self.length, plan.query.recent, learner.context)
        self.teacher.start_round(self._stats(number, before, pool))
        strategy.recall(state.notes(number))
        seen: dict[Kind, list[Batch]] = {}
        asked = 0
        while asked < quota:
            proposed = strategy.proposals(pool, quota - asked, self.model, known, rng)
            queries = self._next(state, number, before + asked, proposed, quota - asked)
            for query in queries:
                batches: list[Batch] = []
                for start in query.start.split(LOOKED_AT if self.teacher.wants_frames else ANSWERED):
                    part = Query(query.kind, start, query.length)
                    batches.append((yield from self._answered(state, number, before + asked, part, strategy)))
                    asked += len(start)
                start, value, status, _ = batch = Batch.joined(batches)
                strategy.observe(Query(query.kind, start, query.length), Answer(value, status))
                seen.setdefault(query.kind, []).append(batch)
                if strategy.sequential:
                    known = {**known, query.kind: known[query.kind].then(Labels(start, query.length, value, status))}
            if not queries or not strategy.sequential:
                break
        metrics = {**self.teacher.thresholds(self.length), **strategy.metrics()}
        for kind, batches in seen.items():
            every = Batch.joined(batches)
            metrics.update(rates(kind, Answer(every.value, every.status), every.reward))
        return metrics

    def _stats(self, number: int, asked: int, pool: SegmentPool) -> RoundStats:
        """Return what a teacher is told at the start of round ``number``."""
        planned = self.learner.planned_env_steps
        stats = round_stats(self.plan.before(number), self.source, pool, stream(self.seed, "teacher", number))
        return stats._replace(progress=self.learner.env_steps / planned if planned else asked / self.plan.budget)

    def _next(self, state: RoundState, number: int, first: int, proposed: list[Query], left: int) -> list[Query]:
        """Return what is to be asked from question ``first`` on: what is proposed, at most ``left`` (no budget is overspent).

        Questions of a round that was cut short are in the store already. Theirs are the first numbers whatever is proposed now,
        and each counts as one of those proposed; the segments given for them here are replaced by the stored ones.
        """
        count = min(sum(len(query) for query in proposed), left)
        asked = state.asked(number)
        there = asked.take((asked.number >= first) & (asked.number < first + count))
        rest = {query.kind: query.start[there.kinds.count(query.kind) :].cpu() for query in proposed}
        held = [(kind, start[None, start >= 0]) for kind, start in zip(there.kinds, there.start, strict=True)]
        queries: list[Query] = []
        for kind, start in [*held, *rest.items()]:
            taken = start[: count - sum(len(query) for query in queries)]
            if queries and queries[-1].kind == kind:
                queries[-1] = Query(kind, torch.cat([queries[-1].start, taken]), self.length)
            elif len(taken):
                queries.append(Query(kind, taken, self.length))
        return queries

    def _answered(
        self, state: RoundState, number: int, first: int, query: Query, strategy: QueryStrategy
    ) -> Generator[Due, tuple[Answer, str | Sequence[str]], Batch]:
        """Answer ``query``: by stored answers where its questions are in the store, by fresh ones, committed, for the rest."""
        held = state.asked(number)
        held = held.take(held.of(query.kind) & (held.number >= first) & (held.number < first + len(query)))
        if other := [length for length in held.length.tolist() if length != query.length]:
            raise UserError(
                f"The label store {state.store.name} holds questions of run {self.run!r} about segments of {other[0]} steps, "
                f"this run shows {query.length}: set segment_length back, or use a new run folder or ask.run."
            )
        stored, copies = held.labels(query.kind, query.length), self.copies
        there = len(stored)  # the first of them: batches are committed whole, in order
        new = Query(query.kind, query.start.cpu()[there:], query.length)
        if self.recorder is not None and len(new):
            self.recorder(first + there, new)
        start = beside(stored.start, (new if copies is None else copies.keep(new, first + there)).start)
        shown = Query(query.kind, start if copies is None else copies.placed(start, first), query.length)
        clips = self.source.clips(shown)
        value = torch.cat([stored.value, torch.full((len(new),), torch.nan)])
        status = torch.cat([stored.status, torch.full((len(new),), int(Status.PENDING))])
        unanswered = (status == Status.PENDING).nonzero().squeeze(1)
        if len(unanswered):
            keys = question_keys(self.seed, first, len(query))[unanswered]
            asked, part = take(shown, unanswered), clips.take(unanswered)
            if self.teacher.wants_frames and self.frames is not None:
                part = part._replace(frames=self.frames(asked))
            fresh, answered_by = yield Due(first + unanswered, asked, part, keys)
            value[unanswered], status[unanswered] = fresh.value.to(value), fresh.status.to(status)
            names = [type(self.teacher).__name__] * len(query)
            by = [answered_by] * len(asked) if isinstance(answered_by, str) else answered_by
            for place, name in zip(unanswered.tolist(), by, strict=True):
                names[place] = name
            begin = int(unanswered[0])  # answers between, which the store has, are put again unchanged
            begun = Query(query.kind, shown.start[begin:], query.length)
            in_force, notes = self.teacher.in_force(), strategy.notes()
            state.put(
                AskKey(self.run, number, first + begin),
                Query(query.kind, start[begin:], query.length),  # a pending question keeps the name it was stored with
                Answer(value[begin:], status[begin:]),
                None if copies is None else copies.content(begun),
                {**strategy.describe(), **({"notes": notes} if notes else {})},
                {**self.teacher.describe(), **({"in_force": in_force} if in_force else {})},
                self.seed,
                names[begin:],
            )
            if strategy.sequential and bool((status == Status.PENDING).any()) and not self.teacher.simulated:
                value, status = self._awaited(state, number, first, len(query))
        return Batch(shown.start, value, status, clips.reward)

    def _awaited(self, state: RoundState, number: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Wait until people have answered questions on which the next ones depend; return values and statuses, two of (B,)."""
        numbers = range(first, first + count)
        wait(lambda: state.store.answered(self.run, number, numbers), lambda asked, answered: answered >= asked, self._told)
        found = state.store.questions(self.run, from_round=number)
        found = found.take((found.round == number) & (found.number >= first) & (found.number < first + count))
        return found.value, found.status
