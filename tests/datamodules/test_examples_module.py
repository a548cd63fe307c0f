"""Splits, subsets and stored examples of ExamplesDataModule, and what a learner is given."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import QUIET
from d4rl_files import episodes, write_d4rl
from synthetic import synthetic_transitions
from toys import SPEC, SeedSimulator, ToyData, make_trainer

from lightning_pbrl import registry
from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.data import archive
from lightning_pbrl.data.example_choosers import ExampleChooser, FileExamples, FolderExamples, RewardExamples, SuccessExamples
from lightning_pbrl.data.examples import Examples, make_examples
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.datamodules.collected import CollectedDataModule
from lightning_pbrl.datamodules.examples import ExamplesDataModule, RolloutExamples
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.train_cli import resolved_config


def module(tmp_path, data: FeedbackDataModule | None = None, **settings: Any) -> ExamplesDataModule:
    """Twenty synthetic episodes of 30 steps, set up."""
    settings = {"examples": SuccessExamples(20), "cache_dir": str(tmp_path), **settings}
    made = ExamplesDataModule(data or ToyData(), **settings)
    made.prepare_data()
    made.setup("fit")
    return made


def starts(source: Transitions) -> set[tuple[float, ...]]:
    """The first observation of each episode, which tells them apart."""
    return {tuple(row) for row in source.column("obs")[source.episodes.first].tolist()}


def test_episodes_are_split_and_nothing_is_lost(tmp_path):
    data = module(tmp_path, validation_share=0.25)
    whole = data.data.source
    assert (len(data.source.episodes), len(data.held_out_source.episodes)) == (15, 5)
    assert starts(data.source) | starts(data.held_out_source) == starts(whole)
    assert not starts(data.source) & starts(data.held_out_source)
    assert data.source.episodes.lengths.tolist() == [30] * 15
    assert data.source.about["of"]["fingerprint"] == whole.fingerprint
    first = data.source.about["of"]["episodes"][0]
    assert torch.equal(data.source.packed[:30, :12], whole.packed[30 * first : 30 * first + 30, :12])
    assert torch.equal(data.source.reward[:30], whole.reward[30 * first : 30 * first + 30])
    other = module(tmp_path, validation_share=0.25, split_seed=1)
    assert starts(other.held_out_source) != starts(data.held_out_source)
    assert starts(module(tmp_path, validation_share=0.25).source) == starts(data.source)


def test_without_a_split_the_data_are_not_copied(tmp_path):
    data = module(tmp_path, validation_share=0.0)
    assert data.source is data.data.source
    assert data.held_out_source is None


def test_examples_never_come_from_validation_episodes(tmp_path):
    data = module(tmp_path, validation_share=0.5, examples=SuccessExamples(None))
    examples = {tuple(state) for state in data.examples.states.tolist()}
    hidden = {tuple(state) for state in data.held_out_source.column("next_obs").tolist()}
    seen = data.source.column("next_obs")[data.source.success]
    assert examples == {tuple(state) for state in seen.tolist()}
    assert not examples & hidden


def test_fewer_episodes_are_the_first_of_more_and_leave_the_examples(tmp_path):
    ten, five, half = (module(tmp_path, episodes=n) for n in (10, 5, 0.5))
    assert [len(d.source.episodes) for d in (ten, five, half)] == [10, 5, 9]
    assert starts(five.source) < starts(half.source) < starts(ten.source)
    assert starts(ten.held_out_source) == starts(five.held_out_source)
    assert ten.examples.fingerprint == five.examples.fingerprint == module(tmp_path).examples.fingerprint
    with pytest.raises(UserError, match="19 episodes that are not held out are requested and there are 18"):
        module(tmp_path, episodes=19)
    for share in (None, 0.5):
        with pytest.raises(
            UserError, match=r"episodes 0\.001 leaves none of the 18 episodes that are not held out: give a larger"
        ):
            module(tmp_path, episodes=0.001, success_share=share)
    assert len(module(tmp_path, episodes=0.05).source.episodes) == 1


class HalfSolved(ToyData):
    """The synthetic data in which only the even episodes succeed."""

    def load(self) -> Transitions:
        data = synthetic_transitions(20)
        data.success &= (torch.arange(600) // 30 % 2 == 0) & (torch.arange(600) % 30 > 14)
        data.success[29::60] = True
        return data


def test_a_share_of_solved_episodes(tmp_path):
    def solved(data: ExamplesDataModule) -> list[bool]:
        return data.source.success.view(-1, 30).any(1).tolist()

    settings = {"validation_share": 0.0, "examples": SuccessExamples(5)}
    few = solved(module(tmp_path, HalfSolved(), episodes=8, success_share=0.25, **settings))
    assert (sum(few), len(few)) == (2, 8)
    most = solved(module(tmp_path, HalfSolved(), success_share=0.8, **settings))
    assert (sum(most), len(most)) == (10, 12)  # 10 / 0.8 = 12.5 episodes at most
    assert not any(solved(module(tmp_path, HalfSolved(), success_share=0.0, **settings)))
    with pytest.raises(UserError, match="16 episodes that are solved are requested and there are 10"):
        module(tmp_path, HalfSolved(), episodes=20, success_share=0.8, **settings)


def test_a_set_is_stored_and_reused(tmp_path, monkeypatch):
    first = module(tmp_path)
    (path,) = tmp_path.glob("seed-v0-examples-*.safetensors")
    monkeypatch.setattr(SuccessExamples, "choose", lambda self, source: pytest.fail("chosen again"))
    again = module(tmp_path)
    assert torch.equal(again.examples.states, first.examples.states)
    assert again.examples.fingerprint == first.examples.fingerprint
    assert again.examples.about["data"] == first.source.fingerprint
    monkeypatch.undo()
    module(tmp_path, examples=SuccessExamples(20, seed=1))
    module(tmp_path, split_seed=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert path.exists()


def test_examples_from_a_file_need_the_right_shape(tmp_path):
    np.save(tmp_path / "wrong.npy", np.zeros((4, 3)))
    with pytest.raises(UserError, match=r"shape \(3,\), and the states of these data have shape \(5,\)"):
        module(tmp_path, examples=FileExamples(str(tmp_path / "wrong.npy")))
    np.save(tmp_path / "right.npy", np.ones((4, 5)))
    assert module(tmp_path, examples=FileExamples(str(tmp_path / "right.npy"))).examples.states.shape == (4, 5)


def test_no_success_names_predicate_and_episodes(tmp_path):
    with pytest.raises(UserError, match="no step with a reward of at least 100 in the 18 episodes searched"):
        module(tmp_path, examples=RewardExamples(100.0))


class Stubs(ToyData):
    """Episodes whose last successor is unknown; number 1 has one step only."""

    def load(self) -> Transitions:
        data = synthetic_transitions(1, 7)
        rows, offsets = data.packed, torch.tensor([0, 3, 4, 7])
        return Transitions(rows, offsets, data.reward, data.success, 5, 2, drawable=torch.tensor([0, 1, 4, 5]))


def test_an_episode_without_a_future_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"Episode 1 of the data has no step whose successor is known.*drop the 1 such"):
        module(tmp_path, Stubs(), examples=SuccessExamples(1))


def test_drawable_rows_follow_a_selection():
    data = synthetic_transitions(1, 7)
    source = Transitions(
        data.packed, torch.tensor([0, 3, 5, 7]), data.reward, data.success, 5, 2, drawable=torch.tensor([0, 1, 3, 5])
    )
    chosen = source.select(torch.tensor([2, 0]))
    assert chosen.episodes.offsets.tolist() == [0, 2, 5]
    assert chosen.drawable.tolist() == [0, 2, 3]
    assert torch.equal(chosen.column("obs"), source.column("obs")[[5, 6, 0, 1, 2]])


def test_pictures_follow_a_selection():
    data = synthetic_transitions(1, 7)
    frames = torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)
    source = Transitions(data.packed, torch.tensor([0, 3, 5, 7]), data.reward, data.success, 5, 2, frames=frames)
    assert source.frame_ids(torch.tensor([0, 2, 3, 4, 5, 6])).tolist() == [0, 2, 4, 5, 7, 8]
    assert source.shown_dim == 12
    chosen = source.select(torch.tensor([2, 0]))
    assert chosen.frames[:, 0, 0, 0].tolist() == [7, 8, 9, 0, 1, 2, 3]
    ids = chosen.frame_ids(torch.tensor([[0, 1], [2, 4]]))
    assert chosen.pictures(ids + 1)[..., 0, 0, 0].tolist() == [[8, 9], [1, 3]]
    with pytest.raises(UserError, match="no pictures"):
        data.pictures(torch.tensor([0]))


def test_pictures_of_a_part_are_not_copied(tmp_path):
    """Also of a part of a part, and of data that lie in a mapped file; what they hold is what a slow copy holds."""
    data = synthetic_transitions(6, 5)
    offsets = torch.tensor([0, 3, 5, 7, 12, 20, 30])
    frames = torch.randint(0, 256, (36, 2, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = Transitions(data.packed, offsets, data.reward, data.success, 5, 2, frames=frames)
    whole = archive.load(archive.save(made, tmp_path / "whole.safetensors"))
    first = whole.select(torch.tensor([4, 1, 5, 2]))
    for part, numbers in ((first, [4, 1, 5, 2]), (first.select(torch.tensor([3, 0])), [2, 4])):
        copies = [frames[offsets[e] + e : offsets[e + 1] + e + 1] for e in numbers]
        slow = Transitions(part.packed, part.episodes.offsets, part.reward, part.success, 5, 2, frames=torch.cat(copies))
        rows = torch.arange(len(part)).flip(0).view(2, -1) if len(part) % 2 == 0 else torch.arange(len(part))
        for ahead in (0, 1):
            assert torch.equal(part.pictures(part.frame_ids(rows) + ahead), slow.pictures(slow.frame_ids(rows) + ahead))
        assert part.shown_dim == 12
        assert part.fingerprint == slow.fingerprint
        assert part._stored.data_ptr() == whole.frames.data_ptr()
        assert part._store is whole._store  # moved once for all
        assert part._own is None  # nothing above copied them
        assert torch.equal(part.frames, slow.frames)
        again = archive.load(archive.save(part, tmp_path / "part.safetensors"))
        assert torch.equal(again.frames, slow.frames)
        assert torch.equal(again.pictures(again.frame_ids(rows)), slow.pictures(slow.frame_ids(rows)))


def test_impossible_settings(tmp_path):
    for settings, words in (
        ({"validation_share": 1.0}, "validation_share=1.0: give a number of at least 0 and below 1"),
        ({"success_share": 1.5}, "success_share=1.5: give a number between 0 and 1"),
        ({"episodes": 0}, "episodes=0: give a number above 0"),
    ):
        with pytest.raises(UserError, match=words):
            ExamplesDataModule(ToyData(), **settings)
    with pytest.raises(UserError, match="All 1 episodes would be held out"):
        module(tmp_path, ToyData(episodes=1), validation_share=0.9)
    online = OnlineDataModule(GymMuJoCo("Reacher-v5"), capacity=2000, num_envs=1)
    with pytest.raises(UserError, match="OnlineDataModule has no logged data"):
        module(tmp_path, online)


class Mine(ExampleChooser):
    """Somebody's own."""

    def choose(self, source: Transitions) -> Examples:
        return make_examples(torch.zeros(1, source.obs_dim), {})


