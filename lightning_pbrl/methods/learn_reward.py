"""Reward learning as a method of its own: any reward model, fitted to all feedback so far, round by round.

The library's models have a method each, with flat arguments: ``RewardEnsemble(spec, epochs=50)`` is
``LearnReward(spec, {"class_path": "RewardEnsemble", "init_args": {"epochs": 50}})``. The models are in
:mod:`lightning_pbrl.rewards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.compute.precision import Precision
from lightning_pbrl.data.feedback import Kind, Query
from lightning_pbrl.engine import Part, Phase, Program
from lightning_pbrl.engine.update import Compile, Layout
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method, Spec
from lightning_pbrl.rewards import ensemble, nmr, preference_transformer, semi_supervised, unified
from lightning_pbrl.rewards.base import RewardModel, chosen, described, held


class LearnReward(Method):
    """Reward learning: a reward model fitted to all answers so far, round by round (Christiano et al. 2017).

    Args:
        spec: sizes, linked from the data module.
        reward_model: the model, its name, or ``{class_path: ..., init_args: ...}``.
        **engine: arguments of :class:`~lightning_pbrl.methods.base.Method`.

    Raises:
        UserError: for an unknown class or argument, and for a model that learns from other feedback.
    """

    needs = frozenset({"labels"})
    validates_on = "pairs"
    waits = True
    longer: ClassVar[Mapping[str, str]] = {"ask.budget": "ask.per_round"}
    reward_model: RewardModel

    def __init__(self, spec: Spec, reward_model: RewardModel | dict[str, Any] | str, **engine: Any) -> None:
        super().__init__(spec, **engine)
        self.reward_model = chosen(reward_model, spec, self.seed)
        self.context = self.reward_model.context
        self.pictures = self.reward_model.pictures  # type: ignore[misc]
        if self.reward_model.needs != self.needs:
            what, (wants,), (gives,) = type(self.reward_model).__name__, self.reward_model.needs, self.needs
            raise UserError(f"{what} learns from {wants} and {type(self).__name__} gives {gives}: use another model or method.")
        flat = self.passes_to is not None
        self.save_hyperparameters(dict(self.reward_model.hparams) if flat else {"reward_model": described(self.reward_model)})
        if not flat or type(self).kinds == type(self.reward_model).kinds:
            self.kinds = self.reward_model.kinds  # type: ignore[misc]

    def build(self) -> None:
        self.reward_model.build()

    def on_data(self) -> None:
        super().on_data()
        self.reward_model.on_data()

    def groups(self) -> dict[str, Part]:
        return held(self.reward_model.groups())

    def programs(self) -> dict[str, Program]:
        return dict(self.reward_model.programs())

    def plan(self, round_number: int) -> list[Phase]:
        return self.reward_model.plan(round_number)

    def is_finished(self) -> bool:
        return self.asked.remaining == 0 or self.asked.over

    def returns(self, query: Query) -> Tensor:
        """Return the predicted return of every asked segment per member, (E, B, C)."""
        return self.reward_model.returns(query)

    def observations(self, query: Query) -> Tensor:
        """Return the observations of the asked segments, (B, C, T, O), of images their features."""
        return self.reward_model.observations(query)


class RewardEnsemble(LearnReward):
    """Reward ensemble: members that each explain the preferences by a sum of per-step rewards (Christiano et al. 2017).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.ensemble.RewardEnsemble`.
    """

    passes_to = ensemble.RewardEnsemble
    pictures = True
    kinds: ClassVar[frozenset[Kind]] = ensemble.RewardEnsemble.kinds

    def __init__(
        self,
        spec: Spec,
        *,
        seed: int = 0,
        block: int = 64,
        compile: Compile = "auto",  # noqa: A002
        replicas: int = 1,
        layout: Layout = "auto",
        precision: Precision = "float32",
        **reward: Any,
    ) -> None:
        how: dict[str, Any] = {"compile": compile, "replicas": replicas, "layout": layout, "precision": precision}
        super().__init__(spec, ensemble.RewardEnsemble(**reward), seed=seed, block=block, **how)


class SemiSupervisedEnsemble(LearnReward):
    """Semi-supervised reward ensemble: random crops of labelled pairs and of pseudo-labelled ones (Park et al. 2022).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.semi_supervised.SemiSupervisedEnsemble`.
    """

    passes_to = semi_supervised.SemiSupervisedEnsemble
    pictures = True

    def __init__(
        self,
        spec: Spec,
        *,
        seed: int = 0,
        block: int = 64,
        compile: Compile = "auto",  # noqa: A002
        replicas: int = 1,
        layout: Layout = "auto",
        precision: Precision = "float32",
        **reward: Any,
    ) -> None:
        how: dict[str, Any] = {"compile": compile, "replicas": replicas, "layout": layout, "precision": precision}
        super().__init__(spec, semi_supervised.SemiSupervisedEnsemble(**reward), seed=seed, block=block, **how)


class UnifiedReward(LearnReward):
    """Unified reward: per-step rewards that explain preferences and ratings at once (repository MariaGkoulta/rlhf-repo).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.unified.UnifiedReward`.
    """

    passes_to = unified.UnifiedReward
    pictures = True
    kinds: ClassVar[frozenset[Kind]] = unified.UnifiedReward.kinds

    def __init__(
        self,
        spec: Spec,
        *,
        seed: int = 0,
        block: int = 64,
        compile: Compile = "auto",  # noqa: A002
        replicas: int = 1,
        layout: Layout = "auto",
        precision: Precision = "float32",
        **reward: Any,
    ) -> None:
        how: dict[str, Any] = {"compile": compile, "replicas": replicas, "layout": layout, "precision": precision}
        super().__init__(spec, unified.UnifiedReward(**reward), seed=seed, block=block, **how)


class PreferenceTransformer(LearnReward):
    """Preference Transformer: preferences as a weighted sum of non-Markovian rewards (Kim et al. 2023).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.preference_transformer.PreferenceTransformer`.
    """

    passes_to = preference_transformer.PreferenceTransformer

    def __init__(
        self,
        spec: Spec,
        *,
        seed: int = 0,
        block: int = 64,
        compile: Compile = "auto",  # noqa: A002
        replicas: int = 1,
        layout: Layout = "auto",
        precision: Precision = "float32",
        **reward: Any,
    ) -> None:
        how: dict[str, Any] = {"compile": compile, "replicas": replicas, "layout": layout, "precision": precision}
        super().__init__(spec, preference_transformer.PreferenceTransformer(**reward), seed=seed, block=block, **how)


class NMR(LearnReward):
    """Non-Markovian reward: an LSTM gives each step a reward in its history (Early et al. 2022).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.nmr.NMR`.
    """

    passes_to = nmr.NMR

    def __init__(
        self,
        spec: Spec,
        *,
        seed: int = 0,
        block: int = 64,
        compile: Compile = "auto",  # noqa: A002
        replicas: int = 1,
        layout: Layout = "auto",
        precision: Precision = "float32",
        **reward: Any,
    ) -> None:
        how: dict[str, Any] = {"compile": compile, "replicas": replicas, "layout": layout, "precision": precision}
        super().__init__(spec, nmr.NMR(**reward), seed=seed, block=block, **how)
