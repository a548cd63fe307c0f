"""How the command line puts configs together: overlays, links, every shipped file, loggers."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from command_line import BC, CPU, DATA, DATA_ARGS, IQL, NO_INK, QUIET, REWARD, SHORT, mistake
from format_files import d3rlpy_episodes, imitation_row, write_d3rlpy, write_imitation, write_replay
from lerobot_files import episodes, write_lerobot
from lightning_utilities.core.imports import RequirementCache
from picture_toys import ColourMeans, dot_data
from preference_files import write_pairs
from safetensors.torch import save_file

from lightning_pbrl.cli import main
from lightning_pbrl.configs import names, packaged_config, read_config
from lightning_pbrl.data import archive
from lightning_pbrl.methods.loading import read_checkpoint
from lightning_pbrl.train_cli import train_cli

pytestmark = [QUIET, NO_INK]


@pytest.fixture(scope="module", autouse=True)
def _at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All commands of this file run in one folder: collected data are shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("home"))
        yield


NAMES = names()


def printed(capfd: pytest.CaptureFixture[str], *args: str) -> dict:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*args, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capfd.readouterr().out)


def test_print_config_short_names_and_overlays(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overlays = ["-c", "teacher/mistake.yaml", "-c", "query/uniform.yaml"]
    config = printed(capfd, "fit", *REWARD, *overlays, "--ask.query=KCenterQuery", "--ask.budget=30", "--ask.per_round=15")
    assert config["model"]["class_path"] == "lightning_pbrl.RewardEnsemble"  # short name in the file
    assert config["ask"]["teacher"]["init_args"]["eps_mistake"] == 0.1  # from its overlay
    assert config["ask"]["query"]["class_path"].endswith(".KCenterQuery")  # the command line wins
    assert (config["ask"]["budget"], config["ask"]["per_round"]) == (30, 15)
    assert config["data"]["init_args"]["segment_length"] == 10
    assert "optimizer" in config
    assert not Path("runs/fit").exists()  # printing makes nothing


def test_later_files_win(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {init_args: {expectile: 0.9}}\n")
    model = printed(capfd, "fit", *IQL, "-c", str(tmp_path / "mine.yaml"))["model"]
    assert model["init_args"]["expectile"] == 0.9
    assert model["init_args"]["temperature"] == 3.0  # the rest of the first file stands


def test_interpolation_resolves_after_overrides(tmp_path: Path) -> None:
    (tmp_path / "linked.yaml").write_text(
        "model: {class_path: BC, init_args: {lr: 0.01, batch_size: '${data.init_args.segment_length}'}}\n"
        "relabel: {normalize: true}\nvideo: {seed: '${model.init_args.updates}'}\n"
    )
    overlay = ["-c", str(tmp_path / "linked.yaml")]
    main(["fit", *DATA, *overlay, *SHORT, "--data.init_args.segment_length=7", "--run_dir=runs/linked"])
    config = yaml.safe_load(Path("runs/linked/config.yaml").read_text())
    assert config["model"]["init_args"]["batch_size"] == 7  # not the file's 50, nor an unresolved ${...}
    assert config["video"]["seed"] == 20
    assert read_checkpoint("runs/linked/checkpoints/last.ckpt")["hyper_parameters"]["batch_size"] == 7


def test_seed_and_spec_are_linked() -> None:
    cli = train_cli([*BC, "--seed_everything=11"], run=False)
    assert cli.model.seed == 11
    assert cli.model.spec == {"obs_dim": 39, "action_dim": 4, "horizon": DATA_ARGS["horizon"]}


def test_the_next_command_line_knows_nothing_of_the_last() -> None:
    """Its parser is kept, with neither the values nor the objects of a run."""
    first = train_cli([*BC, "--model.init_args.lr=0.5", *CPU], run=False)
    assert first.model.hparams["lr"] == 0.5
    method = weakref.ref(first.model)
    del first
    gc.collect()
    assert method() is None
    assert train_cli([*BC, *CPU], run=False).model.hparams["lr"] != 0.5


def test_the_packaged_name_and_a_path_are_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert packaged_config("model/iql.yaml") == packaged_config("conf/model/iql.yaml")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/iql.yaml").write_text("model: BC\n")
    assert packaged_config("model/iql.yaml") == "model/iql.yaml"  # one's own file comes first


def build(*args: str):
    return train_cli([*args, *CPU], run=False)


def write_own_runs(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Write what the configs of people's own runs read."""
    if name == "data/d3rlpy.yaml":
        monkeypatch.setenv("D3RLPY_FILE", str(write_d3rlpy(folder / "own.h5", d3rlpy_episodes([60, 60], [True, False]))))
    elif name == "data/replay.yaml":
        monkeypatch.setenv("REPLAY", str(write_replay(folder / "last.ckpt")))
    elif name == "data/imitation.yaml":
        pytest.importorskip("pyarrow", reason="the extra arrow is not installed")
        monkeypatch.setenv("IMITATION_ROOT", str(write_imitation(folder / "own", [imitation_row(60, 0), imitation_row(60, 1)])))
    elif name == "data/features.yaml":
        archive.save(dot_data(4), folder / "pictures.safetensors")
        save_file(ColourMeans().state_dict(), folder / "weights.safetensors")
        monkeypatch.setenv("PICTURES", str(folder / "pictures.safetensors"))
        monkeypatch.setenv("NETWORK", "picture_toys:ColourMeans")
        monkeypatch.setenv("WEIGHTS", str(folder / "weights.safetensors"))
    elif name == "data/lerobot.yaml":
        pytest.importorskip("pyarrow", reason="the extra lerobot is not installed")
        monkeypatch.setenv("LEROBOT_DATA", str(write_lerobot(folder / "own", episodes([60] * 4))))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("experiment/", "preset/", "sweep/"))])
