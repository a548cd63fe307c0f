"""Features of a frozen network: each image encoded once, rows as they were, and a reward of features for the data of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from picture_toys import dot_data
from torch import Tensor, nn

from lightning_pbrl.data.frozen import with_features
from lightning_pbrl.errors import UserError
from lightning_pbrl.rewards.ensemble import RewardEnsemble


class Count(nn.Module):
    """Mean of each colour and of the left half; counts the images that it sees."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return torch.cat([images.mean((2, 3)), images[..., :8].mean((1, 2, 3))[:, None]], 1)


def test_every_image_once(tmp_path: Path) -> None:
    source, network = dot_data(3), Count()
    found = with_features(source, network, tmp_path / "features.safetensors", tile=10)
    assert network.seen == len(source.frames) == 63 and found.obs_dim == 4
    for row in (0, 19, 20, 59):
        for name, at in (("obs", row + row // 20), ("next_obs", row + row // 20 + 1)):
            image = source.frames[at].float() / 255
            wanted = [*image.mean((0, 1)).tolist(), float(image[:, :8].mean())]
            assert found.column(name)[row].tolist() == pytest.approx(wanted, abs=1e-6)
    assert torch.equal(found.column("action"), source.column("action")) and torch.equal(found.reward, source.reward)
    assert torch.equal(found.episodes.offsets, source.episodes.offsets)
    again = with_features(source, network, tmp_path / "features.safetensors")
    assert network.seen == 63 and torch.equal(again.column("obs"), found.column("obs"))
    part = with_features(source.select(torch.tensor([2])), network, tmp_path / "part.safetensors")
    assert torch.equal(part.column("obs"), found.column("obs")[40:]) and network.seen == 63 + 21
    model = RewardEnsemble(hidden=[8])
    model.spec = {"obs_dim": 4, "action_dim": 1, "horizon": 0}
    model.build()
    source.write("learned_reward", model.relabel(found))
    assert source.column("learned_reward").isfinite().all()


def test_mistakes(tmp_path: Path) -> None:
    source, path = dot_data(2), tmp_path / "features.safetensors"
    with_features(source, Count(), path)
    with pytest.raises(UserError, match="holds other data"):
        with_features(dot_data(3), Count(), path)
    with pytest.raises(UserError, match="let it return"):
        with_features(source, nn.Identity(), tmp_path / "other.safetensors")
    source.frames = None
    with pytest.raises(UserError, match="states only"):
        with_features(source, Count(), path)
