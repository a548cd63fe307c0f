"""Dawid and Skene's estimate of the right answers from those of people who make mistakes, each of their own kind.

Source: A. P. Dawid, A. M. Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied
Statistics 28 (1979) 20, equations 2.3 to 2.5. As there, the EM algorithm starts from the shares of the answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALL = 1e-10
"""Added to each count, so that an answer that nobody has given to a class is very rare and not impossible."""


def dawid_skene(
    answers: NDArray[np.int64], classes: int, iterations: int = 100, tolerance: float = 1e-6
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of each class for each question, (I, J), and the error rates of each person, (K, J, J).

    An error rate ``rates[k, j, l]`` is the probability that person k answers l where j is right.

    Args:
        answers: class of each person's answer, (I, K), -1 where there is none. Each question has one answer at least.
        classes: number of classes, J.
        iterations: steps of the EM algorithm, at most.
        tolerance: change of the probabilities below which it ends.
    """
    given = (answers[:, :, None] == np.arange(classes)).astype(np.float64)  # (I, K, J)
    right = given.sum(1) / given.sum((1, 2))[:, None]
    for _ in range(iterations):
        prior = right.mean(0) + SMALL
        counts = np.einsum("ij,ikl->kjl", right, given) + SMALL  # equation 2.3
        rates = counts / counts.sum(2, keepdims=True)
        logs = np.log(prior / prior.sum()) + np.einsum("ikl,kjl->ij", given, np.log(rates))  # equations 2.4, 2.5
        before, right = right, np.exp(logs - logs.max(1, keepdims=True))
        right /= right.sum(1, keepdims=True)
        if np.abs(right - before).max() < tolerance:
            break
    return right, rates
