"""``lightning_pbrl.Trainer``: a run from Python leaves what the command line leaves, and is refused where that is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from command_line import BC as BC_ARGS
from command_line import NO_INK, QUIET
from toys import SPEC, ToyData, assert_same, callbacks_for, data_for, make_trainer, read_csv
from warm import CONTEXT, PATIENCE

import lightning_pbrl
from lightning_pbrl import (
    BC,
    IQL,
    AskTeacher,
    MetaWorldDataModule,
    RelabelRewards,
    RewardEnsemble,
    SimulatedTeacher,
    Trainer,
    registry,
)
from lightning_pbrl.callbacks.progress import RoundProgress
from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.loading import read_checkpoint
from lightning_pbrl.methods.pebble import PEBBLE

pytestmark = NO_INK
LAST = "checkpoints/last.ckpt"
SMALL: dict[str, Any] = {"updates": 20, "eval_interval": 10, "hidden": (8, 8)}


def clone(**settings: Any) -> BC:
    return BC(SPEC, **{**SMALL, **settings})


def fit(folder: Path, method: Any = None, data: Any = None, **settings: Any) -> Any:
    method = clone() if method is None else method
    Trainer(folder, **{"accelerator": "cpu", **settings}).fit(method, data or ToyData())
    return method


def refused(folder: Path, method: Any = None, data: Any = None, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        fit(folder, method, data, **settings)
    return str(error.value)


# What a run leaves -----------------------------------------------------------------------------------------------------


def test_a_fit_and_a_test_leave_a_run_folder(tmp_path: Path) -> None:
    trainer, method = Trainer(tmp_path / "run", accelerator="cpu"), clone()
    trainer.fit(method, ToyData())
    (metrics,) = trainer.test(method, ToyData(), verbose=False)
    folder = tmp_path / "run"
    for name in (LAST, "config.yaml", "inputs.json", "results.json", "learning_curve.png", "lock.json"):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").glob("events*"))
    assert [row["step"] for row in read_csv(folder) if "eval/return_mean" in row] == [10, 20]
    results = json.loads((folder / "results.json").read_text())
    assert (results["method"], results["updates"]) == ("BC", 20)
    assert results["metrics"]["test/return_mean"] == pytest.approx(metrics["test/return_mean"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["class_path"] == "lightning_pbrl.methods.bc.BC"
    assert config["model"]["init_args"]["updates"] == 20
    assert "spec" not in config["model"]["init_args"]
    assert config["data"]["init_args"]["segment_length"] == 50  # a default


@QUIET
@pytest.mark.slow
def test_the_same_run_as_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, from the same arguments; and the config that Python writes is one of the command line."""
    monkeypatch.chdir(tmp_path)
    main(["fit", *BC_ARGS, "--run_dir=shell", "--then_test", "--seed_everything=3"])
    data = MetaWorldDataModule(**yaml.safe_load(Path("shell/config.yaml").read_text())["data"]["init_args"])
    method = BC(data.spec, seed=3, updates=20, eval_interval=10, hidden=[16, 16])
    trainer = Trainer("python", accelerator="cpu")
    trainer.fit(method, data)
    trainer.test(method, data, verbose=False)
    main(["fit", "-c", "python/config.yaml", "--run_dir=back", "--then_test", "--trainer.accelerator=cpu"])
    shell = read_checkpoint(Path("shell") / LAST)
    for other in ("python", "back"):
        found = read_checkpoint(Path(other) / LAST)
        assert_same(found["state_dict"], shell["state_dict"])
        assert_same(found["lightning_pbrl"]["engine"], shell["lightning_pbrl"]["engine"])
        assert_same(found["lightning_pbrl"]["torch_rng"], shell["lightning_pbrl"]["torch_rng"])
        assert json.loads(Path(other, "results.json").read_text()) == json.loads(Path("shell/results.json").read_text())


def test_without_run_dir_every_trainer_has_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [Trainer(accelerator="cpu").run_dir for _ in range(3)]
    assert len({*folders}) == 3
    assert {folder.parent for folder in folders} == {Path("runs")}
    with pytest.raises(UserError, match=r"^Several processes write to one run folder: give run_dir\.$"):
        Trainer(accelerator="cpu", devices=2)


