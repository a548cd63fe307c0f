"""Base of reward models: plain modules that are fitted to feedback and give rewards. Whoever trains one holds it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.data.step_encoder import StepEncoder
from lightning_pbrl.data.steps import steps_of
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import Part, Phase, Program, UpdateEngine
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.rewards.scoring import ReturnScorer
from lightning_pbrl.settings import Arguments, Checked, arguments, constructors

Spec = dict[str, Any]
HELD = "reward_model"
"""Attribute by which a method holds its reward model."""


class RewardModel(Checked, nn.Module, ABC):
    """Base of reward models: networks, their fit to feedback as phases and programs, and the rewards they predict.

    An author writes ``build`` (networks), ``groups``, ``programs`` (one of them called "reward"), ``plan`` (the phases of a fit)
    and ``reward``; a model that looks back over an episode writes ``returns`` and ``relabel``, too.
    :class:`~lightning_pbrl.methods.learn_reward.LearnReward` trains it alone, an online learner beside its policy. The
    constructor takes settings alone; sizes and seed are those of the method that holds it. A model that can see images builds an
    ``encoder``, which its heads read.

    Attributes:
        hparams: arguments of the constructor, defaults included.
        spec: sizes given by the data: ``obs_dim``, ``action_dim``, ``horizon``.
        seed: seed of its random streams.
        source: the data, or the replay.
        labels: answers about pairs so far; ``ratings`` those about single segments, ``others`` those of other kinds, by kind.
        engine: runs its programs; None outside of a fit.
        rank: number of this process among those of the fit.
    """

    registry: ClassVar[dict[str, type[RewardModel]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    """Feedback that it learns from: "labels" or "examples"."""
    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})
    """Kinds of answer among these."""
    pictures: ClassVar[bool] = False
    """True if it can see images: those that the policy sees, or with the setting ``pictures`` those beside the states."""
    context: int = 0
    """Steps that must lie on both sides of a segment, for models that crop beyond it."""
    encoder: StepEncoder
    spec: Spec
    source: Transitions
    engine: Any

    def __init__(self) -> None:
        super().__init__()
        self.hparams: Any = Arguments(arguments(self))
        self.seed, self.rank = 0, 0
        self.labels, self.ratings, self.others = Labels.empty(), Labels.empty(clips=1), dict[Kind, Labels]()
        self._scorers: dict[str, tuple[Any, Any]] = {}
        self.engine = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        RewardModel.registry[cls.__name__] = cls

    # Written by an author --------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Create the networks as attributes; called once, under the seed's own stream."""

    def on_data(self) -> None:
        """Take statistics of logged data (normalisers) before training; not called where a learner acts: its replay is empty."""

    def check_segments(self, length: int) -> None:
        """Raise a UserError if segments of ``length`` steps cannot be read; called before a fit."""

    @abstractmethod
    def groups(self) -> Mapping[str, Part]:
        """Return each network's part in the updates, by attribute."""

    @abstractmethod
    def programs(self) -> Mapping[str, Program]:
        """Return its kinds of update by name, the fit itself as "reward"."""

    @abstractmethod
    def plan(self, round_number: int) -> list[Phase]:
        """Return the phases of a fit to all answers so far."""

    @abstractmethod
    def reward(self, features: Tensor) -> Tensor:
        """Return the reward per member of steps, observation and action side by side or :meth:`steps`: (n, O + A) -> (E, n)."""

    def combine(self, reward: Tensor) -> Tensor:
        """Return the one reward that policies get, from the members': (E, n) -> (n,)."""
        return reward.mean(0)

    def usable(self) -> int:
        """Return the number of answers that can be learned from."""
        return len(self.labels.preferences())

    def metrics(self) -> dict[str, float]:
        """Return what is logged of the newest fit, by key."""
        return {}

    # Used by strategies and policies -----------------------------------------------------------------------------------

    @torch.no_grad()
    def returns(self, query: Query) -> Tensor:
        """Return the predicted return of every asked segment per member, (E, B, C): preferences are logistic in it."""
        return self.scorer("reward", lambda: self.reward).returns(query)

    @torch.no_grad()
    def observations(self, query: Query) -> Tensor:
        """Return the observations of the asked segments, (B, C, T, O), or the encoder's features of their images."""
        if not self.side:
            return self.source.segments(query.start, query.length)[..., : self.source.obs_dim]
        rows, place = segment_rows(query.start.to(self.source.device), query.length).unique(return_inverse=True)
        return self.encoder.images(self.source, rows)[place]

    def relabel(self, source: Transitions, rows: Tensor | None = None) -> Tensor:
        """Return the reward that policies get for every row of a data set, (N,), or for ``rows``, (n,)."""
        return predict_reward(source, self.reward, combine=self.combine, rows=rows, pictures=bool(self.side))

    def steps(self, source: Transitions, rows: Tensor) -> Tensor:
        """Return what :meth:`reward` reads of rows, (n,) -> (n, F): states, or images, and actions."""
        return steps_of(source, rows, bool(self.side))

    @property
    def side(self) -> int:
        """Side of the images that it sees in place of states, pixels; 0 for states."""
        return self.encoder.side if self.pictures else 0

    def codes(self) -> Tensor:
        """Return the encoder's features of the image of every row of logged data, (N, G - A), kept until the encoder moves."""
        now, kept = (id(self.source), self.version()), self._scorers.get("codes")
        if kept is None or kept[0] != now:
            rows = torch.arange(len(self.source), device=self.source.device)
            kept = self._scorers["codes"] = now, self.encoder.images(self.source, rows)
        found: Tensor = kept[1]
        return found

    # Used by models ----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.parameters()).device

    def attach(self, engine: UpdateEngine | None, rank: int = 0) -> None:
        """Be trained by ``engine`` from now on."""
        self.engine, self.rank = engine, rank
        self._scorers.clear()

    def version(self) -> int:
        """Return a number that changes whenever the networks have moved."""
        return 0 if self.engine is None else self.engine.state.updates[self.engine.moved("reward")[0]]

    def scorer(
        self, name: str, function: Callable[[], Callable[[Tensor], Tensor]], about: Any = None, tile: int | None = None
    ) -> ReturnScorer:
        """Return the scorer of segments by a reward function, which is kept while the data and what is said ``about`` it stay.

        Args:
            name: of the function.
            function: makes it: features (n, O + A) -> (E, n).
            about: whatever it depends on beside the weights.
            tile: rows per forward pass; None for a default of the device.
        """
        key, kept = (about, id(self.source)), self._scorers.get(name)
        if kept is None or kept[0] != key:
            self._scorers.pop(name, None)  # its sums may be large
            kept = self._scorers[name] = key, ReturnScorer(function(), self.source, self.version, tile, bool(self.side))
        found: ReturnScorer = kept[1]
        return found

    def _load_from_state_dict(self, *args: Any) -> None:
        self._scorers.clear()  # their sums are those of other weights
        super()._load_from_state_dict(*args)


