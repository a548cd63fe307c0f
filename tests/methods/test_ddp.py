"""Two processes (gloo, CPU): one run, not two; equal labels, equal weights, exact evaluation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_toys import OneSided
from torch.utils._pytree import tree_leaves
from toys import ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.methods.loading import load_method

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "two_ranks.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What both ranks ended with, and their folder."""
    folder = tmp_path_factory.mktemp("ddp")
    clean = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=120, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in (0, 1)], folder


@pytest.mark.parametrize("name", ["RewardEnsemble", "IQL"])
def test_ranks_end_with_equal_weights(name: str, ranks: Any) -> None:
    (one, two), _ = ranks
    assert_same(one[name]["weights"], two[name]["weights"])
    assert one[name]["step"] == two[name]["step"] == one[name]["updates"] > 0
    assert all(torch.isfinite(value).all() for value in one[name]["weights"].values())
    assert any(not torch.equal(value, one[name]["weights"][key]) for key, value in one[name]["before"].items())


def test_ranks_draw_different_minibatches(ranks: Any) -> None:
    (one, two), _ = ranks
    for name in one:
        pairs = zip(tree_leaves(one[name]["drawn"]), tree_leaves(two[name]["drawn"]), strict=True)
        assert any(not torch.equal(mine, other) for mine, other in pairs)


def test_labels_are_asked_once_and_equal_on_both(ranks: Any) -> None:
    (one, two), folder = ranks
    assert_same(one["RewardEnsemble"]["labels"], two["RewardEnsemble"]["labels"])
    store = LabelStore(folder / "RewardEnsemble" / "labels.sqlite", ToyData().load().fingerprint)
    assert store.count == 20 == len(one["RewardEnsemble"]["labels"][0])
    assert torch.equal(store.labels("pair").start, one["RewardEnsemble"]["labels"][0])


def test_five_episodes_on_two_ranks_give_the_exact_mean(ranks: Any) -> None:
    """And a single test episode, of which one rank has none."""
    _, folder = ranks
    rows = read_csv(folder / "IQL")
    for prefix, purpose, count in (("eval", "validation", 5), ("test", "test", 1)):
        seeds = ToyData().episode_seeds(purpose, count)
        found = [row for row in rows if f"{prefix}/return_mean" in row]
        assert len(found) == (2 if prefix == "eval" else 1)
        for row in found:
            assert row[f"{prefix}/return_mean"] == pytest.approx(sum(3.0 * (s % 97) for s in seeds) / count, rel=1e-6)
            assert row[f"{prefix}/success_rate"] == pytest.approx(sum(s % 2 for s in seeds) / count)


def test_validation_pairs_are_shared_out(ranks: Any) -> None:
    """One rank has no decisive answer among its own, and both measure what one process does, from the same final weights."""
    (one, two), folder = ranks
    whole = make_trainer(folder / "whole").test(
        load_method(folder / "RewardEnsemble" / "checkpoints" / "last.ckpt").requires_grad_(True), OneSided(), verbose=False
    )[0]
    keys = {"pref/accuracy", "pref/calibration_error", "pref/return_pearson", "pref/return_spearman"}
    assert keys <= set(whole)
    for key in keys:
        for rank in (one, two):
            assert rank["RewardEnsemble"]["metrics"][key] == pytest.approx(whole[key], abs=1e-6)


def test_steps_on_the_axis_are_updates(ranks: Any) -> None:
    _, folder = ranks
    steps = dict.fromkeys(row["step"] for row in read_csv(folder / "IQL") if "train/q_loss" in row)
    assert list(steps) == [7, 14, 15, 22, 29, 30]


def test_two_nodes_of_one_device(tmp_path: Path) -> None:
    """Two nodes on loopback, started by hand as the documentation says: equal weights, minibatches of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    clean |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(SCRIPT.with_name("one_of_two_nodes.py")), str(tmp_path)]
    nodes = [
        subprocess.Popen(command, env={**clean, "NODE_RANK": str(rank)}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for rank in (0, 1)
    ]
    for node in nodes:
        err = node.communicate(timeout=300)[1].decode()
        assert node.returncode == 0, err[-3000:]
    one, two = (torch.load(tmp_path / f"node{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("IQL", "BC"):
        assert_same(one[name]["weights"], two[name]["weights"])
        assert (one[name]["world"], two[name]["world"]) == ((2, 0, 0), (2, 1, 0))
        assert one[name]["step"] == two[name]["step"] == 12
        pairs = zip(tree_leaves(one[name]["drawn"]), tree_leaves(two[name]["drawn"]), strict=True)
        assert any(not torch.equal(mine, other) for mine, other in pairs)
