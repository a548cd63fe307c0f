"""Labels that come with the data: validation, cross-validation folds, and a replay data set beside the labelled segments."""

from __future__ import annotations

import torch

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Kind, Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


def check_labels(labels: Labels, source: Transitions, where: str, first: int = 0, kind: Kind | None = None) -> None:
    """Check that labels refer to segments of these data.

    Args:
        labels: any labels, (N, C) starts.
        source: the data whose rows they refer to.
        where: origin of the labels, for the messages.
        first: number of the first of them there, for the messages.
        kind: their kind; None for pairs or ratings, by the number of segments.

    Raises:
        UserError: naming the first label whose segment leaves the data or an episode, that compares a segment with itself, or
            whose value and status contradict each other.
    """
    count = len(labels)
    if not (count == len(labels.value) == len(labels.status)):
        raise UserError(
            f"{where} has {count} questions, {len(labels.value)} values and {len(labels.status)} statuses: give one of each."
        )
    start = labels.start.cpu()
    last = start + labels.length - 1
    outside = (start < 0) | (last >= len(source)) | (last < start)
    inside = start.clamp(0, len(source) - 1), last.clamp(0, len(source) - 1)
    outside |= source.episodes.of(inside[0]) != source.episodes.of(inside[1])
    if bool(outside.any()):
        number = int(outside.any(1).int().argmax())
        row = int(start[number][outside[number]][0])
        raise UserError(
            f"The segment of {labels.length} steps from row {row} does not lie within one episode of the data ({len(source)} "
            f"rows), as answer {first + number} of {where} says: give the data set that was labelled, or leave the answer out."
        )
    ordered = start.sort(1).values
    twice = ordered[:, 1:] == ordered[:, :-1]
    if bool(twice.any()):
        number = int(twice.any(1).int().argmax())
        row = int(ordered[number, 1:][twice[number]][0])
        raise UserError(f"Answer {first + number} of {where} compares the segment from row {row} with itself: leave it out.")
    told = (labels.status == Status.ANSWERED) | (labels.status == Status.EQUAL)
    good = labels.value.isfinite()
    if kind not in (None, "pair", "rating"):
        each = zip(labels.value.tolist(), labels.status.tolist(), strict=True)
        of = kinds.of(kind)
        good &= torch.tensor([of.takes(v, start.shape[1]) and of.status(v) == s for v, s in each], device=good.device).bool()
    elif start.shape[1] == 2:
        good = torch.where(labels.status == Status.EQUAL, labels.value == 0.5, (labels.value == 0) | (labels.value == 1))
    wrong = (told & ~good).cpu()
    if bool(wrong.any()):
        number = int(wrong.int().argmax())
        status, value = Status(int(labels.status[number])).name.lower(), float(labels.value[number])
        rule = "a pair is 0 or 1 when answered and 0.5 when equal, a rating any number"
        if kind not in (None, "pair", "rating"):
            rule = f"a {kind} is {kinds.of(kind).values}"
        raise UserError(f"Answer {first + number} of {where} is {status} and has value {value:g}: {rule}.")


def hold_out(labels: Labels, fold: int, folds: int, rng: torch.Generator) -> tuple[Labels, Labels]:
    """Split labels for k-fold cross-validation: each label is held out in exactly one of the ``folds`` folds.

    Args:
        labels: all labels, whatever their status.
        fold: index of the held-out part, 0 .. ``folds`` - 1.
        folds: number of parts, of equal size to within one label.
        rng: generator of the parts; the same for every fold.

    Returns:
        The other folds' labels and the held-out ones, each in the order of ``labels``.

    Raises:
        UserError: for a fold that does not exist, or fewer labels than folds.
    """
    if not 2 <= folds <= len(labels) or not 0 <= fold < folds:
        raise UserError(
            f"Fold {fold} of {folds} cannot be held out of {len(labels)} labels: choose folds from 2 to the number of labels, "
            "and fold from 0 to folds - 1."
        )
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[torch.randperm(len(labels), generator=rng)[fold::folds]] = True
    return labels.take(~held), labels.take(held)


def with_replay(segments: Transitions, labels: Labels, replay: Transitions) -> tuple[Transitions, Labels]:
    """Join labelled segments and a replay data set in one table; single transitions are drawn from the replay only.

    Learners then see the segments through their labels alone (IPL, arXiv 2305.15363, section on offline data). The segments come
    first, so their labels stay valid; labels of the replay would have to be shifted.

    Args:
        segments: the table that ``labels`` point into.
        labels: labels of these segments.
        replay: transitions of the same task, with or without true rewards.

    Returns:
        The joint table, whose ``drawable`` rows are the replay's, and the labels. ``about`` holds both origins. True reward
        is NaN, and success unknown, for a part that lacks it.

    Raises:
        UserError: if the two differ in observation or action size.
    """
    if (segments.obs_dim, segments.action_dim) != (replay.obs_dim, replay.action_dim):
        raise UserError(
            f"The labelled segments have observations of size {segments.obs_dim} and actions of size {segments.action_dim}, the "
            f"replay data {replay.obs_dim} and {replay.action_dim}: choose data of one task."
        )
    first = len(segments)
    success, unknown = None, None
    if segments.success is not None and replay.success is not None:
        success = torch.cat([segments.success, replay.success])
        gaps = [part.success_unknown for part in (segments, replay)]
        if any(gap is not None for gap in gaps):
            pairs = zip(gaps, (segments, replay), strict=True)
            unknown = torch.cat([torch.zeros(len(part), dtype=torch.bool) if gap is None else gap for gap, part in pairs])
    table = Transitions(
        torch.cat([segments.packed, replay.packed]),
        torch.cat([segments.episodes.offsets, replay.episodes.offsets[1:] + first]),
        torch.cat([segments.reward, replay.reward]),
        success,
        segments.obs_dim,
        segments.action_dim,
        {"segments": segments.about, "replay": replay.about},
        drawable=first + replay.drawable_rows(torch.arange(replay.drawable_count)),
        success_unknown=unknown,
    )
    return table, labels