def held(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return a model's groups as those of the method that holds it."""
    return {
        name: replace(part, modules=tuple(f"{HELD}.{module}" for module in part.modules or (name,)))
        for name, part in parts.items()
    }


def chosen(
    given: RewardModel | Mapping[str, Any] | str | None,
    spec: Spec,
    seed: int,
    usual: type[RewardModel] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> RewardModel:
    """Return the reward model that a method is given.

    Args:
        given: a model, of which a copy is taken; ``{class_path: ..., init_args: ...}``; the name of a class; or settings of the
            ``usual`` one alone.
        spec: sizes given by the data.
        seed: the method's.
        usual: class unless told otherwise.
        defaults: settings of ``usual`` in which the method differs from that class.

    Raises:
        UserError: for an unknown class or argument.
    """
    model = copy.deepcopy(given) if isinstance(given, RewardModel) else _built(given, usual, defaults or {})
    model.spec, model.seed = dict(spec), int(seed)
    return model


def _built(given: Mapping[str, Any] | str | None, usual: type[RewardModel] | None, defaults: Mapping[str, Any]) -> RewardModel:
    """Build the model that is named, or the usual one."""
    named: dict[str, Any] = {"class_path": given} if isinstance(given, str) else {**(given or {})}
    if "class_path" in named:
        cls, settings = found(named["class_path"]), dict(named.get("init_args") or {})
        if stray := sorted(named.keys() - {"class_path", "init_args"}):
            raise UserError(f"model.init_args.reward_model has {stray[0]!r} beside class_path: put it under init_args.")
    elif usual is None:
        raise UserError("model.init_args.reward_model names no class: give {class_path: RewardEnsemble}, for instance.")
    else:
        cls, settings = usual, named
    if cls is usual:
        settings = {**defaults, **settings}
    takes = [p for each in constructors(cls) for p in signature(each).parameters.values()]
    known = {p.name for p in takes if p.kind is not p.VAR_KEYWORD} - {"self"}
    for name in settings:
        if name not in known:
            raise UserError(f"model.init_args.reward_model has no {name!r}: {nearest(name, known)}")
    return cls(**settings)


def found(class_path: str) -> type[RewardModel]:
    """Return a class of reward models by its name or full path; it is never imported because a file names it.

    Raises:
        UserError: if no imported module defines it.
    """
    from lightning_pbrl import registry  # imports this module by its name

    known = registry.classes("rewards")
    module, _, name = class_path.rpartition(".")
    if name not in known or module not in ("", known[name].__module__):
        first = f"; if {module} defines it, import that first (imports: [{module}])" if module.isprintable() and module else ""
        raise UserError(f"model.init_args.reward_model names {class_path!r:.200}: {nearest(name, known)}{first}")
    return known[name]


def described(model: RewardModel) -> dict[str, Any]:
    """Return class and settings of a model as plain types, from which :func:`chosen` builds it."""
    cls = type(model)
    ours = cls.__module__.partition(".")[0] == "lightning_pbrl"
    return {"class_path": cls.__name__ if ours else f"{cls.__module__}.{cls.__name__}", "init_args": dict(model.hparams)}