def test_a_chooser_of_ones_own(tmp_path):
    assert module(tmp_path, examples=Mine()).examples.states.tolist() == [[0.0] * 5]


REACH = MetaWorld("reach", horizon=60)


def test_examples_from_separate_rollouts(tmp_path):
    """The learner's data hold random actions only; the examples come from two episodes of the expert."""
    cache = str(tmp_path)
    data = CollectedDataModule(REACH, 3, [Behaviour(expert=False)], cache_dir=cache)
    expert = CollectedDataModule(REACH, 2, [Behaviour()], collection_seed=1, cache_dir=cache)
    made = ExamplesDataModule(data, RolloutExamples(expert, SuccessExamples(10)), validation_share=0.0)
    assert made.path == data.path
    made.prepare_data()
    assert expert.path.exists()
    made.setup("fit")
    assert not bool(made.source.success.any())
    assert made.examples.states.shape == (10, 39)
    after = {tuple(state) for state in expert.source.column("next_obs")[expert.source.success].tolist()}
    assert {tuple(state) for state in made.examples.states.tolist()} <= after
    again = ExamplesDataModule(data, RolloutExamples(expert, SuccessExamples(10)), validation_share=0.0)
    again.setup("fit")
    assert again.examples.fingerprint == made.examples.fingerprint
    same = CollectedDataModule(REACH, 2, [Behaviour()], collection_seed=1, cache_dir=cache)
    with pytest.raises(UserError, match="are the training data themselves"):
        module(tmp_path, expert, examples=RolloutExamples(same))
    with pytest.raises(UserError, match="observations of size 39 and the data of size 5"):
        module(tmp_path, examples=RolloutExamples(expert))


