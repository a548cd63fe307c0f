"""Reward learning from examples of success as a method of its own: any model of :mod:`lightning_pbrl.rewards.examples`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.compute.precision import Precision
from lightning_pbrl.engine.update import Compile, Layout
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.learn_reward import LearnReward
from lightning_pbrl.methods.with_examples import WithExamples
from lightning_pbrl.rewards import oril, purl, vice
from lightning_pbrl.rewards.examples import ExampleReward


class LearnRewardFromExamples(LearnReward, WithExamples):
    """Reward learning from examples: a classifier of examples of success against the data, whose output is the reward.

    Args:
        spec: sizes, linked from the data module.
        reward_model: the model, its name, or ``{class_path: ..., init_args: ...}``.
        **engine: arguments of :class:`~lightning_pbrl.methods.base.Method`.
    """

    needs = frozenset({"examples"})
    waits = False
    longer: ClassVar[Mapping[str, str]] = {"updates": "eval_interval"}
    reward_model: ExampleReward

    @property
    def updates(self) -> int:
        """Gradient updates in total."""
        return int(self.reward_model.hparams.updates)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.reward_model.examples = self.examples

    def is_finished(self) -> bool:
        return self.running.updates["reward"] >= self.updates


class ORIL(LearnRewardFromExamples):
    """Positive-unlabelled reward learning: a fraction ``eta`` of the data counts as unmarked successes (Zolna et al. 2020).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.oril.ORIL`.
    """

    passes_to = oril.ORIL

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
        super().__init__(spec, oril.ORIL(**reward), seed=seed, block=block, **how)


class PURL(LearnRewardFromExamples):
    """Non-negative positive-unlabelled reward: ORIL whose loss of the data's failures is at least 0 (Xu and Denil 2019).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.purl.PURL`.
    """

    passes_to = purl.PURL

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
        super().__init__(spec, purl.PURL(**reward), seed=seed, block=block, **how)


class VICE(LearnRewardFromExamples):
    """Variational inverse control with events: a classifier of examples against data, whose logit is the reward (Fu et al. 2018).

    Args:
        spec: sizes, linked from the data module.
        seed: as for :class:`~lightning_pbrl.methods.base.Method`, as are the next five.
        block: updates per ``training_step``.
        compile: compile losses and gradients.
        replicas: number of seeds, always 1 here: run several as processes (`--seeds`).
        layout: execution of replicas.
        precision: precision of matrix products.
        **reward: arguments of :class:`lightning_pbrl.rewards.vice.VICE`.
    """

    passes_to = vice.VICE

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
        super().__init__(spec, vice.VICE(**reward), seed=seed, block=block, **how)
