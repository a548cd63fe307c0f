"""The exported folder: the same rewards, no code in a file, and a model card that says where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from labelled_records import record
from learned_reward_toys import HISTORY, MARKOV, SPEC, built
from safetensors.torch import load_file, save_file
from toys import ToyData

from lightning_pbrl import AskTeacher, DisagreementQuery, RewardEnsemble, SimulatedTeacher, Trainer, rewards
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.exchange import keep, open_store
from lightning_pbrl.learned_reward.card import card
from lightning_pbrl.learned_reward.facts import asked, wilson
from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.methods.mr_iql import MRIQL
from lightning_pbrl.rewards.axes import AxisRewards
from lightning_pbrl.rewards.base import chosen

OBS, ACTION = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 24).view(12, 2)


@pytest.mark.parametrize("name", [*MARKOV, *HISTORY])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    reward = LearnedReward(built(name))
    assert sorted(path.name for path in reward.save(tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    back = rewards.load(tmp_path / "out")
    assert back.looks_back == reward.looks_back
    np.testing.assert_array_equal(back.compute_reward(OBS, ACTION), reward.compute_reward(OBS, ACTION))
    back.save(tmp_path / "again")
    for file in ("config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_a_method_that_is_a_reward_itself(tmp_path: Path) -> None:
    method = MRIQL(SPEC, hidden=(8, 8))
    method.configure_model()
    reward = LearnedReward(method)
    back = rewards.load(reward.save(tmp_path))
    np.testing.assert_array_equal(back.compute_reward(OBS, ACTION), reward.compute_reward(OBS, ACTION))


def test_weights_of_axes_are_chosen_kept_and_told(tmp_path: Path) -> None:
    model = chosen(AxisRewards(hidden=(8,)), SPEC, 0)
    model.build()
    alike = LearnedReward(model, {}).compute_reward(OBS, ACTION)
    LearnedReward(model, {}).save(tmp_path / "alike")
    model.weigh({"task": 2.0})
    other = LearnedReward(model, {}).compute_reward(OBS, ACTION)
    assert float((alike - other).abs().max()) > 1e-3
    back = rewards.load(LearnedReward(model, {}).save(tmp_path / "other"))
    np.testing.assert_array_equal(back.compute_reward(OBS, ACTION), other)
    assert "| weights of its axes | task 2, calm 0 |" in (tmp_path / "other/README.md").read_text()
    chosen_there = rewards.load(tmp_path / "alike", weights={"task": 2.0})
    np.testing.assert_array_equal(chosen_there.compute_reward(OBS, ACTION), other)
    LearnedReward(built("unified")).save(tmp_path / "one")
    with pytest.raises(UserError, match="names the axes calm, and this reward has none"):
        rewards.load(tmp_path / "one", weights={"calm": 1.0})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, no_ink: object) -> Path:
    """A run folder of a reward that was fitted to 20 answers, with 50 held-out pairs."""
    folder = tmp_path_factory.mktemp("run")
    ask = AskTeacher(SimulatedTeacher(), DisagreementQuery(), budget=20, per_round=10)
    trainer = Trainer(folder, accelerator="cpu", callbacks=ask, enable_progress_bar=False)
    trainer.fit(RewardEnsemble(SPEC, hidden=(8, 8), epochs=3), ToyData())
    return folder


def test_a_run_folder_and_its_checkpoint(run: Path, tmp_path: Path) -> None:
    reward, same = rewards.load(run), rewards.load(run / "checkpoints/last.ckpt")
    np.testing.assert_array_equal(reward.compute_reward(OBS, ACTION), same.compute_reward(OBS, ACTION))
    reward.save(tmp_path, licence="cc-by-4.0")
    facts = json.loads((tmp_path / "config.json").read_text())["facts"]
    assert facts["questions"] == {"pair": 20}
    assert facts["answers"] == {"answered": 20}
    assert (facts["teachers"], facts["strategies"], facts["learned_from"]) == (
        ["SimulatedTeacher"],
        ["DisagreementQuery", "UniformQuery"],
        20,
    )
    assert facts["held_out"]["pairs"] == 50
    assert facts["held_out"]["low"] < facts["held_out"]["accuracy"] < facts["held_out"]["high"]
    text = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header["library_name"]) == ("cc-by-4.0", "lightning-pbrl")
    rows = dict(line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and line != "| | |")
    assert rows["data"] == "ToyData"
    assert rows["asked"] == "20 pairs of segments of 10 steps, chosen by DisagreementQuery, UniformQuery"
    assert rows["answered by"] == "a simulated teacher that reads the true reward (SimulatedTeacher)"
    assert rows["answers"] == "20 answered, learned from 20"
    assert rows["accuracy on held-out answers"].endswith(", 50 pairs)")
    assert rows["trained by"].startswith("RewardEnsemble, ")
    assert rows["licence"] == "cc-by-4.0"
    assert "lightning-pbrl 0.1.0" in rows["versions"]
    assert str(run) not in text + (tmp_path / "config.json").read_text()


def test_people_are_counted_and_not_named(tmp_path: Path) -> None:
    """Ada and Bob agree about one of two common questions; a machine answers the third."""
    people = [record(0, 1.0, who="Ada"), record(0, 1.0, who="Bob"), record(1, 0.0, who="Ada"), record(1, 1.0, who="Bob")]
    machine = record(2, 0.5, Status.EQUAL, who="SimulatedTeacher", teacher={"class": "SimulatedTeacher"})
    keep(open_store(tmp_path / "labels.sqlite", "data-a"), [*people, machine])
    facts = asked(tmp_path)
    assert (facts["people"], facts["teachers"], facts["questions"]) == (2, ["SimulatedTeacher"], {"pair": 3})
    agreement = facts["agreement"]["pair"]
    assert (agreement["shared"], agreement["equal"]) == (2, 0.5)
    assert agreement["alpha"] == pytest.approx(0.0)  # observed 1 / 2; expected by chance 2 x 3 x 1 / (4 x 3) = 1 / 2
    assert asked(tmp_path / "labels.sqlite", "seed/0")["people"] == 2
    assert asked(tmp_path, "seed/1") == asked(tmp_path / "nowhere") == {}
    text = card("RewardEnsemble", {"facts": facts, "spec": SPEC, "licence": None})
    assert "| answered by | 2 people, a simulated teacher that reads the true reward (SimulatedTeacher) |" in text
    assert "| agreement of people (pairs) | 0.50 equal about 2 questions, Krippendorff's alpha 0.00 |" in text
    assert "| licence | not stated: ask whoever made it before you use it |" in text
    assert "| accuracy on held-out answers | not measured |" in text
    assert not {"Ada", "Bob"} & set(json.dumps(facts).replace('"', " ").split())


def test_intervals() -> None:
    """Wilson's interval of 8 of 10, from the formula: (0.8 + 0.192) / 1.384 = 0.7167, ± 0.2266."""
    assert wilson(0.8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(1.0, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        rewards.load(folder)
    return str(error.value)


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(
        f"There is no learned reward at {tmp_path}: give a run folder (with checkpoints/last.ckpt), "
    )
    LearnedReward(built("ensemble")).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def with_config(**other: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps({**config, **other}))
        return refused(tmp_path)

    assert "does not describe a learned reward" in with_config(format="transformers")
    assert "has schema 9 and this version reads 1" in with_config(schema=9)
    assert "names 'os.system'" in with_config(reward_model={"class_path": "os.system", "init_args": {}})
    assert "does not fit its weights or this version" in with_config(spec={"obs_dim": 6, "action_dim": 2, "horizon": 30})
    (tmp_path / "config.json").write_text("{")
    assert "config.json is damaged" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "members.weights.0": weights["members.weights.0"] * torch.nan}, tmp_path / "model.safetensors")
    assert "holds numbers that are not finite" in refused(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cos\nsystem\n")
    assert "is damaged or is not of this reward" in refused(tmp_path)
