"""Planning with a critic alone: the cross-entropy method over single actions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import check_finite
from lightning_pbrl.rng import stream

Score = Callable[[Tensor], Tensor]
"""Score of candidates: actions (B, n, A) for B states -> (B, n)."""
RIDGE = 1e-6
"""Added to the variances, so that elites which agree in an entry still define a Gaussian."""


class CEM:
    """Maximise a score over actions by the cross-entropy method: refit a Gaussian with full covariance to the best candidates.

    The first candidates are drawn from N(0, 2 I), the width of [-1, 1] as variance; all are clipped to [-1, 1]. The result is the
    best candidate of the last iteration. Source: the multitask notebook of LAEO's released code (arXiv 2307.13101, Sec. 5).

    Random numbers depend on seed and iteration alone and are the same for all states. The plan of a state therefore depends on
    neither time nor batch (up to the rounding of matrix products, which may differ between batch sizes).

    Differences: every iteration has its own numbers; the notebook draws the same ones.

    Args:
        iterations: number of iterations; the Gaussian is refitted between two of them.
        candidates: candidates per iteration and state.
        elites: candidates that the Gaussian is refitted to.
        chunk: candidates of all states that are scored at once; bounds memory, and changes nothing else.
        seed: seed of the random numbers, a stream of their own.
    """

    def __init__(
        self, iterations: int = 10, candidates: int = 1_000, elites: int = 200, chunk: int = 16_384, seed: int = 0
    ) -> None:
        if min(iterations, candidates, chunk) < 1 or not 2 <= elites <= candidates:
            raise UserError(
                f"CEM got iterations={iterations}, candidates={candidates}, elites={elites} and chunk={chunk}: all count from 1, "
                "and a Gaussian is fitted to 2 up to as many elites as there are candidates."
            )
        self.iterations, self.candidates, self.elites, self.chunk = iterations, candidates, elites, chunk
        self.seed = seed

    @torch.no_grad()
    def best(self, score: Score, states: int, action_dim: int, device: torch.device | str = "cpu", replica: int = 0) -> Tensor:
        """Return the best action of each of B = ``states`` states, (B, A) in [-1, 1]; B may be 0.

        ``score`` maps some of the candidates at a time, (B, n, A) -> (B, n), on ``device``. The random numbers are those of
        ``seed`` + ``replica``.
        """
        if not states:
            return torch.zeros(0, action_dim, device=device)
        rng = stream(self.seed + replica, "planner")
        mean = torch.zeros(states, 1, action_dim, device=device)
        root = (2.0**0.5 * torch.eye(action_dim, device=device)).expand(states, -1, -1)
        eye = RIDGE * torch.eye(action_dim, device=device)
        for iteration in range(self.iterations):
            noise = torch.randn(self.candidates, action_dim, generator=rng).to(device)
            action = (mean + noise @ root.mT).clamp(-1.0, 1.0)  # (B, n, A)
            scores = torch.cat([score(part) for part in action.split(max(self.chunk // states, 1), dim=1)], dim=1)
            check_finite(scores, "What the planner's critic says of actions", "it has diverged, so lower its lr", "state")
            if iteration + 1 < self.iterations:
                which = scores.topk(self.elites, dim=1).indices.unsqueeze(-1).expand(-1, -1, action_dim)
                elites = action.gather(1, which)
                mean = elites.mean(1, keepdim=True)
                spread = elites - mean
                root = torch.linalg.cholesky(spread.mT @ spread / (self.elites - 1) + eye)
        return action[torch.arange(states, device=device), scores.argmax(1)]
