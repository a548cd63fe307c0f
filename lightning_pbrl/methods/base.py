"""Base of every method: an ordinary LightningModule whose ``training_step`` runs a block of updates.

An author writes ``build`` (networks), ``groups`` (optimisers), ``programs`` (losses and their draws), ``plan`` (phases of a
round, in the paper's order) and ``act`` or ``reward``. Everything else is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl import memory
from lightning_pbrl.compute.precision import Precision
from lightning_pbrl.data.feedback import Asked, Kind, Labels, Query
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.data.steps import shown
from lightning_pbrl.data.transitions import Transitions, fetch, unpack
from lightning_pbrl.engine import Draw, Part, Program, Rows, UpdateEngine
from lightning_pbrl.engine.update import Compile, Layout
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting import answers, checkpoints, diverged, resuming, saving
from lightning_pbrl.fitting import author_checks as checks
from lightning_pbrl.fitting import lightning_glue as glue
from lightning_pbrl.fitting.evaluation import EpisodeEvaluation, PairEvaluation
from lightning_pbrl.fitting.rounds import Metrics as Metrics
from lightning_pbrl.fitting.rounds import Phase as Phase
from lightning_pbrl.fitting.rounds import Rounds
from lightning_pbrl.fitting.starting import check_data, check_needs, start_engine
from lightning_pbrl.fitting.trainer_arguments import check_trainer, end_with_rounds
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.rewards.base import Spec as Spec
from lightning_pbrl.rng import derive, stream
from lightning_pbrl.settings import Checked


class Method(Checked, pl.LightningModule):
    """Base of every method: programs (how to update) and a plan (when).

    Args:
        spec: sizes given by the data: ``obs_dim``, ``action_dim``, ``horizon``; linked from the data module.
        seed: seed of the run; every component derives its own stream from it.
        block: gradient updates per ``training_step`` (Lightning's "batch").
        compile: compile loss and gradients: true, false, auto (where it repays), or graph (replay updates as CUDA graphs, too).
        replicas: independent seeds (seed, seed + 1, ...) trained in this process.
        layout: execution of replicas: loop (bit for bit as alone), batched (one leading axis), or auto.
        precision: of an update's products: float32, tf32 (CUDA) or bf16; weights, losses, optimisers and acting stay float32.
    """

    registry: ClassVar[dict[str, type[Method]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    """Requirements at the start: "labels" (of a teacher), "learned_reward" (relabelled data), "env" (to act in), "examples"."""
    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})
    """Kinds of answer that it learns from if it needs labels: ``labels`` are the pairs, ``ratings`` the ratings."""
    population: ClassVar[bool] = False
    """True if several replicas can share a process; only for methods that neither ask nor act while training."""
    ddp: ClassVar[bool] = True
    """True if a fit can run on several devices; a method that acts while it learns collects in one process."""
    pictures: ClassVar[bool] = False
    """True if it can learn from images of ``spec["pixels"]`` pixels a side in place of states."""
    waits: ClassVar[bool] = False
    """True if a fit stops, to be resumed, while questions are unanswered that it would learn from; others end with a warning."""
    context: int = 0
    """Steps that must lie on both sides of a segment, for methods that crop beyond it."""
    longer: ClassVar[Mapping[str, str]] = {}
    """Settings that a continued run may raise, each with the length of a round (``fitting/resuming.py``)."""
    validates_on: ClassVar[Literal["episodes", "pairs"]] = "episodes"

    reward_model: RewardModel | None
    """Reward model that it fits and holds; None for methods without one."""
    labels: Labels
    """Answers about pairs, given or by a teacher; ``ratings`` about single segments, ``others`` those of other kinds, by kind."""
    learned_from: int | None = None
    """Number of answers that this round learns from; None before the first round, and for methods that read none."""
    pending: int = 0
    """Number of questions of the run that are still unanswered."""
    run_dir: Path | None = None
    """The run folder that its weights come from; None where it was not trained by a Trainer of this library."""
    answers_from: str = ""
    """Label store that answers are read from; empty without one."""
    hparams: Any
    # Set through __dict__, to be no submodules: they have no parameters of their own.
    source: Any
    engine: UpdateEngine | None
    running: UpdateEngine  # the same, of a fit that has begun
    rounds: Rounds
    evaluation: EpisodeEvaluation | PairEvaluation
    acting_rng: torch.Generator
    """Noise of the acting policy, on the method's device; a stream of its own per round."""
    _restored: dict[str, Any] | None
    _built: bool

    def __init__(
        self,
        spec: Spec,
        seed: int = 0,
        block: int = 64,
        compile: Compile = "auto",  # noqa: A002 - the name users know from torch and Lightning
        replicas: int = 1,
        layout: Layout = "auto",
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="reward_model")  # which may be an object
        self.automatic_optimization = False
        checks.check_population(self, replicas)
        self.spec, self.seed, self.asked, self.updates_loaded = dict(spec), int(seed), Asked(), 0
        self.block, self.compile_updates, self.replicas, self.layout, self.precision = block, compile, replicas, layout, precision
        self.labels, self.ratings, self.others = Labels.empty(), Labels.empty(clips=1), dict[Kind, Labels]()
        self.reward_model, self.round_done, self.finished, self.waiting, self.grown = None, False, False, False, False
        evaluation = PairEvaluation if self.validates_on == "pairs" else EpisodeEvaluation
        self.__dict__.update(engine=None, _restored=None, _built=False, rounds=Rounds(self), evaluation=evaluation(self))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checks.check_name(cls, Method.registry)
        Method.registry[cls.__name__] = cls

    # Written by an author --------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the networks as attributes (called once, under the seed's own ``init`` stream)."""

    def on_data(self) -> None:
        """Take statistics of ``self.source`` (normalisers) before training."""

    def groups(self) -> Mapping[str, Part]:
        """Return each network's part in the updates, :class:`Group`, :class:`Follows` or :class:`Frozen`, by attribute."""
        return {}

    def programs(self) -> Mapping[str, Program]:
        """Return the kinds of update by name; called once the data are on the device."""
        return {}

    def plan(self, round_number: int) -> list[Phase]:
        """Return the phases of a round, in the paper's order."""
        return []

    def is_finished(self) -> bool:
        """Return True if training ends with this round; called at its end."""
        return True

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Return actions in [-1, 1] for raw observations: (B, O) -> (B, A)."""
        raise UserError(f"{type(self).__name__} learns a reward, not a policy; train a policy on the data it relabels.")

    def reward(self, features: Tensor) -> Tensor:
        """Return the learned reward per member for observation and action side by side: (n, O + A) -> (E, n)."""
        if self.reward_model is None:
            raise UserError(f"{type(self).__name__} learns a policy, not a reward: give the checkpoint of a reward model.")
        return self.reward_model.reward(features)

    def combine(self, reward: Tensor) -> Tensor:
        """Return the one reward that policies get, from the members': (E, n) -> (n,)."""
        return reward.mean(0) if self.reward_model is None else self.reward_model.combine(reward)

    def relabel(self, source: Transitions, rows: Tensor | None = None) -> Tensor:
        """Return the reward that policies get for every row of a data set, (N,), or for ``rows``, (n,)."""
        if self.reward_model is not None and type(self).reward is Method.reward:
            return self.reward_model.relabel(source, rows)
        return predict_reward(source, self.reward, combine=self.combine, rows=rows)

    @property
    def pixels(self) -> int:
        """Side of the images that are seen in place of states, pixels; 0 for states."""
        return int(self.spec.get("pixels") or 0)

    def usable(self) -> int:
        """Return the number of answers that can be learned from."""
        return answers.usable(self)

    def behave(self, obs: Tensor) -> Tensor:
        """Return actions that collect experience, (n, O) -> (n, A) in [-1, 1]: a sample of the policy."""
        return self.act(obs, sample=True)

    def on_env_step(self) -> None:
        """React to a step of all environments; the new rows are in the replay."""

    def round_starts(self) -> Sequence[int] | None:
        """Return the env steps done when each round of a whole fit begins; None if the settings do not fix the rounds."""
        return None

    @property
    def collector(self) -> Any:
        """Collector that steps the environments and fills the replay, or None."""
        return getattr(getattr(self._trainer, "datamodule", None), "collector", None)

    @property
    def env_steps(self) -> int:
        """Number of steps of all environments so far."""
        return int(getattr(self.collector, "env_steps", 0))

    @property
    def planned_env_steps(self) -> int | None:
        """Env steps of the whole run, the setting ``env_steps``; None for a method that does not act."""
        return self.hparams.get("env_steps")

    @property
    def planned_round_steps(self) -> int | None:
        """Env steps of a round, the setting ``round_steps``; None where the settings do not say."""
        return self.hparams.get("round_steps")

    @property
    def acts(self) -> bool:
        """True if it learns a policy."""
        return type(self).act is not Method.act

    @property
    def rewards(self) -> bool:
        """True if it learns a reward."""
        return self.reward_model is not None or type(self).reward is not Method.reward

    # Outside of a Trainer --------------------------------------------------------------------------------------------

    def predict(self, obs: npt.ArrayLike, action: npt.ArrayLike | None = None) -> saving.Array:
        """Return actions for observations, or rewards for observations and actions, as arrays (:func:`saving.predict`)."""
        return saving.predict(self, obs, action)

    def save(self, path: str | Path, replica: int = 0) -> None:
        """Write weights and settings to a file that :meth:`load` opens (:func:`saving.save`)."""
        saving.save(self, path, replica)

    @classmethod
    def load(cls, path: str | Path, replica: int = 0, device: str = "cpu") -> Self:
        """Return a trained method of this class, ready to :meth:`predict` (:func:`saving.load`)."""
        found: Self = saving.load(cls, path, replica, device)
        return found

    # Used by strategies and programs ---------------------------------------------------------------------------------

    @property
    def scorer(self) -> Any:
        """Model by which query strategies score segments: the reward model that it holds, or itself."""
        return self if self.reward_model is None else self.reward_model

    def observations(self, query: Query) -> Tensor:
        """Return the observations of the asked segments, (B, C, T, O)."""
        return self.source.segments(query.start, query.length)[..., : self.source.obs_dim]

    def minibatch(self, size: int, **draws: Draw) -> dict[str, Any]:
        """Return ``draws``, ``gather`` and ``view`` of a program: ``size`` uniform transitions, and further draws by name."""
        return {"draws": {"rows": Rows(self.source, size), **draws}, "gather": self.fetched, "view": self.columns}

    def fetched(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the drawn transitions, packed, (B, W), beside whatever else was drawn."""
        return {**drawn, "rows": fetch(self.source.packed, drawn["rows"])}

    def columns(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of packed transitions by name, beside whatever else is in the batch."""
        return {**unpack(batch["rows"], self.source.layout), **{key: batch[key] for key in batch if key != "rows"}}

    # Lightning's hooks -----------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if not self._built:
            self.__dict__["_built"] = True
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(self.seed, "init"))
                self.build()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return no optimiser: the engine owns them."""
        return []

    def configure_callbacks(self) -> list[pl.Callback]:
        """Check the trainer, before Lightning checks the same arguments without a cure or joins processes; return no callback."""
        check_trainer(self.trainer)
        glue.check_devices(self.trainer, self)
        return []

    def setup(self, stage: str) -> None:
        glue.end_when_told(self.trainer)
        self.source = getattr(self.trainer.datamodule, "source", None)  # type: ignore[attr-defined]
        answers.hand_over(self)
        if stage == "fit":
            check_data(self)
            glue.run_in_rounds(self.trainer, self.replicas)
            end_with_rounds(self.trainer)

    def on_fit_start(self) -> None:
        self.source.to(self.device)
        check_needs(self)
        if not self.source.forgets:
            diverged.check_columns(self)
        if self._restored is None:
            self.learned_from, self.waiting = None, False
            self.on_data()
        start_engine(self)

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.finished  # one that is resumed has nothing left to do

    def on_train_epoch_start(self) -> None:
        number = self.trainer.current_epoch
        self.__dict__["acting_rng"] = stream(self.seed, "acting", number, device=self.device)  # as a resumed run would draw
        glue.save_this_round_too(self.trainer)
        memory.give_back(self.device)
        self.round_done = False
        answers.hand_over(self)
        self.rounds.begin(self.plan(number))
        answers.check_answers(self)
        self.round_updates = sum(phase.updates for phase in self.rounds.phases)

    def training_step(self, token: int) -> None:
        """Run the next block of the present phase; the block after the last closes the round."""
        self.rounds.step()
        self.round_done = not self.rounds.phases

    def validation_step(self, items: Any, batch_idx: int) -> None:
        self.evaluation.step(items)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self.evaluation.finish("eval")

    def on_test_epoch_end(self) -> None:
        self.evaluation.finish("test")

    def on_train_epoch_end(self) -> None:
        done = self.is_finished()
        self.waiting = answers.conclude(self, done)
        self.finished = done and not self.waiting  # a fit that waits goes on from its checkpoint
        self.trainer.should_stop |= done

    def on_train_end(self) -> None:
        glue.warn_of_default_end(self.trainer, self.finished or self.waiting)
        answers.end(self)

    def predict_step(self, index: Tensor) -> dict[str, Tensor]:
        """Return learned reward and action, whichever the method learns, for the rows ``index`` of the data."""
        rewards = {"learned_reward": self.relabel(self.source, index.to(self.source.device)).cpu()} if self.rewards else {}
        return {"row": index, **rewards, **({"action": self.act(self.observed(index)).cpu()} if self.acts else {})}

    def observed(self, rows: Tensor) -> Tensor:
        """Return the observations that :meth:`act` is given at these rows of the data, (n,) -> (n, O)."""
        return shown(self.source, rows.to(self.source.device), bool(self.pixels)).to(self.device)

    def use_replica(self, replica: int) -> None:
        """Load one replica's weights into the networks."""
        if self.engine is not None:
            self.engine.state.bind(replica)
        elif self._restored is not None and self.replicas > 1:
            self.load_state_dict(self._restored["engine"]["state"]["weights"][replica], strict=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        diverged.check_finite_weights(self)
        self.use_replica(0)
        checkpoint.update(checkpoints.saved(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.grown, restored = resuming.read(self, checkpoint)
        self.__dict__.update(_restored=restored, engine=None)  # the engine holds what was trained before; a fit starts its own
        self.updates_loaded, self.asked = restored["updates"], Asked(*restored["asked"])
        self.learned_from = restored.get("learned_from")  # older checkpoints do not tell