def test_lightnings_name_of_the_folder(tmp_path: Path) -> None:
    assert Trainer(default_root_dir=tmp_path / "a", accelerator="cpu").run_dir == tmp_path / "a"
    with pytest.raises(UserError) as error:
        Trainer(tmp_path / "a", default_root_dir=tmp_path / "b")
    sentence = f"run_dir is {tmp_path}/a and default_root_dir {tmp_path}/b: a run has one folder, so leave default_root_dir out."
    assert str(error.value) == sentence


def test_callbacks_of_ones_own_take_the_place_of_the_usual_ones(tmp_path: Path) -> None:
    bar, ask = RoundProgress(name="mine"), AskTeacher(budget=0)
    trainer = Trainer(tmp_path, accelerator="cpu", callbacks=[bar, ask])
    names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
    assert len(names) == len({*names})
    assert {"RoundCheckpoint", "LearningCurve", "WriteResults", "AskTeacher", "RoundProgress"} <= {*names}
    assert bar in trainer.callbacks and ask in trainer.callbacks  # type: ignore[attr-defined]
    quiet = Trainer(tmp_path, accelerator="cpu", callbacks=bar, enable_progress_bar=False, logger=False)
    assert bar not in quiet.callbacks  # type: ignore[attr-defined]
    assert quiet.loggers == []


# A folder belongs to one run ---------------------------------------------------------------------------------------------


def test_a_second_fit_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    before = (tmp_path / LAST).read_bytes()
    sentence = refused(tmp_path)
    assert sentence.startswith(f"The run folder {tmp_path} already holds a fit (of ")
    assert sentence.endswith(
        "choose another run_dir, set resume to go on with it, or set overwrite to begin anew and lose it (answers in its label "
        "store are kept)."
    )
    assert (tmp_path / LAST).read_bytes() == before
    fit(tmp_path, clone(updates=10), overwrite=True)
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 10
    assert "give one of them" in refused(tmp_path, resume=True, overwrite=True)


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", max_epochs=1, resume=True)  # nothing there yet: begins
    assert read_checkpoint(tmp_path / "parts" / LAST)["global_step"] == 10
    config = yaml.safe_load((tmp_path / "parts/config.yaml").read_text())
    config["ask"]["first_round"] = 0  # the default once, which means the same here
    (tmp_path / "parts/config.yaml").write_text(yaml.safe_dump(config))
    resumed = fit(tmp_path / "parts", resume=True)
    assert_same(resumed.state_dict(), whole.state_dict())
    assert_same(resumed.running.state_dict(), whole.running.state_dict())


def test_a_run_goes_on_with_its_settings(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=1)
    assert refused(tmp_path, clone(lr=0.5), resume=True) == (
        f"The run in {tmp_path} was made with model.init_args.lr=0.0003, and this asks for 0.5: a run goes on with the settings "
        "it has; set model.init_args.lr back, or start a new run in another folder (run_dir)."
    )
    assert "data.init_args.episodes=20, and this asks for 15" in refused(tmp_path, data=ToyData(episodes=15), resume=True)
    assert "seed_everything=0, and this asks for 1" in refused(tmp_path, clone(seed=1), resume=True)


def test_what_a_test_writes_belongs_to_the_run(tmp_path: Path) -> None:
    fit(tmp_path / "one")
    other = fit(tmp_path / "two")
    with pytest.raises(UserError) as error:
        Trainer(tmp_path / "one", accelerator="cpu").test(other, ToyData())
    assert str(error.value) == (
        f"The run folder {tmp_path}/one belongs to a fit, and the method was not trained in it: choose another run_dir for what "
        "test writes."
    )
    loaded = lightning_pbrl.load(tmp_path / "one" / LAST)
    Trainer(tmp_path / "one", accelerator="cpu").test(loaded, ToyData(), verbose=False)
    assert json.loads((tmp_path / "one/results.json").read_text())["updates"] == 20