def test_every_config_builds(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = name.split("/")[0]
    written = read_config(packaged_config(name))
    if kind == "data":
        write_pairs(tmp_path / "Lift/num100_q50_human_train.npz")  # without a simulator sizes are read from the file
        monkeypatch.setenv("PREFERENCES_ROOT", str(tmp_path))
        write_own_runs(name, monkeypatch, tmp_path)
        pictures = ["--model.init_args.policy=squashed"] if name.endswith("pixels.yaml") else []
        cli = build("-c", name, "-c", "model/bc.yaml", *pictures)
        assert type(cli.datamodule).__name__ == written["data"]["class_path"]
        assert cli.model.spec == cli.datamodule.spec
    elif kind == "model":
        cli = build(*DATA, "-c", name)
        assert type(cli.model).__name__ == written["model"]["class_path"]
        for key, value in written["model"].get("init_args", {}).items():
            found = cli.model.hparams[key]
            if isinstance(value, dict) and "class_path" in value:  # a part within the method, of which the parser knows more
                assert found["class_path"].endswith(value["class_path"])
                value, found = value["init_args"], {name: found["init_args"][name] for name in value["init_args"]}
            assert found == value
    elif kind in ("teacher", "query"):
        answers = [] if kind == "teacher" else ["-c", "teacher/oracle.yaml"]
        cli = build(*REWARD, *answers, "-c", name, "--ask.budget=50")
        ask = next(callback for callback in cli.trainer.callbacks if type(callback).__name__ == "AskTeacher")
        part = getattr(ask, kind)
        assert type(part).__name__ == written["ask"][kind]["class_path"]
        for key, value in written["ask"][kind].get("init_args", {}).items():
            if isinstance(value, dict) and "class_path" in value:  # a part within the part
                value = {"class": value["class_path"], **value.get("init_args", {})}
                assert value.items() <= part.describe()[key].items()
            elif value is not None:  # null follows the method
                assert {**vars(part), **part.describe()}[key] == value  # `serve` changes no answer and is not described
    else:
        assert kind in ("trainer", "debug")  # a new folder of conf/ needs a line here
        monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)  # it is imported when it logs
        cli = train_cli([*BC, "-c", name, *(CPU if name == "trainer/gpu.yaml" else [])], run=False)
        assert cli.trainer.num_devices == written["trainer"].get("devices", 1)
        assert cli.trainer.max_steps == written["trainer"].get("max_steps", -1)


