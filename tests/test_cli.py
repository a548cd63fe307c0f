"""The command line from the shipped configs: what each verb does and leaves, and what it says to a mistaken user."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import ASK, BC, CPU, DATA, IQL, NO_INK, QUIET, REWARD, ROWS, labels, mistake
from safetensors import safe_open

from lightning_pbrl.cli import USAGE, main
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.methods.loading import load_method, read_checkpoint

pytestmark = [QUIET, NO_INK]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands of this file run: collected data and trained stages are shared."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def reward(home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        main(["fit", *REWARD, *ASK, "-c", "query/disagreement.yaml", "--run_dir=runs/reward", "--then_test"])
    return home / "runs/reward"


@pytest.fixture(scope="module")
def policy(home: Path, reward: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        main(["fit", *IQL, f"--relabel.reward={reward}/checkpoints/last.ckpt", "--run_dir=runs/policy"])
    return home / "runs/policy"


def rows(run: Path) -> list[dict[str, float]]:
    """Logged rows of the last start, cells that hold a number."""
    newest = max((run / "csv").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    with (newest / "metrics.csv").open() as file:
        return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]


# What a fit leaves -----------------------------------------------------------------------------------------------------


def test_reward_run_folder(reward: Path) -> None:
    for name in ("config.yaml", "checkpoints/last.ckpt", "labels.sqlite", "learning_curve.png", "results.json"):
        assert (reward / name).stat().st_size > 0, name
    assert list((reward / "tensorboard").glob("events*"))
    assert [(r, n) for r, n, _ in labels(reward / "labels.sqlite")] == [(i // 10, i) for i in range(20)]  # two rounds of ten
    # 3 passes over 10, then 20 labels, each one batch: 6 updates
    assert [row["step"] for row in rows(reward) if "pref/accuracy" in row][:2] == [3, 6]
    results = json.loads((reward / "results.json").read_text())
    assert results["method"] == "RewardEnsemble"
    assert results["seed"] == 0
    assert 0 <= results["metrics"]["pref/accuracy"] <= 1


def test_policy_run_folder(policy: Path) -> None:
    for name in ("config.yaml", "checkpoints/last.ckpt", "learning_curve.png"):
        assert (policy / name).stat().st_size > 0, name
    assert not (policy / "results.json").exists()  # nobody has tested it
    assert not (policy / "labels.sqlite").exists()
    evaluated = [row for row in rows(policy) if "eval/return_mean" in row]
    assert [row["step"] for row in evaluated] == [10, 20]  # the x axis is gradient updates
    assert read_checkpoint(policy / "checkpoints/last.ckpt")["global_step"] == 20


def test_a_saved_policy_acts_without_a_trainer(policy: Path) -> None:
    method = load_method(policy / "checkpoints/last.ckpt")
    obs = torch.zeros(7, 39)
    action = method.act(obs)
    assert action.shape == (7, 4)
    assert action.abs().max() <= 1
    assert not action.requires_grad
    assert torch.equal(action, method.act(obs))


def test_the_policy_follows_the_reward_it_is_given(policy: Path) -> None:
    main(["fit", "-c", str(policy / "config.yaml"), "--relabel.reward=zero", "--run_dir=runs/zero"])
    learned, zero = (read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (policy, Path("runs/zero")))
    differ = {name.split(".")[0] for name, value in learned.items() if not torch.equal(value, zero[name])}
    assert {"q", "v", "actor"} <= differ  # same seed, same data, same batches: only the reward differs
    assert "normalizer" not in differ


# The other verbs -------------------------------------------------------------------------------------------------------


def test_validate(policy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["validate", "-c", str(policy / "config.yaml"), f"--ckpt_path={policy}/checkpoints/last.ckpt", "--run_dir=runs/v"])
    assert "eval/return_mean" in capfd.readouterr().out
    last = [row["eval/return_mean"] for row in rows(policy) if "eval/return_mean" in row][-1]
    assert rows(Path("runs/v"))[-1]["eval/return_mean"] == pytest.approx(last)  # same weights, same episodes


def test_test(policy: Path) -> None:
    before = sorted((policy / "csv").iterdir())
    main(["test", "-c", str(policy / "config.yaml"), f"--ckpt_path={policy}/checkpoints/last.ckpt", "--run_dir=runs/t"])
    results = json.loads(Path("runs/t/results.json").read_text())
    assert results["episodes"] == 3
    assert set(results["metrics"]) >= {"test/return_mean", "test/success_rate"}
    assert sorted((policy / "csv").iterdir()) == before  # another run folder's logs are left alone


@pytest.mark.parametrize(("run", "column", "shape"), [("policy", "action", (ROWS, 4)), ("reward", "learned_reward", (ROWS,))])
def test_predict_writes_one_value_per_row(run: str, column: str, shape: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(run)
    out = Path(f"runs/predict_{run}")
    main(["predict", "-c", str(folder / "config.yaml"), f"--ckpt_path={folder}/checkpoints/last.ckpt", f"--run_dir={out}"])
    with safe_open(out / "predictions.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"row", column}  # a policy has no reward, a reward model no action
        assert file.get_tensor("row").tolist() == list(range(ROWS))
        values = file.get_tensor(column)
    assert tuple(values.shape) == shape
    assert values.isfinite().all()


def test_bc_from_its_file_and_then_test() -> None:
    main(["fit", *BC, "--run_dir=runs/bc", "--then_test"])
    results = json.loads(Path("runs/bc/results.json").read_text())
    assert results["method"] == "BC"
    assert results["updates"] == 20


def test_the_bar_can_be_turned_off() -> None:
    main(["fit", *BC, "--run_dir=runs/quiet", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"])
    assert Path("runs/quiet/checkpoints/last.ckpt").is_file()
    assert not Path("runs/quiet/progress.json").exists()


def test_the_saved_config_gives_the_same_run(policy: Path) -> None:
    main(["fit", "-c", str(policy / "config.yaml"), "--run_dir=runs/again"])
    first, second = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (policy, Path("runs/again")))
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    saved = [yaml.safe_load((run / "config.yaml").read_text()) for run in (policy, Path("runs/again"))]
    assert saved[1].pop("run_dir") == "runs/again"
    saved[0].pop("run_dir")
    assert saved[0] == saved[1]
    assert list(Path("runs/again/csv").iterdir())  # logs go where the new run says


def test_another_seed_gives_another_run(policy: Path) -> None:
    main(["fit", "-c", str(policy / "config.yaml"), "--run_dir=runs/seed3", "--seed_everything=3"])
    saved = read_checkpoint("runs/seed3/checkpoints/last.ckpt")
    assert saved["hyper_parameters"]["seed"] == 3
    first = read_checkpoint(policy / "checkpoints/last.ckpt")
    assert any(not torch.equal(first["state_dict"][name], value) for name, value in saved["state_dict"].items())


def test_resume_goes_on_from_the_last_round(capfd: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BC, "--run_dir=runs/whole"])
    main(["fit", *BC, "--run_dir=runs/parts", "--trainer.max_epochs=1", "--resume"])  # nothing there yet: starts
    assert read_checkpoint("runs/parts/checkpoints/last.ckpt")["global_step"] == 10
    capfd.readouterr()
    main(["fit", *BC, "--run_dir=runs/parts", "--resume"])
    assert "round 0" not in capfd.readouterr().out
    whole, parts = (read_checkpoint(f"runs/{name}/checkpoints/last.ckpt") for name in ("whole", "parts"))
    assert parts["global_step"] == 20
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name
    main(["fit", *BC, "--run_dir=runs/parts", "--resume"])  # finished: nothing left to do
    assert read_checkpoint("runs/parts/checkpoints/last.ckpt")["global_step"] == 20


# A folder belongs to one run ---------------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_of_a_fit(policy: Path, reward: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in policy.rglob("*") if path.name != "lock.json"}
    again = ["fit", "-c", str(policy / "config.yaml")]
    sentence = mistake(capfd, *again)
    assert sentence.startswith(f"The run folder {Path('runs/policy')} already holds a fit (of ")
    assert "set resume to go on with it, or set overwrite to begin anew" in sentence
    assert mistake(capfd, *again, "--resume", "--model.init_args.lr=0.01") == (
        "The run in runs/policy was made with model.init_args.lr=0.0003, and this asks for 0.01: a run goes on with the settings "
        "it has; set model.init_args.lr back, or start a new run in another folder (run_dir)."
    )
    other = reward / "checkpoints/last.ckpt"
    assert mistake(capfd, "test", "-c", str(reward / "config.yaml"), f"--ckpt_path={other}", "--run_dir=runs/policy") == (
        f"The run folder runs/policy belongs to a fit, and ckpt_path names the checkpoint of another run, {other}: choose "
        "another run_dir for what test writes."
    )
    assert {path: path.stat().st_mtime_ns for path in policy.rglob("*") if path.name != "lock.json"} == before


def test_beginning_anew_leaves_nothing_of_the_run_before() -> None:
    main(["fit", *BC, "--run_dir=runs/twice", "--then_test"])
    main(["fit", *BC, "--run_dir=runs/twice", "--model.init_args.updates=10", "--overwrite"])
    assert not Path("runs/twice/results.json").exists()
    assert len(list(Path("runs/twice/csv").iterdir())) == 1
    config = yaml.safe_load(Path("runs/twice/config.yaml").read_text())
    assert (config["model"]["init_args"]["updates"], config["overwrite"]) == (10, False)
    inputs = json.loads(Path("runs/twice/inputs.json").read_text())
    assert [Path(name).suffix for name in inputs] == [".safetensors"]  # the data it collected before


def content(run: Path) -> dict[Path, bytes]:
    """Every file of a run folder but its lock, and what the file holds."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock.json"}


