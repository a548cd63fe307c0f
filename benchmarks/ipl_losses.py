"""``python -m benchmarks.ipl_losses [--updates N]``: does IPL's loss rise as training goes on in plain PyTorch, too?

IPL's critic and value (variant iql, Meta-World's settings) as a loop of forty lines from the paper, without this library's
learner, on the comparisons of ``experiment/ipl/small.yaml``. Every 1,000 updates: means of the preference loss, of λ E[r_Q^2]
and of the accuracy before the update, and the standard deviation of V. Writes ``results/ipl-losses.json``. The loop of
``plain_ipl.py``, which is timed, has a policy, a replay and Gym's settings.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import machine
from benchmarks.readme import RESULTS
from lightning_pbrl.train_cli import train_cli

PAIRS, STEPS, LR, POLYAK, DISCOUNT, EXPECTILE, CHI2 = 16, 16, 3e-4, 0.005, 0.99, 0.75, 3.0
SEEN = ("preference_loss", "chi2_loss", "accuracy", "value_std")


def comparisons(capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations (N, 2, k, O), actions (N, 2, k, A) and labels (N,) of plate-slide."""
    with tempfile.TemporaryDirectory() as folder:
        data = ["-c", "data/comparisons/plate-slide-decoys.yaml", f"--data.init_args.capacity={capacity}"]
        module: Any = train_cli([*data, "-c", "model/ipl.yaml", f"--run_dir={folder}"], run=False).datamodule
        module.prepare_data()
        module.setup("fit")
    source, labels = module.source, module.labels
    rows = labels.start[..., None] + torch.arange(labels.length)
    found = source.features()[rows.flatten()].view(*rows.shape, -1)
    return found[..., : source.obs_dim], found[..., source.obs_dim :], labels.value


def network(inputs: int) -> nn.Sequential:
    """Return three hidden layers of 256 and one output, with orthogonal weights."""
    layers: list[nn.Module] = []
    for size in (inputs, 256, 256):
        layers += [nn.Linear(size, 256), nn.ReLU()]
    layers.append(nn.Linear(256, 1))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def train(obs: Tensor, action: Tensor, label: Tensor, updates: int, every: int = 1000) -> list[dict[str, float]]:
    """Return the means of every ``every`` updates."""
    torch.manual_seed(0)
    size, length = obs.shape[-1], obs.shape[2]
    critics = nn.ModuleList(network(size + action.shape[-1]) for _ in range(2))
    followers, value = copy.deepcopy(critics), network(size)
    of_critics, of_value = torch.optim.Adam(critics.parameters(), LR), torch.optim.Adam(value.parameters(), LR)
    order, seen, told = torch.randperm(len(label)), [], []
    for update in range(1, updates + 1):
        if len(order) < PAIRS:
            order = torch.randperm(len(label))
        pair, order = order[:PAIRS], order[PAIRS:]
        steps = torch.randint(0, length - STEPS + 1, (PAIRS, 1)) + torch.arange(STEPS)
        o, a = (part[pair[:, None], :, steps].transpose(1, 2) for part in (obs, action))  # (B, 2, m, ...)
        s, after = (part.reshape(-1, size) for part in (o[:, :, :-1], o[:, :, 1:]))
        both = torch.cat([s, a[:, :, :-1].reshape(len(s), -1)], dim=-1)
        with torch.no_grad():
            target = torch.cat([each(both) for each in followers], dim=-1).amin(-1)
        u = target - value(s).squeeze(-1)
        of_value.zero_grad()
        (torch.where(u < 0, 1 - EXPECTILE, EXPECTILE) * u.square()).mean().backward()
        of_value.step()
        with torch.no_grad():
            later = value(after).squeeze(-1)
        reward = torch.stack([each(both).squeeze(-1) for each in critics]) - DISCOUNT * later
        returns = reward.view(2, PAIRS, 2, STEPS - 1).sum(-1)
        logit = returns[..., 1] - returns[..., 0]
        preference = nn.functional.binary_cross_entropy_with_logits(logit, label[pair].expand(2, -1))
        size_of_reward = CHI2 * reward.square().mean()
        of_critics.zero_grad()
        (preference + size_of_reward).backward()
        of_critics.step()
        with torch.no_grad():
            for mine, other in zip(followers.parameters(), critics.parameters(), strict=True):
                mine.lerp_(other, POLYAK)
        strict = label[pair] != 0.5
        right = (logit.detach() > 0) == (label[pair] > 0.5)
        figures = (preference, size_of_reward, right[:, strict].float().mean(), later.std())
        seen.append([float(each.detach()) for each in figures])
        if update % every == 0:
            names = ("preference_loss", "chi2_loss", "accuracy", "value_std")
            told.append(
                {"updates": update, **{name: mean(part) for name, part in zip(names, zip(*seen, strict=True), strict=True)}}
            )
            print(json.dumps(told[-1]), flush=True)
            seen = []
    return told


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ipl_losses", description=__doc__)
    parser.add_argument("--updates", type=int, default=30_000)
    parser.add_argument("--capacity", type=int, default=4_000, help="comparisons (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine("python -m benchmarks.ipl_losses")
    rows = train(*comparisons(options.capacity), options.updates)
    result = {"machine": about, "capacity": options.capacity, "rows": rows}
    (RESULTS / "ipl-losses.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
