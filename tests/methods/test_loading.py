"""Checkpoints as input: what is missing, broken, foreign or malicious is refused with a sentence and runs nothing."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import synthetic_transitions
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.lightning_glue import plain
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.loading import load_method

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bc")
    method = BC(SPEC, updates=20, eval_interval=10, hidden=(8,), batch_size=8, replicas=2)
    make_trainer(folder).fit(method, ToyData())
    return folder / "checkpoints" / "last.ckpt"


def changed(checkpoint: Path, folder: Path, **parts: Any) -> Path:
    """A copy of the checkpoint with entries replaced; dictionaries are merged."""
    content = torch.load(checkpoint, weights_only=True)
    for key, value in parts.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


class Sentinel:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint at .*nothing\.ckpt; give the path of a \.ckpt file"):
        load_method(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_file(kept: float, checkpoint: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"The checkpoint .*cut\.ckpt (is damaged or incomplete|holds objects other)"):
        load_method(tmp_path / "cut.ckpt")


def test_what_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.sqlite").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(UserError, match=r"labels\.sqlite is not a checkpoint of this library; give the path of a \.ckpt file"):
        load_method(tmp_path / "labels.sqlite")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, tmp_path / "run/checkpoints/last.ckpt")
    with pytest.raises(UserError, match=r"run is a run folder; give its checkpoint, .*run/checkpoints/last\.ckpt"):
        load_method(tmp_path / "run")
    with pytest.raises(UserError, match="BC learns a policy, not a reward: give the checkpoint of a reward model"):
        load_method(checkpoint).relabel(synthetic_transitions())
    with pytest.raises(UserError, match="run is a run folder"):
        make_trainer(tmp_path / "new", [RelabelRewards(str(tmp_path / "run"))]).fit(IQL(SPEC, updates=10, hidden=(8,)), ToyData())


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes.ckpt").write_text("these are notes\n")
    with pytest.raises(UserError, match=r"The checkpoint .*notes\.ckpt"):
        load_method(tmp_path / "notes.ckpt")


def test_checkpoint_of_another_library(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is not a checkpoint of this library"):
        load_method(tmp_path / "other.ckpt")


def test_foreign_class_name(checkpoint: Path, tmp_path: Path) -> None:
    """The class is looked up among registered methods; nothing is imported because the file says so."""
    for name in ("os.system", "BCC"):
        path = changed(checkpoint, tmp_path, lightning_pbrl={"method": name})
        with pytest.raises(UserError, match=rf"names the method '{name}', which no imported module defines .*: import the one"):
            load_method(path)
    path = changed(checkpoint, tmp_path, lightning_pbrl={"method": "BCC"})
    with pytest.raises(UserError, match="did you mean BC"):
        load_method(path)


@pytest.mark.parametrize("archive", [True, False])
def test_pickle_payload_is_refused_and_not_run(archive: bool, checkpoint: Path, tmp_path: Path) -> None:
    sentinel, path = tmp_path / "sentinel", tmp_path / "evil.ckpt"
    content = {**torch.load(checkpoint, weights_only=True), "payload": Sentinel(sentinel)}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match="holds objects other than tensors and plain types and was not loaded"):
        load_method(path)
    method = BC(SPEC, updates=20, eval_interval=10, hidden=(8,), batch_size=8, replicas=2)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        make_trainer(tmp_path).fit(method, ToyData(), ckpt_path=path)
    with pytest.raises(UserError, match="was not loaded"):
        make_trainer(tmp_path, [RelabelRewards(str(path))]).fit(IQL(SPEC, updates=10, hidden=(8,)), ToyData())
    assert not sentinel.exists()


@pytest.mark.parametrize("key", ["_instantiator", "_class_path"])
def test_hyper_parameters_that_name_code_are_not_followed(key: str, checkpoint: Path, tmp_path: Path) -> None:
    """Lightning's own loader would import and call ``_instantiator``; here it is dropped."""
    sentinel = tmp_path / "sentinel"
    evil = {key: "os.system", "command": f"touch {sentinel}"} if key == "_instantiator" else {key: "os.system"}
    path = changed(checkpoint, tmp_path, hyper_parameters=evil)
    if key == "_instantiator":
        with pytest.raises(UserError, match=r"does not fit this version's BC .*command"):
            load_method(path)
        path = changed(checkpoint, tmp_path, hyper_parameters={key: "os.system"})
    assert isinstance(load_method(path), BC)
    method = BC(SPEC, updates=20, eval_interval=10, hidden=(8,), batch_size=8, replicas=2)
    make_trainer(tmp_path).fit(method, ToyData(), ckpt_path=path)
    assert method.trainer.global_step == 20 and not sentinel.exists()