def test_a_run_is_lost_only_when_the_next_one_trains(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a bad argument nor what is found when data and store have been opened and loggers have begun costs it."""
    run, anew = Path("runs/kept"), [*REWARD, *ASK, "--run_dir=runs/kept", "--overwrite"]
    main(["fit", *REWARD, *ASK, "--run_dir=runs/kept", "--then_test"])
    told = [line.strip("│ ").split("│") for line in capfd.readouterr().out.splitlines() if line.startswith("│ ")]
    assert ["how many", "20 in 2 rounds: 10; 10"] in [[cell.strip() for cell in line] for line in told]  # a fit tells its plan
    before = content(run)
    assert "got lr=-1.0" in mistake(capfd, "fit", *anew, "--model.init_args.lr=-1")
    assert content(run) == before
    assert mistake(capfd, "fit", *anew, "--ckpt_path=runs/kept/checkpoints/last.ckpt") == (
        "overwrite would lose ckpt_path, runs/kept/checkpoints/last.ckpt, with the run that it belongs to: choose another "
        "run_dir."
    )
    assert content(run) == before
    assert "asked with another teacher" in mistake(capfd, "fit", *anew, "-c", "teacher/mistake.yaml")  # says the label store
    assert content(run) == before
    main(["fit", *anew, "--model.init_args.lr=0.001"])
    assert not (run / "results.json").exists()
    assert not list(run.glob(".*"))


def test_more_updates_than_the_run_was_made_with() -> None:
    main(["fit", *BC, "--run_dir=runs/more", "--model.init_args.updates=10", "--then_test"])
    main(["fit", *BC, "--run_dir=runs/more", "--resume"])  # no longer tested
    assert read_checkpoint("runs/more/checkpoints/last.ckpt")["global_step"] == 20
    assert yaml.safe_load(Path("runs/more/config.yaml").read_text())["model"]["init_args"]["updates"] == 20
    assert not Path("runs/more/results.json").exists()


# Mistakes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fitt"], ["'fitt'", "did you mean fit"]),
        (["fit", *DATA, "--model=IQLL"], ["'IQLL'", "did you mean IQL"]),
        (["fit", *REWARD, *ASK, "--ask.query=DisagrementQuery"], ["ask.query", "DisagreementQuery"]),
        (["fit", *BC, "--model.init_args.updats=3"], ["updats"]),
        (["fit", *BC, "--modl=3"], ["--modl=3"]),
        (["fit", *BC, "--model.init_args.updates=many"], ["updates", "many"]),
        (["fit", *DATA], ["model is missing"]),
        (["fit", *BC, "--data.init_args.task=drawer-opn"], ["'drawer-opn'", "drawer-open"]),
        (["fit", "-c", "model/iqll.yaml"], ["model/iqll.yaml", "model/iql.yaml"]),
        (["fit", *BC, "--run_dir=a_file/run"], ["a_file/run", "cannot be written", "run_dir"]),
        (["test", *BC, "--ckpt_path=nowhere.ckpt"], ["nowhere.ckpt", "that a fit has written"]),
        (["test", *BC], ["ckpt_path"]),
        (["test", *BC, "--ckpt_path=a_file"], ["a_file"]),
        (["test", *BC, "--ckpt_path=half.ckpt"], ["half.ckpt", "damaged"]),
        (["fit", *REWARD, "-c", "teacher/oracle.yaml", "--ask.budget=9", "--ask.per_round=10"], ["ask.budget is 9"]),
        (["fit", *REWARD, "--ask.budget=20", "--ask.per_round=10"], ["ask.teacher"]),
        (["fit", *IQL], ["relabel.reward"]),
        (["fit", *IQL, *ASK, "--relabel.reward=true"], ["IQL", "ask.budget"]),
        (["fit", *IQL, "--relabel.reward=nowhere.ckpt"], ["nowhere.ckpt"]),
        (["fit", *REWARD, *ASK, "--model.init_args.replicas=2"], ["RewardEnsemble", "--seeds"]),
        (["fit", "-c", "data/lire/button-press-topdown.yaml", "-c", "model/bc.yaml", *CPU], ["button-press-topdown-v3"]),
        (["collect", "-c", "data/lire/button-press-topdown.yaml"], ["CollectedDataModule"]),
        (["list", "methds"], ["methds", "methods"]),
        (["plot", "nowhere"], ["nowhere"]),
        (["run"], ["study"]),
    ],
    ids=lambda value: None if isinstance(value, list) and value[0] not in ("fit", "test") else "",
)
def test_mistakes(args: list[str], words: list[str], capfd: pytest.CaptureFixture[str], policy: Path) -> None:
    Path("a_file").write_text("text")
    Path("half.ckpt").write_bytes((policy / "checkpoints/last.ckpt").read_bytes()[:5000])
    sentence = mistake(capfd, *args)
    for word in words:
        assert word in sentence


def test_labels_of_another_data_set(reward: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = f"--ask.store={reward}/labels.sqlite"
    sentence = mistake(capfd, "fit", *REWARD, *ASK, store, "--data.init_args.episodes=5", "--run_dir=runs/other")
    assert "fingerprint" in sentence
    assert len(labels(reward / "labels.sqlite")) == 20  # nothing was lost


def test_a_checkpoint_of_another_method(reward: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "RewardEnsemble" in mistake(capfd, "test", *BC, f"--ckpt_path={reward}/checkpoints/last.ckpt")


def test_debug_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *BC, "--data.init_args.task=drawer-opn", "--debug"])
    err = capfd.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("Traceback")
    assert err.rstrip().splitlines()[-1].startswith("error: Meta-World has no task 'drawer-opn'")


def test_our_own_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: list[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lightning_pbrl.commands.list_command", broken)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


# The small commands ----------------------------------------------------------------------------------------------------


def test_help_and_version(capfd: pytest.CaptureFixture[str]) -> None:
    main([])
    main(["--version"])
    assert capfd.readouterr().out == f"{USAGE}\n0.1.0\n"


def test_list(capfd: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    everything = capfd.readouterr().out
    for name in ("IQL", "BC", "RewardEnsemble", "SimulatedTeacher", "SkipTeacher", "DisagreementQuery", "LiREDataModule"):
        assert name in everything
    assert "SuccessExamples" in everything
    main(["list", "teachers"])
    teachers = capfd.readouterr().out
    assert "SkipTeacher" in teachers
    assert "DisagreementQuery" not in teachers


def test_collect_stops_where_the_simulator_breaks(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make = MetaWorld.make

    def broken(self: MetaWorld, render: bool = False) -> Any:
        env = make(self, render)
        step = env.step
        env.step = lambda action: (lambda obs, reward, *rest: (obs, math.nan, *rest))(*step(action))
        return env

    monkeypatch.setattr(MetaWorld, "make", broken)
    data = [arg for arg in DATA if arg not in CPU]
    sentence = mistake(capfd, "collect", *data, "--data.init_args.cache_dir=broken")
    assert re.fullmatch(
        r"\S+ gave the reward nan at step 1 of the episode with reset seed \d+: the environment is at fault and not the learner, "
        r"so repair it, or let it end the episode \(terminated\) before it diverges\.",
        sentence,
    )
    assert not list(Path("broken").rglob("*.safetensors"))


def test_collect_describes_and_reuses(capfd: pytest.CaptureFixture[str]) -> None:
    data = [arg for arg in DATA if arg not in CPU]
    main(["collect", *data, "--data.init_args.cache_dir=collected"])
    first = capfd.readouterr().out
    (file,) = Path("collected").glob("*.safetensors")
    assert file.name in first.replace("\n", "")
    assert str(ROWS) in first
    written = file.stat().st_mtime_ns
    main(["collect", *data, "--data.init_args.cache_dir=collected"])
    assert file.stat().st_mtime_ns == written
    assert "fingerprint" in capfd.readouterr().out


def test_plot(
    policy: Path, no_ink: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", no_ink)
    main(["plot", str(policy), "--metric=eval/return_mean", f"--out={tmp_path}/curve.png"])
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"
    assert "curve.png" in capfd.readouterr().out
    assert "eval/return_mean" in mistake(capfd, "plot", str(policy), "--metric=eval/retrun_mean", f"--out={tmp_path}/b.png")
