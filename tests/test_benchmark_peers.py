"""The comparison with other libraries takes turns, judges them, and leaves out those that are not installed."""

from __future__ import annotations

import importlib.util
import json

import pytest

from benchmarks import peer_workers, peers


def test_without_peers_it_says_which_are_missing(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers.main([]) == 2
    left_out = capsys.readouterr().err.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in left_out] == [f"{name} is not installed." for name in ("d3rlpy", "SBX", "SB3")]


def test_an_unknown_comparison_is_refused(capsys):
    with pytest.raises(SystemExit):
        peers.main(["fits"])
    assert "unknown comparison 'fits': choose from fit, loop" in capsys.readouterr().err


def test_contestants_take_turns_in_a_rotating_order(monkeypatch):
    asked = []

    class Invented:
        """A contestant that takes so many seconds per unit as its name says."""

        def __init__(self, name):
            self.name = name

        def answer(self):
            return "ready"

        def turn(self, units):
            asked.append((self.name, units))
            return float(self.name)

        def end(self):
            asked.append((self.name, "ended"))

    monkeypatch.setattr(peers, "Worker", Invented)
    assert peers.duel(["1", "2"], 5, 2) == {"1": [1.0, 1.0], "2": [2.0, 2.0]}
    assert asked == [("1", 5), ("2", 5), ("2", 5), ("1", 5), ("1", "ended"), ("2", "ended")]


def test_every_contestant_has_a_process():
    claims = [claim for duel in peers.DUELS.values() for claim in duel.claims]
    assert {name for claim in claims for name in (claim.ours, claim.other)} == set(peer_workers.WORKERS)


def test_a_dead_process_is_told(monkeypatch):
    monkeypatch.setattr(peers.sys, "executable", "false")
    worker = peers.Worker("SAC")
    with pytest.raises(RuntimeError, match="the process of SAC has ended with code 1"):
        worker.answer()
    worker.end()


def test_result_is_a_table():
    row = {"claim": "ours / theirs", "goal": 2.0, "ratio": 2.5, "min": 2.0, "max": 3.0, "rounds": 3}
    about = {"command": "c", "cpu": "x", "cpu_capability": "AVX2", "threads": 1, "torch": "2", "peers": {"d3rlpy": "1"}}
    table = peers.in_readme(json.loads(json.dumps({"fit": {"machine": about, "claims": [row]}})))
    assert "| ours / theirs | 2 | 2.5 | 2 .. 3 | 3 |" in table