def test_what_makes_data_shows_its_progress(tmp_path):
    made = ExamplesDataModule(CollectedDataModule(REACH, 3, [Behaviour()], cache_dir=str(tmp_path)))
    assert hasattr(made, "progress")
    made.progress = print
    assert made.data.progress is print
    assert not hasattr(ExamplesDataModule(ToyData()), "progress")


def test_methods_learn_and_are_judged_as_with_any_data(tmp_path):
    data = module(tmp_path, eval_episodes=4, test_episodes=3, num_envs=2)
    assert data.spec == SPEC
    assert isinstance(data.simulator, SeedSimulator)
    data.source.reward.fill_(float("nan"))
    method = BC(spec=data.spec, updates=8, eval_interval=8, block=4, batch_size=16, hidden=(8,))
    trainer = make_trainer(tmp_path)
    trainer.fit(method, data)
    assert method.source is data.source
    assert np.isfinite(trainer.callback_metrics["train/actor_loss"].item())
    trainer.test(method, data, verbose=False)
    assert 0.0 <= trainer.callback_metrics["test/success_rate"].item() <= 1.0
    assert len(trainer.predict(method, data)) == 1


def built(text: str) -> ExamplesDataModule:
    """The data module that a config names."""
    from jsonargparse import ArgumentParser

    registry.import_all()
    parser = ArgumentParser()
    parser.add_subclass_arguments(FeedbackDataModule, "data")
    return parser.instantiate(parser.parse_args([f"--data={text}"])).data


