"""Interventions: stretches of an episode in which somebody takes over from the policy, and the preferences they express.

``about["interventions"]`` of a data set holds, for every episode, a list of ``[first step, step after the last, who]``, counted
from the episode's first step; ``who`` is "person" or "script". All other steps are the policy's. Whoever takes over prefers what
follows to what was interrupted, which gives a pair without a question (OHP-RL, arXiv 2605.15971, reads interventions so).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_choice
from lightning_pbrl.errors import UserError

WHO = ("policy", "person", "script")
"""Names of those who may act; :func:`who_acted` gives places in this list."""


Part = Literal["first", "last"]
"""Part of an intervention that is compared with what it interrupted."""


class Interventions(NamedTuple):
    """All interventions in a data set.

    Attributes:
        first: row at which each begins, (n,), int64, ascending.
        end: row behind the last of each, (n,), int64.
        who: place in :data:`WHO` of who took over, (n,), int64.
    """

    first: Tensor
    end: Tensor
    who: Tensor


def interventions(source: Transitions) -> Interventions:
    """Return the interventions that a data set records.

    Raises:
        UserError: if it records none, or some that its episodes cannot have.
    """
    spans: Any = source.about.get("interventions")
    if spans is None:
        raise UserError("These data do not say who acted: collect them with take_over, or give data with interventions.")
    if not isinstance(spans, list) or len(spans) != len(source.episodes):
        raise UserError(
            f"about['interventions'] has no list for each of the {len(source.episodes)} episodes: make the file again."
        )
    found: list[tuple[int, int, int]] = []
    for episode, (start, length) in enumerate(zip(source.episodes.first.tolist(), source.episodes.lengths.tolist(), strict=True)):
        before = 0
        for span in spans[episode]:
            good = isinstance(span, list) and len(span) == 3 and span[2] in WHO[1:] and all(type(at) is int for at in span[:2])
            if not good or not before <= span[0] < span[1] <= length:
                raise UserError(
                    f"Episode {episode} of {length} steps has the intervention {span!r:.100}: write [first step, step after the "
                    "last, person or script], in order."
                )
            before = span[1]
            found.append((start + span[0], start + span[1], WHO.index(span[2])))
    return Interventions(*torch.tensor(found, dtype=torch.int64).view(-1, 3).unbind(1))


def who_acted(source: Transitions) -> Tensor:
    """Return who acted at every row, as a place in :data:`WHO`, (N,), int64."""
    first, end, who = interventions(source)
    acted = torch.zeros(len(source), dtype=torch.int64)
    for begin, behind, place in zip(first.tolist(), end.tolist(), who.tolist(), strict=True):
        acted[begin:behind] = place
    return acted


def recorded(acted: Tensor, offsets: Tensor) -> list[list[list[Any]]]:
    """Return the entry of ``about`` for data that say of every step who acted; the inverse of :func:`who_acted`.

    Args:
        acted: places in :data:`WHO`, (N,); booleans mean a person.
        offsets: episode offsets, (M + 1,).
    """
    spans: list[list[list[Any]]] = []
    for steps in acted.long().cpu().split(offsets.diff().tolist()):
        values, counts = torch.unique_consecutive(steps, return_counts=True)
        ends = counts.cumsum(0)
        every = zip((ends - counts).tolist(), ends.tolist(), values.tolist(), strict=True)
        spans.append([[first, end, WHO[who]] for first, end, who in every if who])
    return spans


def preferences(source: Transitions, length: int, who: Sequence[str] = WHO[1:], part: Part = "last") -> Labels:
    """Return a pair for every intervention: the ``length`` steps before it, and ``length`` steps of it, which are preferred.

    An intervention gives no pair if it is shorter than that, or if the policy has not acted ``length`` steps before it.

    Args:
        source: data with interventions.
        length: steps per segment.
        who: interventions of these alone.
        part: the last steps of an intervention, to which it has led, or its first ones. Whoever takes over often has to go back
            first, and a reward of single steps then ranks the first steps lower.

    Raises:
        UserError: as :func:`interventions`, and if there is not a single pair.
    """
    check_choice("part", part, Part)
    if unknown := [name for name in who if name not in WHO[1:]]:
        raise UserError(f"Nobody is called {unknown[0]!r} in interventions: give person or script.")
    if length < 1:
        raise UserError(f"Segments of {length} steps say nothing: give at least 1 step.")
    found = interventions(source)
    counted = torch.tensor([name in who for name in WHO])[found.who]
    begin = source.first_of(found.first) if len(found.first) else found.first
    behind = torch.cat([begin.new_full((1,), -1), found.end])[:-1]  # the one before, which may be of another episode
    long = (found.end - found.first >= length) & (found.first - torch.maximum(begin, behind) >= length)
    first, end = found.first[counted & long], found.end[counted & long]
    if not counted.any():
        raise UserError(
            f"The data record no intervention of a {' or '.join(who)}: give data in which one has taken over, or ask a teacher."
        )
    if not len(first):
        raise UserError(
            f"None of the {int(counted.sum())} interventions lasts {length} steps after as many of the policy: choose a smaller "
            "data.init_args.segment_length."
        )
    status = torch.full((len(first),), int(Status.ANSWERED))
    return Labels(
        torch.stack([first - length, first if part == "first" else end - length], 1), length, torch.ones(len(first)), status
    )
