"""The base of every method: an ordinary LightningModule whose ``training_step`` runs a block of updates.

An author writes four things: ``build`` (the networks), ``programs`` (losses, groups, where minibatches come from),
``plan`` (what a round does, in the paper's order) and ``act`` or ``reward``. Everything else is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl import memory
from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.data.transitions import Transitions, unpack
from lightning_pbrl.engine import Program, UpdateEngine
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.engine.update import Compile, Layout
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods import author_checks as checks
from lightning_pbrl.methods import lightning_glue as glue
from lightning_pbrl.methods.acting import Acting
from lightning_pbrl.methods.answers import Answers, Asked
from lightning_pbrl.methods.diverged import Diverging, check_saved
from lightning_pbrl.methods.evaluation import EpisodeEvaluation
from lightning_pbrl.methods.lightning_glue import plain
from lightning_pbrl.methods.resuming import FREE, grown
from lightning_pbrl.methods.saving import Portable, check_schema
from lightning_pbrl.methods.trainer_arguments import check_trainer, end_with_rounds
from lightning_pbrl.methods.weights import check_fitting_weights
from lightning_pbrl.rng import derive, stream
from lightning_pbrl.settings import Checked

Spec = dict[str, Any]
Metrics = Mapping[str, float]
Metered = Mapping[str, Tensor]
"""Means over a block by loss or metric, one per replica."""


class Phase(NamedTuple):
    """One part of a round.

    Attributes:
        name: shown in the progress bar.
        program: which program runs; None for a phase that only collects or calls ``start``.
        updates: gradient updates.
        block: updates (or env steps, without any) per ``training_step``; None for the method's own.
        start: called once when the phase begins (relabel, reset ...).
        done: asked after each block with its mean metrics (equal on all ranks); True ends the phase early.
        env_steps: env steps (of all environments together) before each update, such as 1 for SAC, 1/4 for four updates per env
            step; with ``updates`` 0, those of the whole phase.
        random: act uniformly instead of by the policy.
    """

    name: str
    program: str | None = None
    updates: int = 0
    block: int | None = None
    start: Callable[[], None] | None = None
    done: Callable[[Metrics], bool] | None = None
    env_steps: float = 0
    random: bool = False

    @property
    def size(self) -> int:
        """Length of the phase: its updates, or its env steps if there are none."""
        return self.updates or int(self.env_steps)


class Method(Checked, Portable, Diverging, Acting, Answers, EpisodeEvaluation):
    """A learner: programs (how to update) and a plan (when).

    Args:
        spec: sizes that follow from the data: ``obs_dim``, ``action_dim``, ``horizon``; linked from the data module.
        seed: the run's seed; every component derives its own stream from it.
        block: gradient updates per ``training_step`` (Lightning's "batch").
        compile: compile loss and gradients: true, false, or auto (CUDA, or a CPU run long enough to repay it).
        replicas: independent seeds (seed, seed + 1, ...) trained in this process.
        layout: how replicas run: loop (bit for bit as alone), batched (one leading axis), or auto.
    """

    registry: ClassVar[dict[str, type[Method]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    """What must be there at start, "labels" (answers of a teacher), "learned_reward" (something relabelled the data),
    "env" (environments to act in while learning), "examples" (states that show success)."""
    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})
    """The kinds of answer it learns from, where it needs labels: ``labels`` are the pairs, ``ratings`` the ratings."""
    population: ClassVar[bool] = False
    """Whether several replicas can share a process; only methods that neither ask nor act while training."""
    pictures: ClassVar[bool] = False
    """Whether it can learn from pictures of ``spec["pixels"]`` points a side in place of states."""
    longer: ClassVar[Mapping[str, str]] = {}
    """Settings of which a run may ask for more when it goes on, each with the length of a round (``methods/resuming.py``)."""
    validates_on: ClassVar[Literal["episodes", "pairs"]] = "episodes"

    # Kept out of module registration (set through __dict__): no parameters of their own.
    source: Transitions
    engines: dict[str, UpdateEngine]
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        if replicas > 1 and not self.population:
            raise UserError(
                f"{type(self).__name__} asks or acts while it trains, so its seeds run as processes: use "
                "`lightning-pbrl run EXPERIMENT --seeds 0-4` instead of replicas."
            )
        self.spec, self.seed = dict(spec), int(seed)
        self.block, self.compile_updates, self.replicas, self.layout = block, compile, replicas, layout
        self.labels, self.ratings, self.asked = Labels.empty(), Labels.empty(clips=1), Asked()
        self.round_done, self.finished, self.waiting, self.grown, self.updates_loaded = False, False, False, False, 0
        self.__dict__.update(engines={}, _restored=None, _built=False, _results={})
        self._phases: list[Phase] = []
        self._in_phase = self._phase_began = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checks.check_name(cls, Method.registry)
        Method.registry[cls.__name__] = cls

    if TYPE_CHECKING:  # for type checkers only: torch.compile cannot follow super() in a property

        @property
        def hparams(self) -> Any:
            """The constructor's arguments as attributes."""

    # What an author writes -------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the networks as attributes (called once, under the seed's own ``init`` stream)."""

    def on_data(self) -> None:
        """Take statistics of ``self.source`` (normalisers) before training."""

    def programs(self) -> dict[str, Program]:
        """The kinds of update this method has, by name; called once the data are on the device."""
        return {}

    def plan(self, round_number: int) -> list[Phase]:
        """What this round does, in the paper's order."""
        return []

    def is_finished(self) -> bool:
        """Whether training ends with this round; asked at its end."""
        return True

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Actions in [-1, 1] for raw observations: (B, O) -> (B, A)."""
        raise UserError(f"{type(self).__name__} learns a reward, not a policy; train a policy on the data it relabels.")

    def reward(self, features: Tensor) -> Tensor:
        """Learned reward per member for observation and action side by side: (n, O + A) -> (E, n)."""
        raise UserError(f"{type(self).__name__} learns a policy, not a reward.")

    def combine(self, reward: Tensor) -> Tensor:
        """The one reward that policies get, from the members': (E, n) -> (n,)."""
        return reward.mean(0)

    def relabel(self, source: Transitions) -> Tensor:
        """The one reward that policies get, of every row of a data set, (N,); models that look back override it."""
        return predict_reward(source, self.reward, combine=self.combine)

    @property
    def pixels(self) -> int:
        """Side of the pictures that are seen in place of states; 0 for states."""
        return int(self.spec.get("pixels") or 0)

    # What strategies and programs use --------------------------------------------------------------------------------

    def observations(self, query: Query) -> Tensor:
        """Observations of the asked segments, (B, C, T, O)."""
        return self.source.segments(query.start, query.length)[..., : self.source.obs_dim]

    def replay(self, batch_size: int) -> dict[str, Any]:
        """Minibatches of single transitions, uniform with replacement: ``sample``, ``gather`` and ``view`` of a program."""
        source = self.source

        def sample(updates: int, rng: torch.Generator) -> Sequence[Tensor]:
            number = torch.randint(source.drawable_count, (updates, batch_size), generator=rng, device=rng.device)
            return source.drawable_rows(number).unbind(0)

        def gather(ids: Tensor) -> Tensor:
            if ids.dim() == 1:
                return source.packed.index_select(0, ids)
            return source.packed.index_select(0, ids.reshape(-1)).view(*ids.shape, -1)

        return {"sample": sample, "gather": gather, "view": lambda rows: unpack(rows, source.layout)}

    # Lightning's hooks -----------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if not self._built:
            self.__dict__["_built"] = True
            self._build_seeded(self.seed)

    def _build_seeded(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init"))
            self.build()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """None of Lightning's: the engine owns the optimisers."""
        return []

    def configure_callbacks(self) -> list[pl.Callback]:
        """None; the first hook of all, before Lightning checks the same arguments without a cure, or joins processes."""
        check_trainer(self.trainer)
        glue.check_tasks(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        glue.end_when_told(self.trainer)
        self.source = getattr(self.trainer.datamodule, "source", None)  # type: ignore[attr-defined, assignment]
        if stage == "fit":
            if self.source is None:
                name = type(self).__name__
                raise UserError(f"{name} needs data: give fit() a data module of lightning_pbrl.datamodules.")
            glue.check_strategy(self.trainer, self.replicas)
            glue.checkpoint_at_round_edges(self.trainer)
            glue.write_checkpoints_in_place(self.trainer)
            end_with_rounds(self.trainer)
            glue.log_every_block(self.trainer)

    def on_fit_start(self) -> None:
        if len(self.source) and self.source.shown_dim != self.spec["obs_dim"]:
            raise UserError(
                f"The model was built for observations of size {self.spec['obs_dim']}, the data have {self.source.shown_dim}; "
                "build it with spec=datamodule.spec."
            )
        self.source.to(self.device)
        self._check_needs()
        if not self.source.forgets:
            self.check_columns()
        if self._restored is None:
            self.learned_from, self.waiting = None, False
            self.on_data()
        self._start_engines()

    def _check_needs(self) -> None:
        name, data = type(self).__name__, type(self.trainer.datamodule).__name__  # type: ignore[attr-defined]
        if self.pixels and not self.pictures:
            raise UserError(f"{name} learns from states and the data show pictures: choose LAEO, SQIL, RCE, GCBC or BC.")
        if "env" in self.needs and self.collector is None:
            raise UserError(f"{name} acts while it learns and {data} has logged data only: use a config of conf/data/online.")
        if "examples" in self.needs and getattr(self.trainer.datamodule, "examples", None) is None:  # type: ignore[attr-defined]
            raise UserError(f"{name} learns from examples of success and {data} brings none: wrap it in ExamplesDataModule.")
        if "learned_reward" in self.needs and self.source.drawable_part(self.source.column("learned_reward")).isnan().all():
            raise UserError(
                f"{name} learns from a reward and the data have none yet: set relabel.reward to a reward model's "
                "checkpoint, or to true, zero, random or negated for a control."
            )

    def asks_for(self, budget: int, given: int, per_round: int | None) -> None:
        """Let a run that goes on ask more than it was to, or refuse; ``AskTeacher`` says so when a fit starts.

        Args:
            budget: questions in total.
            given: answers that came with the data.
            per_round: questions per round; None where its rounds follow from the budget.
        """
        if self._restored is None:
            return
        asked = Asked(*self._restored["asked"])
        before = asked.total - given + asked.remaining
        longer = self.longer if per_round and before else {}
        now = {"ask.budget": budget, "ask.per_round": per_round}
        self.grown |= grown(longer, {"ask.budget": before}, now, self._restored["finished"])

    def _start_engines(self) -> None:
        reduce = glue.gradient_reducer(self.trainer)
        self.engines.clear()
        for name, program in self.programs().items():
            generators = [stream(self.seed + k, "sampler", name) for k in range(self.replicas)]
            engine = UpdateEngine(
                self, program, generators, self.compile_updates, self.layout, getattr(self, "updates", 0), reduce
            )
            self.engines[name] = engine
            stretched = [group for group, about in program.groups.items() if isinstance(about.schedule, cosine)]
            if self.grown and stretched:
                raise UserError(
                    f"The learning rate of {type(self).__name__}'s {', '.join(stretched)} falls to 0 over the run, so one that "
                    f"was planned shorter cannot go on as a longer one: set {' and '.join(self.longer)} back, or start a new run "
                    "in another folder (run_dir)."
                )
        if self.replicas > 1:
            checks.check_shared_parameters(self)
        if self._restored is None:
            self._init_replicas()
            return
        for name, engine in self.engines.items():
            engine.load_state_dict(self._restored["engines"][name])
        torch.set_rng_state(self._restored["torch_rng"].cpu())
        self.finished = self._restored["finished"] and not self.grown
        self.__dict__["_restored"] = None

    def _init_replicas(self) -> None:
        """Give replica k the initial weights that seed + k has alone.

        Raises:
            UserError: when a buffer depends on the seed, because all replicas share it.
        """
        first = self._twin(self.seed) if self.replicas > 1 else self
        for replica in range(1, self.replicas):
            twin = self._twin(self.seed + replica)
            checks.check_shared_buffers(self, first, twin)
            weights = twin.state_dict()
            for engine in self.engines.values():
                for key, rows in engine.flat.storage.items():
                    rows[replica].copy_(engine.flat._join(key, weights))

    def _twin(self, seed: int) -> Method:
        """This method alone, just built, with another seed."""
        twin = type(self)(**{**plain(self.hparams), "seed": seed, "replicas": 1})
        twin.configure_model()
        return twin

    def on_train_start(self) -> None:
        if self.finished:  # a finished run that is resumed has nothing left to do
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        rank, number = self.trainer.global_rank, self.trainer.current_epoch
        for name, engine in self.engines.items():  # a stream per seed, rank and round: a resumed rank draws what it would have
            for k, generator in enumerate(engine.generators):
                generator.manual_seed(derive(self.seed + k, "sampler", name, rank, number))
        self.start_acting(number)
        glue.save_this_round_too(self.trainer)
        memory.give_back(self.device)
        self._phases, self._in_phase, self.round_done = list(self.plan(number)), 0, False
        self.check_answers()
        self.round_updates = sum(phase.updates for phase in self._phases)

    @property
    def phase(self) -> str:
        """Name of the phase that runs now; empty when the round is over."""
        return self._phases[0].name if self._phases else ""

    @property
    def updates_left(self) -> int:
        """Updates planned for the rest of this round; what a phase that ended early left undone does not count."""
        done = self._in_phase if self._phases and self._phases[0].updates else 0
        left = sum(phase.updates for phase in self._phases) - done
        return min(left, self.trainer.max_steps - self.trainer.global_step) if self.trainer.max_steps > 0 else left

    def training_step(self, token: int) -> None:
        """Run the next block of the current phase; the block after the last closes the round."""
        while self._phases and self._phases[0].size == 0:
            phase = self._phases.pop(0)
            if phase.start:
                phase.start()
        if not self._phases:
            self.round_done = True
            self.check_finite_weights()
            return
        phase = self._phases[0]
        checks.check_phase(self, phase)
        if self._in_phase == 0:
            self._phase_began = self.env_steps
            if phase.start:
                phase.start()
        block = min(phase.block or self.block, phase.size - self._in_phase)
        meters = self._update(phase, block) if phase.updates else self._collect(phase, block)
        self._log_block(phase.program, meters)
        if self._in_phase >= phase.size or (phase.done is not None and phase.done(self._reduced(meters))):
            self._phases.pop(0)
            self._in_phase = 0
            self.round_done = not self._phases
            memory.give_back(self.device)

    def _update(self, phase: Phase, updates: int) -> Metered:
        """Updates of a phase, the env steps that come before each of them included."""
        if self.trainer.max_steps > 0:
            updates = min(updates, self.trainer.max_steps - self.trainer.global_step)
        engine = self.engines[str(phase.program)]
        if phase.block is None:
            checks.check_block_draws(self, str(phase.program), engine)
        buffers = checks.buffer_versions(self)
        act = self.acting(self._phase_began, self._in_phase, phase.env_steps, phase.random) if phase.env_steps else None
        meters = engine.run(updates, before=act)
        if self.replicas > 1 and buffers != checks.buffer_versions(self):
            raise checks.no_replicas(self, "its updates change a buffer")
        self.check_losses(str(phase.program), meters, updates)
        self._in_phase += updates
        glue.advance_global_step(self.trainer, updates)
        return meters

    def _collect(self, phase: Phase, steps: int) -> Metered:
        """Env steps of a phase without updates."""
        self.collect(self._phase_began + self._in_phase + steps, phase.random)
        self._in_phase = self.env_steps - self._phase_began
        return {}

    def _log_block(self, program: str | None, meters: Metered) -> None:
        groups = {} if program is None else self.engines[program].program.groups
        values = {f"train/{key}_loss" if key in groups else f"train/{key}": value for key, value in meters.items()}
        row = {key: value.mean() for key, value in values.items()}
        if self.replicas > 1:
            row.update({f"{key}/replica_{k}": value[k] for key, value in values.items() for k in range(self.replicas)})
        row |= {"labels": torch.tensor(float(self.asked.total)), **self.acting_row()}
        self.log_dict({**row, "step": float(self.trainer.global_step)}, batch_size=1)

    def _reduced(self, meters: Metered) -> dict[str, float]:
        """Block means as numbers, averaged over ranks."""
        return {key: float(self.trainer.strategy.reduce(value.mean(), reduce_op="mean")) for key, value in meters.items()}

    def on_train_epoch_end(self) -> None:
        done = self.is_finished()
        if done and "labels" in self.needs and not self.learned_from:
            raise self.nothing_learned()
        self.waiting = done and self.left_waiting
        self.finished = done and not self.waiting  # a fit that waits goes on from its checkpoint
        if done:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        glue.warn_of_default_end(self.trainer, self.finished or self.waiting)
        if self.waiting:
            raise self.unanswered()
        if self.finished and self.pending:
            warnings.warn(
                f"{self.pending} questions were never answered: {type(self).__name__} has learned from the others.",
                stacklevel=2,
            )

    def predict_step(self, index: Tensor) -> dict[str, Tensor]:
        """Learned reward and action for the rows ``index`` of the data, whichever of the two this method learns."""
        out = {"row": index}
        rows = self.source.packed[index.to(self.source.device)].to(self.device)
        features = rows[:, : self.source.obs_dim + self.source.action_dim]
        if type(self).reward is not Method.reward:
            out["learned_reward"] = self.combine(self.reward(features)).cpu()
        if type(self).act is not Method.act:
            out["action"] = self.act(self.observed(index)).cpu()
        return out

    def observed(self, rows: Tensor) -> Tensor:
        """What :meth:`act` is given at these rows of the data, (n,) -> (n, O)."""
        return self.source.column("obs")[rows.to(self.source.device)].to(self.device)

    def use_replica(self, replica: int) -> None:
        """Let the networks hold one replica's weights."""
        for engine in self.engines.values():
            engine.flat.bind(replica)
        if not self.engines and self._restored is not None and self.replicas > 1:
            for state in self._restored["engines"].values():
                self.load_state_dict(state["flat"]["weights"][replica], strict=False)

    # Checkpoints: tensors and plain types only -------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite_weights()
        self.use_replica(0)
        checkpoint["state_dict"] = {key: value.clone() for key, value in self.state_dict().items()}
        checkpoint["hyper_parameters"] = plain(self.hparams)
        checkpoint["lightning_pbrl"] = {
            **self.provenance(),
            "engines": {name: engine.state_dict() for name, engine in self.engines.items()},
            "torch_rng": torch.get_rng_state(),
            "finished": self.finished,
            "updates": self.trainer.global_step,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("lightning_pbrl")
        if saved is None or saved["method"] != type(self).__name__:
            found = "another program" if saved is None else saved["method"]
            raise UserError(f"The checkpoint was written by {found}, not by {type(self).__name__}; name the method that made it.")
        check_schema(saved, "The checkpoint")
        check_fitting_weights(self, checkpoint)
        self.grown = False
        if self._trainer is not None and self._trainer.state.fn == "fit":
            if "torch_rng" not in saved:
                raise UserError(
                    "The checkpoint was written by save() and holds no optimiser: a run goes on from checkpoints/last.ckpt of "
                    "its folder."
                )
            before, now = checkpoint["hyper_parameters"], plain(self.hparams)
            before, now = ({key: value for key, value in each.items() if key not in FREE} for each in (before, now))
            self.grown = grown(self.longer, before, now, saved["finished"])
        self.__dict__["_restored"] = saved
        check_saved(checkpoint, "The checkpoint")
        self.updates_loaded, self.asked = saved["updates"], Asked(*saved["asked"])
        self.learned_from = saved.get("learned_from")  # older checkpoints do not tell
        self.engines.clear()  # they hold what was trained before; a fit starts its own