def test_other_modules_are_not_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lightning_pbrl.Trainer trains methods of this library and was given LightningModule:"):
        Trainer(tmp_path, accelerator="cpu").fit(pl.LightningModule(), ToyData())


class Ends(pl.Callback):
    """Sends a signal to its process in the second round."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), self.number)


def script(folder: Path, number: int) -> None:
    """Be a script that is told to end while it trains."""
    try:
        fit(folder, callbacks=Ends(number))
    except KeyboardInterrupt:
        raise SystemExit(7) from None


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 7)])
def test_a_script_that_is_told_to_end(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """SIGTERM ends it with 128 + 15; Ctrl-C is a KeyboardInterrupt, as a notebook needs it, and not Lightning's exit(1)."""
    process = CONTEXT.Process(target=script, args=(tmp_path, int(number)))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == code
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 10
    fit(tmp_path, resume=True)
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 20


# Lightning's own Trainer -----------------------------------------------------------------------------------------------------


def test_lightnings_default_length_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_pbrl.fitting.lightning_glue.LIGHTNINGS_END", 1)
    with pytest.warns(UserWarning, match=r"^The fit ended after 1 rounds, Lightning's default for max_epochs"):
        make_trainer(tmp_path / "a", max_epochs=1).fit(clone(), ToyData())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tmp_path / "b")


# Around a method -----------------------------------------------------------------------------------------------------------


def test_relabelling_says_that_it_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "a", IQL(SPEC, **SMALL), callbacks=RelabelRewards("true"))
    fit(tmp_path / "b", IQL(SPEC, **SMALL), callbacks=RelabelRewards("zero", normalize=False, bonus=0.5))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("relabel: ")]
    assert len(said) == 2
    assert said[0].endswith(", scaled to [0, 1] (normalize=True)")
    assert said[1].endswith(", [0, 0], not scaled (normalize=False), then +0.5")


@pytest.mark.parametrize(("method", "first"), [(RewardEnsemble, 0), (PEBBLE, 1)])
def test_the_first_round_that_asks(method: Any, first: int, tmp_path: Path) -> None:
    given = next(each for each in callbacks_for(method) if isinstance(each, AskTeacher))
    ask = AskTeacher(SimulatedTeacher(), budget=given.plan.budget, per_round=given.per_round)
    acting = {"env_steps": 140, "seed_steps": 20, "explore_steps": 20, "round_steps": 40, "reward_model": {"epochs": 2}}
    sizes = {"epochs": 2} if method is RewardEnsemble else acting
    data = data_for(method)
    fit(tmp_path, method(data.spec, hidden=(8, 8), **sizes), data, callbacks=ask, max_epochs=2)
    assert ask.store is not None
    assert ask.store.spent(ask.run, before_round=first) == 0
    assert ask.store.spent(ask.run, before_round=first + 1) == given.per_round


def test_the_old_name_of_the_data_modules_base() -> None:
    from lightning_pbrl.datamodules import base

    with pytest.warns(FutureWarning, match=r"^OfflineDataModule is called FeedbackDataModule now: use that name\.$"):
        assert base.OfflineDataModule is lightning_pbrl.FeedbackDataModule
    assert issubclass(ToyData, lightning_pbrl.FeedbackDataModule)


@pytest.mark.parametrize("kind", ["data", "teachers", "queries"])
def test_every_class_of_a_config_is_at_the_front_door(kind: str) -> None:
    known = {name: each for name, each in registry.classes(kind).items() if each.__module__.startswith("lightning_pbrl.")}
    assert known and {name: getattr(lightning_pbrl, name, None) for name in known} == known


def test_names_of_the_package_are_lazy() -> None:
    code = (
        "import sys, lightning_pbrl as p; assert {'Trainer', 'make', 'load', 'FeedbackDataModule'} <= set(dir(p));"
        "p.make('drawer-open-v3'); p.make('Hopper-v5'); p.make('dm_control/walker-walk');"
        "print([m for m in ('pytorch_lightning', 'mujoco', 'metaworld', 'dm_control', 'gymnasium') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
