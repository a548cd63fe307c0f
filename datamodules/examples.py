"""Data for learning from examples of success: any logged data, split by episodes, and a set of success states."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.example_choosers import ExampleChooser, SuccessExamples
from lightning_pbrl.data.examples import Examples, load_examples, save_examples
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import POSITIVE
from lightning_pbrl.rng import stream


class ExamplesDataModule(FeedbackDataModule, ranges={"episodes": POSITIVE}):
    """Transitions without rewards, and a few hundred examples of success.

    The episodes are split once by a seeded permutation. Held-out episodes are in ``held_out_source`` and no example comes from
    them. ``source`` holds the others, or the first ``episodes`` of them. The examples are chosen from all episodes that are not
    held out, so they are the same for every number of episodes. They are stored in a file beside the data.

    Args:
        data: the data module that provides the episodes; its own evaluation settings are not used.
        examples: chooser of the examples; None takes 200 states that the environment reported as a success.
        validation_share: share of the episodes that is held out, from 0 to below 1.
        episodes: number of the other episodes to keep, in the order of the permutation (an integer), or the share of them (a
            number below 1); None keeps all.
        success_share: share of solved episodes among those kept, from 0 to 1; in total ``episodes``, or as many as possible.
            None does not control the share.
        split_seed: seed of the permutation.
        cache_dir: folder of the stored examples; None for that of the data.
        **offline: the arguments of :class:`FeedbackDataModule` except ``simulator``, which is the data's.

    Raises:
        UserError: for an impossible share, data that a learner makes itself, an episode without any step that has a known
            successor, and as the chooser.
    """

    examples: Examples
    held_out_source: Transitions | None = None
    """Validation episodes; None if none are held out."""

    def __init__(
        self,
        data: FeedbackDataModule,
        examples: ExampleChooser | None = None,
        validation_share: float = 0.1,
        episodes: int | float | None = None,
        success_share: float | None = None,
        split_seed: int = 0,
        cache_dir: str | None = None,
        **offline: Any,
    ) -> None:
        super().__init__(data.simulator, **offline)
        self.data, self.chooser = data, examples or SuccessExamples()
        self.validation_share, self.episodes, self.success_share = validation_share, episodes, success_share
        self.split_seed = split_seed
        self.cache_dir = cache_dir or getattr(data, "cache_dir", None) or "data"

    # Attributes that `lightning-pbrl collect` needs for data that it makes; an AttributeError means that these data exist.

    @property
    def progress(self) -> Callable[[int, int], None] | None:
        """Progress callback of the data."""
        inner: Any = self.data
        return inner.progress

    @progress.setter
    def progress(self, report: Callable[[int, int], None] | None) -> None:
        inner: Any = self.data
        inner.progress = report

    @property
    def path(self) -> Path:
        """File of the data."""
        inner: Any = self.data
        return Path(inner.path)

    def prepare_data(self) -> None:
        self.data.prepare_data()
        self.chooser.prepare()

    def load(self) -> Transitions:
        self.data.setup("fit")
        whole = self.data.source
        if whole.forgets:
            raise UserError(f"{type(self.data).__name__} has no logged data: give ExamplesDataModule a module that has.")
        check_futures(whole)
        order = torch.randperm(len(whole.episodes), generator=stream(self.split_seed, "episodes"))
        held_out = round(len(order) * self.validation_share)
        if held_out == len(order):
            raise UserError(f"All {len(order)} episodes would be held out: lower data.validation_share or give more episodes.")
        may_see = part(whole, order[held_out:])
        self.held_out_source = part(whole, order[:held_out]) if held_out else None
        self.examples = self._chosen(may_see)
        kept = self._kept(whole, order[held_out:])
        return may_see if len(kept) == len(order) - held_out else part(whole, kept)

    def _chosen(self, source: Transitions) -> Examples:
        """Return the examples, from their file if they were chosen before."""
        wanted = [self.chooser.describe(), self.chooser.key(source)]
        digest = hashlib.blake2b(json.dumps(wanted, sort_keys=True).encode(), digest_size=8).hexdigest()
        name = "data" if self.simulator is None else re.sub(r"[^\w.-]", "-", self.simulator.name)
        path = Path(self.cache_dir) / f"{name}-examples-{digest}.safetensors"
        if path.exists():
            return load_examples(path)
        examples = self.chooser.choose(source)
        save_examples(examples, path)
        return examples

    def _kept(self, whole: Transitions, order: Tensor) -> Tensor:
        """Return the numbers of the episodes that learners see, among those in ``order``."""
        wanted = self.episodes
        count = None if wanted is None else round(wanted * len(order)) if wanted < 1 else int(wanted)
        if count == 0:
            raise UserError(
                f"data.episodes {wanted} leaves none of the {len(order)} episodes that are not held out: give a larger share, or "
                "their number."
            )
        if self.success_share is None:
            return order if count is None else order[: _enough(count, len(order), "not held out")]
        if whole.success is None:
            raise UserError("These data do not record which episodes succeed: leave data.success_share at null.")
        solved, failed = whole.solved_episodes()
        good, bad = order[solved[order]], order[failed[order]]
        share = self.success_share
        if count is None:
            most = [len(part) / s for part, s in ((good, share), (bad, 1.0 - share)) if s > 0.0]
            count = int(min(most))
        n = round(count * share)
        good, bad = good[: _enough(n, len(good), "solved")], bad[: _enough(count - n, len(bad), "not solved")]
        if not len(good) + len(bad):
            raise UserError(f"No episodes are left with data.success_share {share}: choose another share or collect more.")
        return torch.cat([good, bad])


def _enough(wanted: int, there: int, which: str) -> int:
    if not wanted <= there:
        raise UserError(
            f"{wanted} episodes that are {which} are requested and there are {there}: lower data.episodes, or collect more."
        )
    return wanted


def part(whole: Transitions, episodes: Tensor) -> Transitions:
    """Return these episodes in the order of the data; the data themselves, uncopied, if these are all."""
    return whole if len(episodes) == len(whole.episodes) else whole.select(episodes.sort().values)


def check_futures(source: Transitions) -> None:
    """Check that every episode has a step with a known successor, which futures are drawn from.

    Raises:
        UserError: naming the first episode without one.
    """
    usable = torch.ones(len(source), dtype=torch.bool)
    if source.drawable is not None:
        usable[:] = False
        usable[source.drawable.cpu()] = True
    steps = source.episodes.sums(usable)
    if bool((steps == 0).any()):
        episode = int((steps == 0).int().argmax())
        raise UserError(
            f"Episode {episode} of the data has no step whose successor is known, so it has no future to learn from: drop the "
            f"{int((steps == 0).sum())} such episode(s), or record their last observation."
        )


class RolloutExamples(ExampleChooser):
    """Success examples from separate rollouts: those of another data module, whose episodes no learner sees.

    Args:
        data: the other data, for instance the expert's episodes with another ``collection_seed``; same simulator and sizes.
        chooser: chooser among them; None takes 200 states that the environment reported as a success.
    """

    def __init__(self, data: FeedbackDataModule, chooser: ExampleChooser | None = None) -> None:
        self.data, self.chooser = data, chooser or SuccessExamples()
        super().__init__(self.chooser.count, self.chooser.seed)

    def prepare(self) -> None:
        self.data.prepare_data()
        self.chooser.prepare()

    def key(self, source: Transitions) -> Any:
        self.data.setup("fit")
        return [self.chooser.key(self.data.source), source.obs_dim, source.shown_dim, source.fingerprint]

    def describe(self) -> dict[str, Any]:
        return {"class": type(self).__name__, "chooser": self.chooser.describe()}

    def choose(self, source: Transitions) -> Examples:
        self.data.setup("fit")
        other = self.data.source
        if (other.obs_dim, other.shown_dim) != (source.obs_dim, source.shown_dim):
            raise UserError(
                f"The separate rollouts have observations of size {other.shown_dim} and the data of size {source.shown_dim}: "
                "collect both in the same simulator."
            )
        seen = {source.fingerprint, source.about.get("of", {}).get("fingerprint")}
        if other.fingerprint in seen:
            raise UserError(
                "The rollouts that examples come from are the training data themselves: give another collection_seed."
            )
        found = self.chooser.choose(other)
        return found._replace(about={**found.about, "separate": self.data.source.about.get("simulator")})
