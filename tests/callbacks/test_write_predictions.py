"""Learned reward and action per row, in one file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toys import ToyData, callbacks_for, make_trainer

from lightning_pbrl.callbacks.write_predictions import WritePredictions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble


def test_a_policy_writes_its_actions(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_pbrl.datamodules.base.PREDICT_ROWS", 256)  # 600 rows: three batches
    data = ToyData()
    policy = BC(data.spec, updates=10, eval_interval=10, hidden=(8,), seed=3)
    trainer = make_trainer(tmp_path, [WritePredictions()])
    trainer.fit(policy, data)
    trainer.predict(policy, data, ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"))
    path = tmp_path / "predictions.safetensors"
    columns = load_file(path)
    assert columns.keys() == {"row", "action"}
    assert torch.equal(columns["row"], torch.arange(600))
    with torch.no_grad():
        expected = policy.act(data.source.column("obs"))
    assert columns["action"].dtype == torch.float32
    torch.testing.assert_close(columns["action"], expected)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {
            "method": "BC",
            "checkpoint": str(tmp_path / "checkpoints" / "last.ckpt"),
            "seed": "3",
            "data_fingerprint": data.source.fingerprint,
        }


def test_a_reward_model_writes_its_mean_reward(tmp_path):
    data = ToyData()
    reward = RewardEnsemble(data.spec, hidden=(8,), epochs=1)
    chosen = tmp_path / "elsewhere" / "reward.safetensors"
    trainer = make_trainer(tmp_path, [*callbacks_for(RewardEnsemble), WritePredictions(str(chosen))])
    trainer.fit(reward, data)
    trainer.predict(reward, data, return_predictions=False)
    columns = load_file(chosen)
    assert columns.keys() == {"row", "learned_reward"}
    with torch.no_grad():
        members = reward.reward(data.source.features())
    torch.testing.assert_close(columns["learned_reward"], members.mean(0))
    assert not (tmp_path / "predictions.safetensors").exists()


def rank(number: int, world: int, folder) -> SimpleNamespace:
    strategy = SimpleNamespace(barrier=lambda name: None)
    return SimpleNamespace(
        global_rank=number,
        world_size=world,
        is_global_zero=number == 0,
        default_root_dir=folder,
        strategy=strategy,
        ckpt_path=None,
    )


@pytest.mark.parametrize("rows", [5, 1])  # with one row the second rank has none
def test_rank_zero_merges_the_parts_of_all_ranks(tmp_path, rows):
    data = ToyData()
    data.setup("predict")
    policy = BC(data.spec)
    policy.source = data.source
    for number in (1, 0):  # rank 0 comes last, as after the barrier
        writer, trainer = WritePredictions(), rank(number, 2, tmp_path)
        writer.on_predict_epoch_start(trainer, policy)
        index = torch.arange(rows)[number::2]
        outputs = {"row": index, "action": index[:, None].double() * 10}
        writer.on_predict_batch_end(trainer, policy, outputs, index, 0)
        writer.on_predict_epoch_end(trainer, policy)
    columns = load_file(tmp_path / "predictions.safetensors")
    assert columns["row"].tolist() == list(range(rows))
    assert columns["action"].tolist() == [[10.0 * row] for row in range(rows)]
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.safetensors"]


def test_a_damaged_part_of_a_rank(tmp_path):
    data = ToyData()
    data.setup("predict")
    policy = BC(data.spec)
    policy.source = data.source
    (tmp_path / ".predictions.safetensors.rank1").write_bytes(b"half")
    with pytest.raises(UserError, match=r"safetensors\.rank1 is damaged \(.*\): predict again, with a run_dir on a file system"):
        WritePredictions().on_predict_epoch_end(rank(0, 2, tmp_path), policy)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    data = ToyData()
    policy = BC(data.spec, updates=10, eval_interval=10, hidden=(8,))
    trainer = make_trainer(tmp_path, [WritePredictions(str(tmp_path / "file" / "out.safetensors"))])
    with pytest.raises(UserError, match=r"out\.safetensors cannot be written"):
        trainer.predict(policy, data)
