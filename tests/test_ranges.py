"""Every number that a config can set has a range, and what lies outside is refused in one sentence, however it comes."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from typing import Any, Literal

import pytest
import pytorch_lightning as pl
from command_line import QUIET, REWARD, mistake
from toys import SPEC, ToyData

import lightning_pbrl.callbacks
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.ranges import ANY, COUNT, PART, POSITIVE, POSITIVE_SHARE, RANGES, SEED, SHARE, Range
from lightning_pbrl.registry import PACKAGES, classes
from lightning_pbrl.settings import Checked, check_settings, is_number, kinds_of
from lightning_pbrl.teachers.simulated import SimulatedTeacher


def callbacks() -> dict[str, type]:
    modules = [name for _, name, _ in pkgutil.iter_modules(lightning_pbrl.callbacks.__path__)]
    found = [vars(importlib.import_module(f"lightning_pbrl.callbacks.{name}")) for name in modules]
    kinds = [kind for names in found for kind in names.values() if isinstance(kind, type) and issubclass(kind, pl.Callback)]
    return {kind.__name__: kind for kind in kinds if kind.__module__.startswith("lightning_pbrl.")}


CLASSES: dict[str, Any] = {**{name: kind for package in PACKAGES for name, kind in classes(package).items()}, **callbacks()}
OURS = {name: kind for name, kind in CLASSES.items() if kind.__module__.startswith("lightning_pbrl.")}
NUMBERS = [(name, key) for name, kind in OURS.items() for key, kinds in kinds_of(kind).items() if is_number(kinds)]


def test_there_are_numbers_to_check() -> None:
    assert len(OURS) > 60 and len(NUMBERS) > 500
    assert {("BC", "lr"), ("PEBBLE", "discount"), ("AskTeacher", "budget"), ("Pixels", "size")} <= set(NUMBERS)


@pytest.mark.parametrize("name", OURS)
def test_every_number_has_a_range_and_what_is_outside_is_refused(name: str) -> None:
    """Just beyond each finite end, and NaN and both infinities, which no range holds."""
    owner = OURS[name]
    assert issubclass(owner, Checked)
    for key in [key for other, key in NUMBERS if other == name]:
        allowed = owner.ranges[key]
        step = 1 if float not in kinds_of(owner)[key] else 1e-6
        outside = [math.nan, math.inf, -math.inf]
        outside += [] if math.isinf(allowed.low) else [allowed.low if allowed.above else allowed.low - step]
        outside += [] if math.isinf(allowed.high) else [allowed.high if allowed.below else allowed.high + step]
        for number in outside:
            value: Any = number if not math.isfinite(number) or float in kinds_of(owner)[key] else int(number)
            value = value if {int, float} & {*kinds_of(owner)[key]} else [value]
            with pytest.raises(UserError) as refused:
                check_settings(owner, {key: value})
            assert str(refused.value) == f"{name} got {key}={value!r}: give a {'finite ' * (allowed == ANY)}number{allowed}."


@pytest.mark.parametrize("name", OURS)
def test_defaults_are_legal(name: str) -> None:
    for base in OURS[name].__mro__:
        if "__init__" in vars(base) and base.__module__.startswith("lightning_pbrl."):
            defaults = {key: p.default for key, p in inspect.signature(vars(base)["__init__"]).parameters.items()}
            check_settings(OURS[name], {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty})


def test_the_table_names_arguments_that_exist() -> None:
    assert set(RANGES) == {key for _, key in NUMBERS} & set(RANGES)


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (COUNT, [1, 5], [0, -1], " of at least 1"),
        (POSITIVE, [1e-9, 7], [0, -1e-9], " above 0"),
        (SHARE, [0, 1], [-1e-9, 1 + 1e-9], " between 0 and 1"),
        (POSITIVE_SHARE, [1e-9, 1], [0, 1.5], " above 0 and at most 1"),
        (PART, [0, 0.999], [1, -0.1], " of at least 0 and below 1"),
        (Range(0, 1, above=True, below=True), [0.5], [0, 1], " above 0 and below 1"),
        (SEED, [0, 4294967295], [-1, 4294967296], " between 0 and 4294967295"),
        (ANY, [-1e300, 1e300], [], ""),
    ],
)
def test_a_range_in_words(allowed: Range, inside: list[float], outside: list[float], words: str) -> None:
    assert str(allowed) == words
    assert all(map(allowed.holds, inside)) and not any(map(allowed.holds, outside))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: BC(SPEC, lr=-1), "BC got lr=-1: give a number above 0."),
        (lambda: BC(SPEC, batch_size=0), "BC got batch_size=0: give a number of at least 1."),
        (lambda: BC(SPEC, batch_size=True), "BC got batch_size=True: give a number."),
        (lambda: BC(SPEC, hidden=[64, 0]), "BC got hidden=[64, 0]: give a number of at least 1."),
        (lambda: BC(SPEC, hidden=64), "BC got hidden=64: give a list."),
        (lambda: BC(SPEC, hidden=[64, 1.5]), "BC got hidden=[64, 1.5]: give a whole number."),
        (lambda: BC(SPEC, seed=2**63), f"BC got seed={2**63}: give a number between 0 and 4294967295."),
        (lambda: IQL(SPEC, discount=1.5), "IQL got discount=1.5: give a number between 0 and 1."),
        (lambda: IQL(SPEC, polyak=2), "IQL got polyak=2: give a number above 0 and at most 1."),
        (lambda: IQL(SPEC, expectile=1.5), "IQL got expectile=1.5: give a number above 0 and below 1."),
        (lambda: IQL(SPEC, temperature=math.nan), "IQL got temperature=nan: give a number above 0."),
        (lambda: RewardEnsemble(SPEC, ensemble_size=0), "RewardEnsemble got ensemble_size=0: give a number of at least 1."),
        (lambda: SimulatedTeacher(math.inf), "SimulatedTeacher got beta=inf: give a finite number."),
        (lambda: AskTeacher(budget=-1), "AskTeacher got budget=-1: give a number of at least 0."),
        (lambda: ToyData(num_envs=0), "ToyData got num_envs=0: give a number of at least 1."),
    ],
)
def test_numbers_outside_are_refused_from_python(build: Any, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        build()
    assert str(refused.value) == sentence


def test_the_reward_model_of_a_method_is_checked_too() -> None:
    with pytest.raises(UserError) as refused:
        PEBBLE(SPEC, reward_model={"ensemble_size": 0}).configure_model()
    assert str(refused.value) == "RewardEnsemble got ensemble_size=0: give a number of at least 1."


def test_an_outside_method_names_the_ranges_of_its_own_numbers() -> None:
    """What the library means by a name holds for it without a word."""
    before = dict(Method.registry)
    try:

        class Mine(BC, ranges={"rate": SHARE}):
            def __init__(
                self, spec: Any, rate: float = 0.5, mode: Literal["a"] | float = "a", free: float = 0, **bc: Any
            ) -> None:
                super().__init__(spec, **bc)

        assert Mine.ranges["rate"] == SHARE and "rate" not in BC.ranges
        for settings, sentence in [
            ({"rate": 2}, "Mine got rate=2: give a number between 0 and 1."),
            ({"lr": 0}, "Mine got lr=0: give a number above 0."),
            ({"free": math.nan}, "Mine got free=nan: give a finite number."),
        ]:
            with pytest.raises(UserError) as refused:
                Mine(SPEC, **settings)
            assert str(refused.value) == sentence
        assert Mine(SPEC, 0.25, 3.5, -1e9, lr=1e-3).hparams.rate == 0.25
        assert Mine(SPEC, free=math.inf).hparams.free == math.inf  # its author may mean "never"
    finally:
        Method.registry.clear()
        Method.registry.update(before)


def test_a_class_without_a_constructor_takes_no_argument() -> None:
    class Plain(Checked):
        pass

    with pytest.raises(TypeError):
        Plain(5)  # type: ignore[call-arg]


@QUIET
@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--model.init_args.lr=-1", "RewardEnsemble got lr=-1.0: give a number above 0."),
        ("--ask.budget=-5", "AskTeacher got budget=-5: give a number of at least 0."),
    ],
)
def test_numbers_outside_are_refused_on_the_command_line(
    argument: str, sentence: str, capfd: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    assert mistake(capfd, "fit", *REWARD, f"--run_dir={tmp_path}", argument) == sentence
