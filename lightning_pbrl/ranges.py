"""Allowed ranges of numeric arguments, by name: a name has one meaning in the whole library.

A class that uses a name differently, or has numbers of its own, gives their ranges in its ``ranges``
(:class:`~lightning_pbrl.settings.Checked`). NaN is refused everywhere. Infinity is refused, too, except in an outside class's own
arguments.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Range(NamedTuple):
    """Interval of allowed numbers.

    Attributes:
        low: smallest number, allowed unless ``above``.
        high: largest number, allowed unless ``below``.
        above: exclude ``low`` itself.
        below: exclude ``high`` itself.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return True if ``value`` is allowed."""
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """Return the tail of the sentence "give a number ...", with a space in front; empty if any number is allowed."""
        if self == ANY:
            return ""
        if not (self.above or self.below or math.isinf(self.high)):
            return f" between {self.low:.12g} and {self.high:.12g}"
        low = f" above {self.low:.12g}" if self.above else f" of at least {self.low:.12g}"
        return low if math.isinf(self.high) else f"{low} and {'below' if self.below else 'at most'} {self.high:.12g}"


ANY = Range()
COUNT = Range(1)
"""Count for which 0 makes no sense."""
COUNT_OR_NONE = Range(0)
"""Count for which 0 switches something off."""
POSITIVE = Range(0, above=True)
WEIGHT = Range(0)
"""Factor or size that may be 0."""
SHARE = Range(0, 1)
POSITIVE_SHARE = Range(0, 1, above=True)
PART = Range(0, 1, below=True)
"""Share below 1."""
SEED = Range(0, 2**32 - 1)
"""Seed that NumPy's and Lightning's generators accept; replica k adds k to it."""


def _all(allowed: Range, names: str) -> dict[str, Range]:
    return dict.fromkeys(names.split(), allowed)


RANGES: dict[str, Range] = {
    **_all(SEED, "seed seeds evaluation_seed collection_seed split_seed"),
    # networks
    **_all(COUNT, "hidden width layers heads attention_dim repr_dim z_dim ensemble_size"),
    **_all(PART, "dropout"),
    # optimisation
    **_all(POSITIVE, "lr critic_lr encoder_lr alpha_lr lr_multiplier max_grad_norm clip clip_score gumbel_clip target_kl"),
    **_all(POSITIVE_SHARE, "polyak lr_decay"),
    **_all(WEIGHT, "lr_floor weight_decay"),
    **_all(COUNT, "batch_size encoder_batch_size block replicas tile n_epochs policy_freq target_every update_ratio"),
    **_all(COUNT, "epochs first_epochs explore_epochs patience first_patience max_steps max_episode_steps"),
    **_all(COUNT_OR_NONE, "updates bc_updates reward_updates reset_updates critic_updates warmup"),
    **_all(COUNT_OR_NONE, "replay_batch_size n_init n_emb"),
    **_all(PART, "warmup_fraction validation"),
    # losses
    **_all(SHARE, "discount gamma gae_lambda omega bc_coef"),
    **_all(SHARE, "value_replay_weight chi2_replay_weight policy_replay_weight"),
    **_all(Range(0, 1, above=True, below=True), "expectile"),
    **_all(POSITIVE, "temperature init_temperature min_std max_ratio"),
    **_all(POSITIVE_SHARE, "bias eta top"),
    **_all(WEIGHT, "alpha chi2_coeff bc_coeff value_coef entropy_coef policy_noise noise_clip margin meta_weight stop_accuracy"),
    **_all(WEIGHT, "kl_weight amb_weight quad_weight norm_weight rating_weight return_penalty unlabelled_weight bonus_decay"),
    # acting, rounds and questions
    **_all(COUNT, "env_steps round_steps n_steps eval_interval neighbours recent unlabelled_recent meta_every meta_pairs"),
    **_all(COUNT, "unlabelled_ratio unlabelled_batches crop crop_copies window cem_candidates cem_iterations"),
    **_all(COUNT_OR_NONE, "explore_steps seed_steps context budget first_round pairs points redraws shift"),
    **_all(COUNT, "per_round every rounds large_batch q_budget"),
    **_all(Range(2), "bins draws held_out_every cem_elites folds"),
    **_all(POSITIVE_SHARE, "initial keep"),
    **_all(POSITIVE, "cost outlier"),
    # data, simulators, images
    **_all(COUNT, "segment_length"),
    **_all(COUNT, "num_envs eval_envs obs_dim action_dim horizon action_repeat capacity comparisons episodes last count fps"),
    **_all(COUNT_OR_NONE, "eval_episodes test_episodes held_out_pairs held_out entries fold stop_after_success"),
    **_all(SHARE, "quantiles success_share share"),
    **_all(PART, "validation_share"),
    **_all(COUNT, "size"),
    **_all(ANY, "action_bounds"),
    **_all(POSITIVE, "refresh_rate"),
    **_all(WEIGHT, "every_seconds"),
}
"""Allowed numbers by argument; for a list, of each entry."""
