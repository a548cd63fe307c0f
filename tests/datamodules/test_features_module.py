"""Features of a frozen network by config alone: learned from, kept, relabelled with, labelled by people who see the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import QUIET
from picture_toys import ColourMeans, DotData, dot_data
from safetensors.torch import save_file
from torch import nn
from toys import make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.cli import main
from lightning_pbrl.clips.choose import renderer_of
from lightning_pbrl.configs import packaged_config, read_config
from lightning_pbrl.data import archive
from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.datamodules.features import FeaturesDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = QUIET
SMALL: dict[str, Any] = {"hidden": [16, 16], "epochs": 20, "batch_size": 16, "lr": 1e-2}


def random_network(size: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, size))


def not_flat() -> Any:
    return lambda images: images


def means() -> Any:
    return lambda images: images.mean((2, 3))


def module(folder: Path, network: str = "picture_toys:ColourMeans", data: Any = None, **settings: Any) -> FeaturesDataModule:
    settings = {"segment_length": 4, "held_out_pairs": 50, "cache_dir": str(folder), **settings}
    return FeaturesDataModule(data or DotData(4), network, **settings)


def loaded(*args: Any, **settings: Any) -> FeaturesDataModule:
    found = module(*args, **settings)
    found.setup("fit")
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A reward of features, learned with one command from a config."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        archive.save(dot_data(20), home / "pictures.safetensors")
        save_file(ColourMeans(10.0).state_dict(), home / "weights.safetensors")
        patch.setenv("PICTURES", "pictures.safetensors")
        patch.setenv("NETWORK", "picture_toys:ColourMeans")
        patch.setenv("WEIGHTS", "weights.safetensors")
        ColourMeans.seen = 0
        small = [f"--model.init_args.{name}={value}" for name, value in SMALL.items()]
        data = ["--data.init_args.segment_length=4", "--data.init_args.size=null", "--data.init_args.held_out_pairs=50"]
        asked = ["--ask.budget=100", "--ask.per_round=100", "--run_dir=reward", "--trainer.accelerator=cpu"]
        main(
            [
                "fit",
                "-c",
                "data/features.yaml",
                "-c",
                "model/reward_ensemble.yaml",
                "-c",
                "teacher/oracle.yaml",
                *small,
                *data,
                *asked,
            ]
        )
    return home


def test_a_reward_of_features_is_learned_by_config_alone(home: Path) -> None:
    assert ColourMeans.seen == 20 * 21  # every image once
    logged = {key: value for row in read_csv(home / "reward") for key, value in row.items()}
    assert logged["pref/accuracy"] > 0.85  # of the random pairs, by the place of a dot that the states do not tell
    (kept,) = (home / "data").glob("features-ColourMeans-*.safetensors")
    source, images = archive.load(kept), dot_data(20)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (((images.frames[30].float() / 255 - mean) / std).unflatten(1, (2, -1)).mean((0, 2)) * 10).T.flatten()
    torch.testing.assert_close(source.column("obs")[29], wanted, rtol=1e-4, atol=1e-4)  # row 29 is of the second episode
    assert load_method(home / "reward/checkpoints/last.ckpt").spec["obs_dim"] == 6


def test_the_data_themselves_are_relabelled_by_what_the_features_tell(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    written = read_config(packaged_config("data/features.yaml"))["data"]["init_args"]
    how = {**{name: written[name] for name in ("mean", "std", "arguments")}, "weights": "weights.safetensors"}
    data = module(home / "data", data=DotData(20), see="data", **how)
    relabel = RelabelRewards(str(home / "reward/checkpoints/last.ckpt"), normalize=False)
    method = BC(data.spec, updates=1, eval_interval=1, hidden=[4], batch_size=4, policy="squashed")
    make_trainer(home / "policy", [relabel], limit_val_batches=0).fit(method, data)
    assert method.source is data.source and data.source.has_pictures and data.spec["pixels"] == 16
    assert len(list((home / "data").glob("features-*.safetensors"))) == 1  # of a module or of a file, the data are the same
    reward = load_method(home / "reward/checkpoints/last.ckpt").relabel(data.features)
    learned = data.source.column("learned_reward")
    torch.testing.assert_close(learned, reward)
    assert float(torch.corrcoef(torch.stack([learned, data.source.reward]))[0, 1]) > 0.7


def test_what_is_encoded_anew(tmp_path: Path) -> None:
    """Other data, networks, weights and normalisations, and nothing else; random weights are always the same."""
    save_file(
        {**ColourMeans(2.0).state_dict(), "head": torch.ones(3)}, tmp_path / "two.safetensors"
    )  # of which one tensor is used
    kinds: list[dict[str, Any]] = [{}, {"weights": str(tmp_path / "two.safetensors")}, {"arguments": {"gain": 3.0}}]
    kinds += [{"mean": [0.5] * 3}, {"size": 8}, {"data": DotData(3)}, {"network": f"{__name__}:random_network"}]
    found = []
    for settings in kinds:
        ColourMeans.seen = 0
        first = loaded(tmp_path, **settings).features.column("obs").clone()
        seen, ColourMeans.seen = ColourMeans.seen, 0
        torch.manual_seed(len(found))  # another process
        assert torch.equal(loaded(tmp_path, **settings).features.column("obs"), first) and ColourMeans.seen == 0
        assert seen == (0 if "network" in settings else 21 * (3 if "data" in settings else 4))
        found.append(first)
    assert len(list(tmp_path.glob("features-*.safetensors"))) == len(kinds)
    torch.testing.assert_close(found[1], 2 * found[0])
    torch.testing.assert_close(found[2], 3 * found[0])
    torch.testing.assert_close(found[3], found[0] - 0.5, atol=1e-6, rtol=1e-5)


def test_answers_about_the_images_are_answers_about_the_features(tmp_path: Path) -> None:
    store = str(tmp_path / "labels.sqlite")
    pictures = DotData(20)
    ask = AskTeacher(SimulatedTeacher(), budget=60, per_round=60, store=store)
    make_trainer(tmp_path / "pictures", [ask]).fit(RewardEnsemble(pictures.spec, hidden=[4], epochs=1), pictures)
    data = module(tmp_path, data=DotData(20))
    method = RewardEnsemble(data.spec, **SMALL)
    make_trainer(tmp_path / "features", [AskTeacher(store=store)]).fit(method, data)
    assert method.learned_from == 60
    with renderer_of(data) as drawn, renderer_of(pictures) as wanted:  # people see the images
        assert (drawn.frames(5, 4) == wanted.frames(5, 4)).all()


class Answered(DotData):
    """Data that come with answers, about segments of five steps."""

    def load(self) -> Any:
        source = super().load()
        rng = torch.Generator().manual_seed(0)
        query = source.pool(5).pairs(10, rng)
        self.labels = Labels(query.start, 5, torch.ones(10), torch.ones(10, dtype=torch.int64))
        self.segment_length = 5
        return source


def test_answers_that_come_with_the_data(tmp_path: Path) -> None:
    data = loaded(tmp_path, data=Answered(4))
    assert data.labels is not None and len(data.labels) == 10 and data.segment_length == 5


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = __name__
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    own = "picture_toys:ColourMeans"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"network": "nowhere:f"}, "There is no function 'nowhere:f'"),
        ({"network": "timm"}, "There is no function 'timm' .*name it as module:function"),
        ({"arguments": {"gain": "much"}}, rf"network {own} cannot be built \(.*\): correct data.init_args.network"),
        ({"network": f"{here}:not_flat"}, r"The network gives \(64, 3, 16, 16\) for 64 images: let it return \(n, F\)"),
        ({"network": f"{here}:random_network", "size": 8}, r"fails on images of shape \(64, 3, 8, 8\) .*set data.init_args.size"),
        ({"network": f"{here}:means", "weights": "w.safetensors"}, "a function: weights need a function that returns a module"),
        ({"weights": "model.pt"}, "weights is model.pt: give a .safetensors file; pickles and TorchScript can run code"),
        ({"weights": "none.safetensors"}, "There is no file none.safetensors: check the path"),
        ({"weights": str(tmp_path / "damaged.safetensors")}, "damaged.safetensors is no safetensors file of weights"),
        ({"weights": str(tmp_path / "other.safetensors")}, f"other.safetensors has no gain of the shape that {own} has"),
    ]
    for settings, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            loaded(tmp_path, **settings)
    with pytest.raises(UserError, match=r"data.init_args.std is \[1.0\]: give one number for each of red, green and blue"):
        module(tmp_path, std=[1.0])
    with pytest.raises(UserError, match="FeaturesDataModule got size=0: give a number of at least 1"):
        module(tmp_path, size=0)
    states = dot_data(2)
    states.frames = None
    archive.save(states, tmp_path / "states.safetensors")
    with pytest.raises(UserError, match="These data have states only, no images"):
        loaded(tmp_path, data=str(tmp_path / "states.safetensors"))
    assert not list(tmp_path.glob("features-*.safetensors"))