def test_from_a_config(tmp_path):
    text = (
        "{class_path: ExamplesDataModule, init_args: {episodes: 0.5, examples: {class_path: RewardExamples, init_args: "
        "{threshold: 2.0, count: 7}}, data: {class_path: MetaWorldDataModule, init_args: {task: reach, entries: [0, 1]}}, "
        f"eval_episodes: 3, cache_dir: {tmp_path}}}}}"
    )
    made = built(text)
    assert (made.episodes, made.eval_episodes, made.chooser.threshold, made.chooser.count) == (0.5, 3, 2.0, 7)
    assert made.spec["obs_dim"] == 2


ROOT = Path(__file__).parents[2]


def typed(page: str) -> list[str]:
    """The options ``--data.init_args.examples=`` of a document for choosers that read files, as a shell passes them on."""
    text = (ROOT / page).read_text()
    if page.endswith("ipynb"):
        text = "".join(line for cell in json.loads(text)["cells"] for line in cell["source"])
    lines = [line.strip("# \\") for line in text.splitlines() if "--data.init_args.examples" in line]
    words = [word for line in lines for word in shlex.split(line) if word.startswith("--data.init_args.examples")]
    return [word for word in words if "SuccessExamples" not in word]


@QUIET
@pytest.mark.parametrize("page", ["docs/examples.md", *(f"notebooks/05_examples_of_success.{end}" for end in ("py", "ipynb"))])
def test_another_chooser_as_the_documents_type_it(page, tmp_path):
    """The shipped config's count of 200 does not stay when the class changes: a file of 3 states is taken whole."""
    np.save(tmp_path / "elsewhere.npy", np.ones((3, 10)))
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere" / "one.npy", np.ones(10))
    obs = torch.zeros(4, 10)
    source = Transitions.from_columns(obs, torch.zeros(4, 4), obs, torch.tensor([0, 4]))
    options = typed(page)
    assert len(options) == (2 if page.endswith("md") else 1)
    for option in options:
        data = resolved_config(["-c", "data/examples/fetch-reach.yaml", "-c", "model/bc.yaml", option])["data"]
        chosen = data["init_args"]["examples"]
        chooser, settings = chosen["class_path"].split(".")[-1], chosen["init_args"]
        settings["path"] = str(tmp_path / settings["path"])
        found = {"FileExamples": FileExamples, "FolderExamples": FolderExamples}[chooser](**settings).choose(source)
        assert len(found.states) == {"FileExamples": 3, "FolderExamples": 1}[chooser]


def test_antmaze_has_no_goal_in_its_states(tmp_path):
    """The shipped config on a small file of D4RL's layout: examples are what rows of reward 1 reached."""
    columns = episodes(("timeout",) * 10, (20,) * 10, obs_dim=29, action_dim=8)
    columns["rewards"][:] = columns["terminals"][:] = np.arange(200) % 20 >= 15
    settings = yaml.safe_load(Path(packaged_config("data/examples/antmaze-umaze.yaml")).read_text())["data"]
    given = settings["init_args"]["data"]["init_args"]
    given |= {"path": str(write_d4rl(tmp_path / Path(given["path"]).name, columns)), "cache_dir": str(tmp_path)}
    settings["init_args"]["examples"]["init_args"]["count"] = 20
    made = built(json.dumps(settings))
    made.prepare_data()
    made.setup("fit")
    assert made.spec == {"obs_dim": 29, "action_dim": 8, "horizon": 700}
    assert made.source.episodes.lengths.tolist() == [20] * 9
    assert made.examples.states.shape == (20, 29)
    assert bool((made.examples.states[:, 0] % 100 > 15).all())  # column 0 counts the steps of an episode
