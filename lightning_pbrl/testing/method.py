"""Checks of a method: it learns, its numbers depend on nothing but their inputs, it resumes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.settings import kinds_of
from lightning_pbrl.testing import toys

SMALL: dict[str, Any] = {
    "hidden": [16, 16],
    "updates": 100,
    "eval_interval": 40,
    "batch_size": 16,
    "epochs": 6,
    "ensemble_size": 2,
    "stop_accuracy": 1.0,
    "block": 7,
    "env_steps": 100,
    "seed_steps": 20,
    "round_steps": 40,
    "explore_steps": 20,
}
"""Settings of a fit of about a second; a method takes those that it has."""
ROUNDING = 2e-4
"""Largest difference of a weight between replicas side by side and alone, after a round of such a fit."""
Callbacks = Callable[[], list[pl.Callback]]


def check_method(
    cls: type[Method],
    data: Callable[[], FeedbackDataModule] | None = None,
    callbacks: Callbacks | None = None,
    **settings: Any,
) -> None:
    """Check a method, in about 20 s for a small one.

    Args:
        cls: method class.
        data: makes the data module that it learns from; a toy problem by default.
        callbacks: make the callbacks of a fit, such as a teacher; by default those that its ``needs`` ask for.
        **settings: arguments of the method; by default those of :data:`SMALL` that it has.

    Raises:
        AssertionError: for the first failed check, in one sentence.
        UserError: if a fit itself refuses the method.
    """
    with tempfile.TemporaryDirectory() as folder:
        check = MethodCheck(cls, Path(folder), data, callbacks, **settings)
        for name in MethodCheck.EVERY:
            getattr(check, name)()


class MethodCheck:
    """Checks of :func:`check_method`, one by one; they share their fits.

    Args:
        cls: method class.
        folder: folder of the runs.
        data: as for :func:`check_method`.
        callbacks: as for :func:`check_method`.
        **settings: as for :func:`check_method`.
    """

    EVERY = (
        "is_built_from_its_seed",
        "learns",
        "moves_what_it_says",
        "acts_or_rewards",
        "does_not_depend_on_the_block",
        "resumes",
        "loads",
        "reads_no_true_reward",
        "does_not_wait_for_the_device",
        "has_replicas",
    )

    def __init__(
        self,
        cls: type[Method],
        folder: Path,
        data: Callable[[], FeedbackDataModule] | None = None,
        callbacks: Callbacks | None = None,
        **settings: Any,
    ) -> None:
        self.cls, self.folder, self.name = cls, folder, cls.__name__
        self.data = data or (lambda: toys.data_for(cls))
        self.callbacks = callbacks or (lambda: toys.callbacks_for(cls))
        known = kinds_of(cls)  # type: ignore[arg-type]
        self.settings = {**{key: value for key, value in SMALL.items() if key in known}, **settings}
        self.has_dropout = "dropout" in known
        self._straight: Method | None = None

    def new(self, **changes: Any) -> Method:
        """Return the method, not built yet."""
        return self.cls(self.data().spec, **{**self.settings, **changes})

    def fit(
        self,
        folder: str,
        resume: bool = False,
        around: Sequence[pl.Callback] | None = None,
        data: FeedbackDataModule | None = None,
        trainer: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Method:
        """Fit the method in a folder of that name; with ``resume`` from the last checkpoint there."""
        data = data or self.data()
        method = self.cls(data.spec, **{**self.settings, **changes})
        path = self.folder / folder
        last = path / "checkpoints" / "last.ckpt"
        around = self.callbacks() if around is None else list(around)
        toys.make_trainer(path, around, **(trainer or {})).fit(method, data, ckpt_path=last if resume else None)
        return method

    @property
    def straight(self) -> Method:
        """Method after a plain fit, done once."""
        if self._straight is None:
            self._straight = self.fit("straight")
        return self._straight

    # Checks --------------------------------------------------------------------------------------------------------------

    def is_built_from_its_seed(self) -> None:
        """Check that equal seeds build equal networks, whatever random numbers were drawn before."""
        built = []
        for number in range(2):
            torch.manual_seed(number)
            method = self.new()
            method.configure_model()
            built.append(method)
        one, two = (dict(method.named_parameters()) for method in built)
        expect(bool(one) or not self.cls.population, f"{self.name} has no parameter after build(): make its networks there.")
        different = [key for key, value in one.items() if not torch.equal(value, two[key])]
        expect(
            not different,
            f"{self.name}'s {first(different)} differs between two builds with one seed: draw initial weights in build() from "
            "PyTorch's own generator, which is seeded around it.",
        )

    def learns(self) -> None:
        """Check that a fit ends by itself, has made updates, and leaves finite numbers."""
        method = self.straight
        done = sum(method.running.updates.values())
        expect(done > 0, f"{self.name} ended without an update: let plan() return a Phase with a program and updates.")
        expect(method.finished, f"{self.name}'s fit ended and is_finished() is False.")
        bad = [key for key, value in method.state_dict().items() if value.is_floating_point() and value.isnan().any()]
        expect(not bad, f"{self.name}'s {first(bad)} is NaN after {done} updates.")

    def moves_what_it_says(self) -> None:
        """Check that one more update of each program moves its groups and their targets, and nothing else."""
        method, state = self.straight, self.straight.running.state
        for program in method.running.programs:
            for counts in (method.running.updates, state.updates):  # ended schedules would keep their groups from moving
                counts.update(dict.fromkeys(counts, 10))
            if not self.runnable(method, program):
                continue
            before = {key: value.clone() for key, value in method.state_dict().items()}
            storage = {key: rows.clone() for key, rows in state.storage.items()}
            method.running.run(program, 1)
            moved = set(method.running.moved(program))
            still = [group for group in moved if torch.equal(state.storage[group], storage[group])]
            expect(
                not still,
                f"{self.name}'s program {program!r} does not move {first(still)!r}: return a loss under that name, or leave it "
                "out of moves.",
            )
            for target, about in state.targets.items():
                if about.source in moved:
                    wanted = torch.lerp(storage[target], state.storage[about.source], about.polyak)
                    expect(torch.equal(state.storage[target], wanted), f"{self.name}'s {target} did not follow {about.source}.")
                    moved.add(target)
            own = {parameter for part in moved for parameter in state.names[part]}
            other = [key for key, value in method.named_parameters() if key not in own and not _equal(value, before[key])]
            expect(not other, f"{self.name}'s program {program!r} changes {first(other)}, which is none of what it moves.")

    @staticmethod
    def runnable(method: Method, program: str) -> bool:
        """Return True if a program's inputs exist after a fit."""
        try:
            drawn = method.running.drawn(program, 1, 0)
            method.running.programs[program].gather(drawn[0])
        except (AttributeError, IndexError, RuntimeError):
            return False
        return True

    def acts_or_rewards(self) -> None:
        """Check that a policy's actions lie in [-1, 1] and a reward is finite, each for every row."""
        method = self.straight
        spec = method.spec
        obs = 100 * torch.randn(8, spec["obs_dim"], generator=torch.Generator().manual_seed(0))
        acts, rewards = method.acts, method.rewards
        expect(acts or rewards, f"{self.name} has neither act nor reward: write one of them.")
        for sample in (False, True) if acts else ():
            action = method.act(obs, sample=sample)
            shape = (8, spec["action_dim"])
            expect(action.shape == shape, f"{self.name}.act gives {tuple(action.shape)} for 8 observations: give {shape}.")
            expect(
                bool(torch.isfinite(action).all() and action.abs().max() <= 1),
                f"{self.name}.act leaves [-1, 1]: bound its actions.",
            )
        if rewards:
            reward = method.reward(torch.cat([obs, torch.zeros(8, spec["action_dim"])], 1))
            expect(
                reward.dim() == 2 and reward.shape[1] == 8,
                f"{self.name}.reward gives {tuple(reward.shape)} for 8 steps: give one row per member, (E, 8).",
            )
            expect(bool(torch.isfinite(reward).all()), f"{self.name}.reward is not finite.")

    def does_not_depend_on_the_block(self) -> None:
        """Check that blocks of 1, 7 and 64 updates end with the same weights, bit for bit, whatever PyTorch's generator holds."""
        for block in (1, 64):
            torch.manual_seed(block)
            method = self.fit(f"block {block}", block=block)
            self.same(method, f"depend on the setting block ({self.settings.get('block', 64)} and {block} were compared)")

    def same(self, method: Method, why: str) -> None:
        """Check that a method's weights equal those of the plain fit; ``why`` goes into the sentence."""
        straight = dict(self._fitted_weights())
        different = [key for key, value in method.state_dict().items() if not _equal(value, straight[key])]
        expect(
            not different,
            f"{self.name}'s weights {why}, first {first(different)}: let all random numbers of an update be draws of its "
            "program, and keep nothing between updates.",
        )

    def _fitted_weights(self) -> dict[str, Tensor]:
        """Return the weights that the plain fit ended with; later checks run its engine further."""
        _ = self.straight
        return load_method(self.folder / "straight" / "checkpoints" / "last.ckpt").state_dict()

    def resumes(self) -> None:
        """Check that a fit that stops after its first round and goes on ends with the weights of one that does not stop."""
        self.fit("resumed", trainer={"max_epochs": 1})
        method = self.fit("resumed", resume=True)
        self.same(method, "are others when a fit stops after a round and goes on")

    def loads(self) -> None:
        """Check that a checkpoint holds tensors and plain types alone, and loads as a method with the same weights."""
        _ = self.straight
        path = self.folder / "straight" / "checkpoints" / "last.ckpt"
        torch.load(path, weights_only=True)
        loaded = load_method(path)
        twin = self.new()
        twin.configure_model()
        expect(loaded.state_dict().keys() == twin.state_dict().keys(), f"{self.name} has other weights when it is loaded.")

    def reads_no_true_reward(self) -> None:
        """Check that a policy learner is the same when every true reward is NaN."""
        if self.cls.needs & {"labels", "env"} or self.cls.act is Method.act:
            return
        fits = []
        for known in (True, False):
            data = toys.ToyData(true_reward=known, examples=12)
            around = [RelabelRewards("zero")]
            fits.append(self.fit(f"true reward {known}", around=around, data=data, trainer={"max_epochs": 1}))
        one, two = (fit.state_dict() for fit in fits)
        expect(
            all(_equal(value, two[key]) for key, value in one.items()),
            f"{self.name} reads the true reward of the data: read the column learned_reward.",
        )

    def does_not_wait_for_the_device(self) -> None:
        """Check that no loss asks for the value of a tensor, which stalls a GPU and cannot be captured in a graph."""
        method = self.straight

        def forbidden(tensor: Tensor, *args: object) -> Any:
            raise AssertionError(
                f"{self.name} asks for the value of a tensor in an update, which makes a GPU wait: keep to tensors, with "
                "torch.where in place of if."
            )

        names: Sequence[str] = ("item", "tolist", "numpy", "__float__", "__int__", "__bool__")
        for program in method.running.programs:
            if self.runnable(method, program):
                replaced: dict[str, Any] = dict.fromkeys(names, forbidden)
                with mock.patch.multiple(Tensor, **replaced):
                    method.running.run(program, 2)

    def has_replicas(self) -> None:
        """Check that replica k is seed + k alone: bit for bit one after the other, to rounding side by side."""
        if not self.cls.population:
            return
        two: dict[str, Any] = {"replicas": 2, "seed": 4, **({"dropout": 0.0} if self.has_dropout else {})}
        given = "labels" in self.cls.needs  # seeds in one process cannot ask, so answers come with the data

        def fit(folder: str, **changes: Any) -> Method:
            further: dict[str, Any] = {"around": [AskTeacher()], "data": toys.AnsweredToy()} if given else {}
            return self.fit(folder, trainer={"max_epochs": 1}, **{**further, **two, **changes})

        loop, batched = fit("loop", layout="loop"), fit("batched", layout="batched")
        for k in range(2):
            alone = fit(f"alone {k}", seed=4 + k, replicas=1).running.state.weights(0)
            for key, value in alone.items():
                expect(
                    torch.equal(loop.running.state.weights(k)[key], value),
                    f"{self.name}'s replica {k} is not seed {4 + k} alone, first in {key}: keep what belongs to a seed in "
                    "parameters of its groups(), and random numbers in draws.",
                )
                far = float((batched.running.state.weights(k)[key] - value).abs().max()) if value.numel() else 0.0
                expect(
                    far <= ROUNDING and math.isfinite(far),
                    f"{self.name}'s replica {k} side by side with others differs by {far:.1e} in {key}: write gather, view and "
                    "losses for one seed, without looking at sizes that another axis changes.",
                )


def expect(right: bool, sentence: str) -> None:
    """Raise an AssertionError that says ``sentence`` unless ``right``."""
    if not right:
        raise AssertionError(sentence)


def first(names: Sequence[str]) -> str:
    """Return the first name, for a sentence; empty if there is none."""
    return names[0] if names else ""


def _equal(one: Tensor, two: Tensor) -> bool:
    """Return True if both are equal bit for bit, NaN equal to NaN."""
    return one.shape == two.shape and torch.equal(one.nan_to_num(nan=0.123), two.nan_to_num(nan=0.123))
