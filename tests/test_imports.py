"""Modules of one's own: named by ``imports``, found in the working folder, hiding nothing of the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import package

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.registry import import_named, seeing_working_folder
from lightning_pbrl.same_run import imports_of
from lightning_pbrl.study.file import read_study
from lightning_pbrl.study.plan import plan, plan_jobs

MINE = """
from lightning_pbrl.methods.learn_reward import RewardEnsemble
class MyReward(RewardEnsemble):
    '''As its base.'''
"""


def test_the_working_folder_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pbrl_test_mine.py").write_text("value = 3\n")
    sys.modules.pop("pbrl_test_mine", None)
    before = list(sys.path)
    with seeing_working_folder():
        assert sys.path == [*before, str(tmp_path)]
        import_named(["pbrl_test_mine"])
        assert sys.modules.pop("pbrl_test_mine").value == 3
    assert sys.path == before


def test_a_script_called_like_a_module_of_the_standard_library(tmp_path: Path) -> None:
    """With -P, as a stage is started, and without it, as Lightning starts the further processes of a run on several devices."""
    for name in ("statistics", "random", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text('raise SystemExit("a script of the user")\n')
    for arguments in (["-P", "-m", "lightning_pbrl", "--version"], ["-m", "lightning_pbrl", "--version"]):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "0.1.0\n"), done.stderr
    (job,) = plan_jobs({"a": {}}, 0, tmp_path, tmp_path / "x.yaml")
    assert job.process_arguments(Path("o.yaml"))[:4] == [sys.executable, "-P", "-m", "lightning_pbrl"]


def test_modules_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pbrl_test_needs.py").write_text("import pbrl_test_nothing\n")
    with pytest.raises(UserError) as error:
        import_named(["pbrl_test_absent.part"])
    assert str(error.value) == (
        "imports names the module 'pbrl_test_absent.part' and there is none: start in the folder that holds it, install its "
        "package, or put its folder on PYTHONPATH."
    )
    with pytest.raises(UserError) as error:
        import_named(["pbrl_test_needs"])
    assert str(error.value) == (
        "imports names pbrl_test_needs, which imports pbrl_test_nothing, and that is not installed: install it."
    )


def test_where_imports_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("imports: [one]\n")
    (tmp_path / "b.yaml").write_text("imports: two\n")
    args = ["fit", "-c", f"{tmp_path}/a.yaml", f"--config={tmp_path}/b.yaml", "--imports=[three, one]", "--imports", "[four]"]
    assert imports_of(args) == ["one", "two", "three", "four"]
    assert imports_of(["fit", "-c", "nowhere.yaml", "-c"]) == []
    base = f"config: [{packaged_config('model/bc.yaml')}]"
    (tmp_path / "exp.yaml").write_text(f"imports: [one]\nstages: {{a: {{{base}, with: {{imports: [two]}}}}, b: {{{base}}}}}\n")
    (trial,) = plan(read_study(tmp_path / "exp.yaml"), tmp_path)
    assert [job.overlay["imports"] for job in trial.jobs] == [["one", "two"], ["one"]]
    (tmp_path / "grid.yaml").write_text("imports: [zero]\nbase: exp.yaml\nmodel.init_args.lr: [0.1]\n")
    trials = plan(read_study(tmp_path / "grid.yaml"), tmp_path)
    assert [job.overlay["imports"] for trial in trials for job in trial.jobs] == [["zero", "one", "two"], ["zero", "one"]]
    (tmp_path / "bad.yaml").write_text("imports: {a: 1}\nstages: {a: {}}\n")
    with pytest.raises(UserError, match=r"imports is \{'a': 1\}: give a list of modules, imports: \[my_package\]\."):
        read_study(tmp_path / "bad.yaml")


def test_a_checkpoint_says_which_module_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with package(tmp_path, "pbrl_test_reward", MINE):
        import_named(["pbrl_test_reward"])
        mine = Method.registry["MyReward"]({"obs_dim": 2, "action_dim": 1, "horizon": 3}, hidden=[4])
        mine.configure_model()
        own = {"method": "MyReward", "module": type(mine).__module__, "engines": {}}
        torch.save({"state_dict": mine.state_dict(), "hyper_parameters": {}, "lightning_pbrl": own}, path)
    with pytest.raises(UserError) as error:
        load_method(path)
    assert str(error.value).startswith(f"The checkpoint {path} names the method 'MyReward', which no imported module defines (")
    assert str(error.value).endswith(
        "): import the one that does first, in Python `import pbrl_test_reward`, in a config or experiment "
        "`imports: [pbrl_test_reward]`, on the command line --imports=[pbrl_test_reward]."
    )
