"""Records of feedback made by hand, and run folders that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from run_folders import write_version

from lightning_pbrl.callbacks.feedback_diagnostics import opinion
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.reports.feedback_record import NO_QUESTIONS, PAIR, RATING, Questions, Record, Sample, Steps, write_records

NAN = float("nan")


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def sample(clips: int = 40, seed: int = 0, known: bool = True, members: int = 3, in_bits: bool = False) -> Sample:
    """Clips whose predicted return follows the true one with noise; every fourth is new, a rating of clip i tells i bits."""
    rng = np.random.default_rng(seed)
    true = rng.normal(10.0, 5.0, clips)
    draws = 0.2 * true + rng.normal(0.0, 0.3, (members, clips))
    pairs = draws.reshape(members, -1, 2)
    columns = (true if known else np.full(clips, NAN), draws.mean(0), draws.std(0))
    new = np.arange(clips) % 4 == 0
    return Sample(
        *(column.astype(np.float32) for column in columns),
        new,
        np.arange(clips, dtype=np.float32) if in_bits else np.full(clips, NAN, np.float32),
        *(column.astype(np.float32) for column in opinion(pairs)),
    )


def steps(count: int = 100, seed: int = 0, known: bool = True) -> Steps:
    """Steps whose learned reward is half the true one, with noise."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0.0, 1.0, count)
    learned = 0.5 * true + rng.normal(0.0, 0.2, count)
    return Steps((true if known else np.full(count, NAN)).astype(np.float32), learned.astype(np.float32))


def pairs(true: Sequence[tuple[float, float]], predicted: Sequence[tuple[float, float]], value: Sequence[float]) -> Questions:
    """Answered pairs; the score of question i is i / 10."""
    returns = np.array(predicted, np.float32).reshape(-1, 2)
    return Questions(
        np.full(len(value), PAIR),
        np.array(true, np.float32).reshape(-1, 2),
        returns,
        opinion(returns[None])[0].astype(np.float32),
        np.arange(len(value), dtype=np.float32) / 10,
        np.full(len(value), NAN, np.float32),
        np.array(value, np.float32),
        np.full(len(value), int(Status.ANSWERED)),
        (returns[:, 1] - returns[:, 0]) * np.sign(np.array(value, np.float32) - 0.5),
    )


def ratings(true: Sequence[float], predicted: Sequence[float], value: Sequence[float]) -> Questions:
    """Given ratings, predicted as 1 + 2 x return; NaN stands for a clip that nobody could rate."""
    nothing = np.full(len(value), NAN, np.float32)
    given = np.array(value, np.float32)
    return Questions(
        np.full(len(value), RATING),
        np.stack([np.array(true, np.float32), nothing], 1),
        np.stack([np.array(predicted, np.float32), nothing], 1),
        nothing,
        np.arange(len(value), dtype=np.float32) / 10,
        1 + 2 * np.array(predicted, np.float32),
        given,
        np.where(np.isnan(given), int(Status.SKIPPED), int(Status.ANSWERED)),
        nothing,
    )


def both_kinds(round_number: int, known: bool = True) -> Record:
    """Two pairs and three ratings a round, 100 updates and 50 env steps apart."""
    hidden = 1.0 if known else NAN
    asked = Questions.join(
        [
            pairs([(1 * hidden, 2 * hidden), (4 * hidden, 3 * hidden)], [(0.0, 1.0), (0.0, -1.0)], [1.0, 0.0]),
            ratings([1 * hidden, 2 * hidden, 3 * hidden], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]),
        ]
    )
    k = round_number
    return Record(k, 100 * k, 50 * k, 2 * k, 3 * k, NAN, sample(seed=k, known=known), asked, steps(seed=k, known=known))


def recorded_run(folder: Path, rounds: int = 3, known: bool = True, learned_returns: bool = True) -> Path:
    """A run that asked for both kinds in every round and was recorded at its end."""
    records = [both_kinds(k, known) for k in range(rounds)]
    end = sample(seed=rounds, known=known)
    counts = (rounds, 100 * rounds, 50 * rounds, 2 * rounds, 3 * rounds)
    records.append(Record(*counts, NAN, end, NO_QUESTIONS, steps(seed=rounds, known=known)))
    rows: list[dict[str, float]] = []
    for k in range(1, rounds + 1):
        rows.append({"step": 100 * k, "labels": 5 * k, "env_steps": 50 * k, "train/return_mean": k * k, "train/q_loss": 1.0})
        if learned_returns:
            rows.append({"step": 100 * k, "train/learned_return_mean": 2.0 * k * k + 1})
    write_version(folder, 0, rows)
    write_records(folder, records)
    return folder
