"""Planning with a critic alone: the cross-entropy method over single actions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import derive

Score = Callable[[Tensor], Tensor]
"""How good candidates are: actions (B, n, A) for B states -> (B, n)."""
RIDGE = 1e-6
"""Added to the variances, so that elites which agree in an entry still have a law to draw from."""


class CEM:
    """The action of the highest score, by repeated refitting of a Gaussian with full covariance to the best candidates.

    The first candidates are drawn from N(0, 2 I), the width of [-1, 1] as variance; all are clipped to [-1, 1]. The answer is the
    best candidate of the last iteration. Source: the multitask notebook of LAEO's released code (arXiv 2307.13101, Sec. 5).

    Differences: every iteration draws anew, where the notebook draws the same numbers each time.

    Args:
        iterations: refits, and one more drawing.
        candidates: per iteration and state.
        elites: candidates that the Gaussian is refitted to.
        chunk: candidates of all states that are scored at once: bounds memory, and changes nothing else.
        seed: of the generator of its own.
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
        self.restart()

    def restart(self, *names: int) -> None:
        """Begin the random numbers anew, as ``names`` say: what follows then depends on them and the seed alone."""
        self.rng = torch.Generator().manual_seed(derive(self.seed, "planner", *names))

    @torch.no_grad()
    def best(self, score: Score, states: int, action_dim: int, device: torch.device | str = "cpu") -> Tensor:
        """The best action of each state, (B, A) in [-1, 1].

        Args:
            score: actions (B, n, A) -> (B, n); asked for some of the candidates at a time.
            states: B.
            action_dim: A.
            device: where actions are scored.
        """
        mean = torch.zeros(states, 1, action_dim, device=device)
        root = (2.0**0.5 * torch.eye(action_dim, device=device)).expand(states, -1, -1)
        eye = RIDGE * torch.eye(action_dim, device=device)
        for iteration in range(self.iterations):
            noise = torch.randn(states, self.candidates, action_dim, generator=self.rng).to(device)
            action = (mean + noise @ root.mT).clamp(-1.0, 1.0)
            scores = torch.cat([score(part) for part in action.split(max(self.chunk // states, 1), dim=1)], dim=1)
            if iteration + 1 < self.iterations:
                which = scores.topk(self.elites, dim=1).indices.unsqueeze(-1).expand(-1, -1, action_dim)
                elites = action.gather(1, which)
                mean = elites.mean(1, keepdim=True)
                spread = elites - mean
                root = torch.linalg.cholesky(spread.mT @ spread / (self.elites - 1) + eye)
        return action[torch.arange(states, device=device), scores.argmax(1)]