class FakeRun:
    """What Lightning's logger asks of a run of W&B."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.rows, self.config = settings, [], SimpleNamespace(update=lambda *_, **__: None)

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def define_metric(self, *_: Any, **__: Any) -> None: ...


def test_another_logger_joins_the_files_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B gets every row with its count of updates; CSV and TensorBoard, which ``plot`` reads, stay. (A stand-in for wandb.)"""
    runs: list[FakeRun] = []
    package: Any = ModuleType("wandb")
    package.run, package.init = None, lambda **settings: runs.append(FakeRun(**settings)) or runs[-1]
    for name, found in {
        "wandb": package,
        "wandb.sdk.lib": SimpleNamespace(RunDisabled=FakeRun),
        "wandb.wandb_run": SimpleNamespace(Run=FakeRun),
    }.items():
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.setenv("WANDB_MODE", "")  # the logger sets it
    main(["fit", *BC, "-c", "trainer/wandb.yaml", "--run_dir=runs/watched"])
    (run,) = runs
    assert run.settings["project"] == "lightning-pbrl" and run.settings["dir"] == "runs/watched"
    assert os.environ["WANDB_MODE"] == "dryrun"
    trained = [row["trainer/global_step"] for row in run.rows if "train/actor_loss" in row]
    assert list(dict.fromkeys(trained)) == [10, 20]
    assert list(Path("runs/watched/csv").glob("version_*")) and list(Path("runs/watched/tensorboard").glob("events*"))


def test_a_logger_whose_package_is_absent(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", RequirementCache("wandb>=999"))
    sentence = mistake(capfd, "fit", *BC, "-c", "trainer/wandb.yaml", "--run_dir=runs/unwatched")
    assert "WandbLogger needs the package wandb: install it with pip install 'lightning-pbrl[wandb]'." in sentence


def test_a_csv_logger_of_ones_own_is_the_only_one() -> None:
    logger = "{class_path: CSVLogger, init_args: {save_dir: elsewhere}}"
    cli = build(*BC, f"--trainer.logger={logger}")
    assert [(type(one).__name__, one.root_dir) for one in cli.trainer.loggers] == [("CSVLogger", "elsewhere/lightning_logs")]
    assert build(*BC, "--trainer.logger=false").trainer.loggers == []


def test_a_misspelt_key_is_answered_by_its_neighbours(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def said(text: str, *args: str) -> str:
        (tmp_path / "own.yaml").write_text(text)
        return mistake(capfd, "fit", "-c", "data/metaworld.yaml", "-c", str(tmp_path / "own.yaml"), *args)

    model = "model: {class_path: BC}"
    assert said(model, "--ask.budgt=3").startswith("unrecognized arguments: --ask.budgt=3; did you mean ask.budget or")
    assert said(model, "--modl.init_args.lr=3").endswith("--modl.init_args.lr=3; did you mean model?")
    assert "'ask.budgt'; did you mean ask.budget or" in said("ask: {budgt: 3}")
    assert said("modl: {class_path: BC}").endswith("; did you mean model?")
    assert "'lrr' is not accepted" in (found := said("model: {class_path: BC, init_args: {lrr: 1}}"))
    assert "did you mean lr or" in found or found.endswith("did you mean lr?")
    assert said("model: {class_path: BC, init_arg: {lr: 1}}").endswith("did you mean init_args?")
    assert said(model, "--then_test=maybe").startswith("--then_test is a switch: write it without a value")
    assert said(model, "--run_dir=").startswith("run_dir is empty: give a folder of its own")
    assert said("").endswith("own.yaml is empty: give a mapping of keys, such as model: {class_path: BC}.")
    assert "own.yaml holds 'model'" in said("model")
    assert "own.yaml is not valid YAML" in said("model: [")