def test_saved_hyper_parameters_hold_no_private_key() -> None:
    saved = plain({"lr": 0.1, "_instantiator": "a.b", "nested": {"_class_path": "c", "hidden": (8, 8)}, "path": Path("x")})
    assert saved == {"lr": 0.1, "nested": {"hidden": [8, 8]}, "path": "x"}


def test_resuming_another_method_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The checkpoint was written by BC, not by IQL; name the method that made it"):
        make_trainer(tmp_path).fit(IQL(SPEC, updates=10, hidden=(8,)), ToyData(), ckpt_path=checkpoint)


def test_replicas_are_numbered_from_zero(checkpoint: Path) -> None:
    for replica in (-1, 2):
        with pytest.raises(UserError, match=rf"holds 2 replica\(s\), numbered from 0; there is no replica {replica}"):
            load_method(checkpoint, replica=replica)
    first, second = load_method(checkpoint), load_method(checkpoint, replica=1)
    assert not torch.equal(first.act(torch.ones(1, 5)), second.act(torch.ones(1, 5)))


def test_wrong_weights_are_told(checkpoint: Path, tmp_path: Path) -> None:
    path = changed(checkpoint, tmp_path, hyper_parameters={"hidden": [9]})
    with pytest.raises(UserError, match=r"changed\.ckpt does not fit this version's BC"):
        load_method(path)


def test_testing_a_checkpoint_evaluates_its_replicas(checkpoint: Path, tmp_path: Path) -> None:
    """``test`` on a loaded population rolls out every replica's own weights, whatever the method held before."""
    seen: list[torch.Tensor] = []

    class Watched(ToyData):
        def rollout(self, act: Any, seeds: Any) -> Any:
            seen.append(act(torch.ones(1, 5)))
            return super().rollout(act, seeds)

    method = BC(SPEC, updates=40, eval_interval=40, hidden=(8,), batch_size=8, replicas=2, lr=1e-2)
    data = Watched(eval_episodes=1, test_episodes=1)
    trainer = make_trainer(tmp_path)
    trainer.fit(method, data)
    for module in (method, BC(SPEC, updates=40, hidden=(8,), replicas=2)):
        seen.clear()
        trainer.test(module, data, ckpt_path=checkpoint, verbose=False)
        expected = [load_method(checkpoint, replica=k).act(torch.ones(1, 5)) for k in range(2)]
        torch.testing.assert_close(torch.cat(seen), torch.cat(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lightning_pbrl": 5}, "names no method; use an earlier one"),
        ({"lightning_pbrl": {"method": None}}, "names no method; use an earlier one"),
        ({"lightning_pbrl": {"engine": {"state": {"weights": []}}}}, "it lacks the weights of a replica"),
        ({"lightning_pbrl": {"engine": None}}, "does not fit this version's BC"),
        ({"hyper_parameters": {"spec": 5}}, "does not fit this version's BC"),
        ({"hyper_parameters": {"hidden": [9]}}, "does not fit this version's BC"),
        ({"state_dict": None}, "does not fit this version's BC"),
    ],
)
def test_parts_that_are_something_else(change: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(UserError, match=rf"changed\.ckpt .*{message}"):
        load_method(tmp_path / "changed.ckpt")


def test_weights_under_another_name_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    first = content["lightning_pbrl"]["engine"]["state"]["weights"][0]
    first["actor.unknown"] = first.pop(next(iter(first)))
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(UserError, match=r"does not fit this version's BC \(it has weights 'actor\.unknown'\)"):
        load_method(tmp_path / "changed.ckpt")
