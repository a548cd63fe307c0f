"""Two processes (gloo, CPU): one run, not two; equal labels, equal weights, exact evaluation."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import METHODS, small
from preference_toys import OneSided
from torch.utils._pytree import tree_leaves, tree_map
from toys import ToyData, assert_same, callbacks_for, data_for, make_trainer, read_csv
from warm import CONTEXT, PATIENCE

from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods.loading import load_method

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "ranks.py"
CLEAN = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}

pytestmark = pytest.mark.slow


def launched(folder: Path, devices: int, *cases: str) -> list[dict[str, Any]]:
    """What each rank of a launch ended with."""
    command = [sys.executable, str(SCRIPT), str(folder), str(devices), "1", *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=CLEAN, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(devices)]


def node(environment: dict[str, str], *arguments: Any) -> None:
    """Be a node of one device, started by hand."""
    os.environ.clear()
    os.environ.update(CLEAN | environment)
    runpy.run_path(str(SCRIPT))["main"](*arguments)


def forked(environments: list[dict[str, str]], *arguments: Any) -> None:
    """Run the script's ``main`` in a process of each environment."""
    nodes = [CONTEXT.Process(target=node, args=(environment, *arguments)) for environment in environments]
    for each in nodes:
        each.start()
    for each in nodes:
        each.join(PATIENCE)
        assert each.exitcode == 0


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What both ranks ended with, and their folder."""
    folder = tmp_path_factory.mktemp("ddp")
    return launched(folder, 2, "whole", "every", "halves", "questions"), folder


@pytest.mark.parametrize("name", ["RewardEnsemble", "IQL"])
def test_ranks_end_with_equal_weights(name: str, ranks: Any) -> None:
    (one, two), _ = ranks
    assert_same(one[name]["weights"], two[name]["weights"])
    assert one[name]["step"] == two[name]["step"] == one[name]["updates"] > 0
    assert all(torch.isfinite(value).all() for value in one[name]["weights"].values())
    assert any(not torch.equal(value, one[name]["weights"][key]) for key, value in one[name]["before"].items())


def different(mine: Any, other: Any) -> bool:
    """Whether two ranks have drawn different numbers."""
    return any(not torch.equal(a, b) for a, b in zip(tree_leaves(mine), tree_leaves(other), strict=True))


def test_ranks_draw_different_minibatches(ranks: Any) -> None:
    (one, two), _ = ranks
    assert all(different(one[name]["drawn"], two[name]["drawn"]) for name in ("RewardEnsemble", "IQL"))


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.ddp])
def test_every_method_that_takes_several_devices(name: str, ranks: Any) -> None:
    """Two updates, of minibatches of their own, leave equal weights that have moved."""
    one, two = (rank[f"every/{name}"] for rank in ranks[0])
    assert_same(one["weights"], two["weights"])
    assert one["step"] == two["step"] == 2
    assert different(one["drawn"], two["drawn"])
    assert all(value.isfinite().all() for value in one["weights"].values() if value.is_floating_point())
    assert any(not torch.equal(value, one["weights"][key]) for key, value in one["before"].items())


@pytest.mark.parametrize("name", ["BC", "IQL", "TD3BC"])
def test_two_batches_are_one_of_twice_the_size(name: str, ranks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process that draws what two ranks have drawn, side by side, ends with their weights, to rounding."""
    one, two = (rank[f"halves/{name}"] for rank in ranks[0])
    blocks = iter(list(zip(one["drawn"], two["drawn"], strict=True)))

    def drawn(*_: Any) -> Any:
        return [tree_map(lambda *halves: torch.cat(halves), *updates) for updates in zip(*next(blocks), strict=True)]

    monkeypatch.setattr(UpdateEngine, "drawn", drawn)
    method = small(name, block=2, batch_size=32, compile=False)
    make_trainer(tmp_path, callbacks_for(type(method)), max_steps=2).fit(method, data_for(type(method)))
    assert next(blocks, None) is None
    for key, value in method.named_parameters():
        torch.testing.assert_close(value, one["weights"][key], rtol=0, atol=1e-5)
        assert (value - one["before"][key]).abs().max() > 1e-4 or "target" in key


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process asks."""
    folder = tmp_path_factory.mktemp("alone")
    forked([{}], folder, 1, 1, "questions")
    found: dict[str, Any] = torch.load(folder / "rank0.pt", weights_only=True)
    return found


QUESTIONS = [
    *(
        "RewardEnsemble/DisagreementQuery/pair",
        "RewardEnsemble/KCenterQuery/pair",
        "RewardEnsemble/KCenterDisagreementQuery/pair",
    ),
    *("CLARIFY/EmbeddingQuery/pair", "UnifiedReward/BALDQuery/pair", "UnifiedReward/BALDQuery/rating"),
    *("PreferenceTransformer/EntropyQuery/pair", "IPL/EntropyQuery/pair"),
]


@pytest.mark.parametrize("name", QUESTIONS)
def test_two_ranks_ask_what_one_asks(name: str, ranks: Any, alone: dict[str, Any]) -> None:
    """And each passes about half of the candidates through the networks."""
    one, two = (rank[name] for rank in ranks[0])
    for kind in ("labels", "ratings"):
        assert torch.equal(one[kind][0], alone[name][kind][0])
        assert_same(one[kind][:1], two[kind][:1])
    assert len(one["labels"][0]) + len(one["ratings"][0]) == 40 + 12
    if "KCenterQuery" in name:  # it looks at observations alone
        assert one["passed"] == two["passed"] == 0
    else:
        assert 0 < two["passed"] <= one["passed"] < 1.5 * two["passed"]
    assert alone[name]["passed"] == 0


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
    keys = {"pref/accuracy", "pref/calibration_error", "pref/decisive", "pref/return_pearson", "pref/return_spearman"}
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
    loopback = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    forked([{**loopback, "NODE_RANK": str(rank)} for rank in (0, 1)], tmp_path, 1, 2, "nodes")
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("IQL", "BC"):
        assert_same(one[name]["weights"], two[name]["weights"])
        assert (one[name]["world"], two[name]["world"]) == ((2, 0, 0), (2, 1, 0))
        assert one[name]["step"] == two[name]["step"] == 12
        assert different(one[name]["drawn"], two[name]["drawn"])
