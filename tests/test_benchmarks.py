"""The benchmarks run, and what they compare computes the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import encoder, engine, growth, measure, memory, people_first_question, readme, scoring
from benchmarks.__main__ import MARKER, main
from benchmarks.plain_iql import PlainIQL
from benchmarks.plain_scoring import PlainEnsemble, k_center_by_full_distances
from lightning_pbrl.data.feedback import Query, Status
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.queries.disagreement import disagreement
from lightning_pbrl.queries.kcenter import k_center


def test_quick_run_writes_every_claim(tmp_path, capsys):
    """Three of the suites, written as files; each of the others has a test of its own (test_benchmark_*.py)."""
    assert main(["--quick", "--out", str(tmp_path), "engine", "scoring", "encoder"]) == 0
    assert "k-center, 20 picks" in capsys.readouterr().out
    suites = {
        "engine": [*engine.CLAIMS, engine.TRAINER_CLAIM],
        "scoring": scoring.CLAIMS,
        "encoder": encoder.CLAIMS["small"] + encoder.CLAIMS["full"],
    }
    for name, claims in suites.items():
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert [row["claim"] for row in result["claims"]] == [claim.text for claim in claims]
        assert all(row["rounds"] == 2 and row["min"] <= row["ratio"] <= row["max"] for row in result["claims"])
        assert result["machine"]["torch"] == torch.__version__ and result["machine"]["threads"] == 1
    seconds, rates = result["seconds"], result["steps_per_cpu_second"]
    assert all(rates[who] * seconds[who]["median"] == pytest.approx(1) for who in seconds) and len(rates) == 6


def test_judge_takes_the_median_of_the_rounds_own_ratios():
    row = measure.judge(measure.Claim("a", 2.0, "other", "ours"), {"other": [2.0, 9.0, 10.0], "ours": [1.0, 3.0, 2.0]})
    assert (row["ratio"], row["min"], row["max"], row["reached"]) == (3.0, 2.0, 5.0, True)
    assert row["ratio_of_medians"] == 4.5


def test_unknown_suite_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["enigne"])
    assert "unknown suite 'enigne': choose from engine, scoring, encoder" in capsys.readouterr().err


def _linears(net):
    return [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]


def test_plain_loop_and_engine_make_the_same_updates():
    """Ten updates from equal weights and equal batches, in float64: the baseline does the engine's work."""
    size = engine.QUICK._replace(rows=600, batch_size=64)
    source = engine.transitions(size.rows, 7, 3)
    plain = PlainIQL([column.double() for column in engine.columns(source)], size.hidden)
    source.packed = source.packed.double()
    ours = engine.engine(source, size, compile=False)
    method = ours.owner.double()
    method.normalizer.mean.zero_()
    method.normalizer.scale.fill_(1.0)
    pairs = [(method.v, None, plain.value), (method.actor.mean, None, plain.policy.net)]
    for twin, net in enumerate((plain.critic.q1, plain.critic.q2)):
        pairs.append((method.q, twin, net))
    for twin, net in enumerate((plain.target.q1, plain.target.q2)):
        pairs.append((method.q_target, twin, net))
    for net in (plain.critic, plain.value, plain.policy, plain.target):
        net.double()
    with torch.no_grad():
        for mine, member, net in pairs:
            for weight, bias, layer in zip(mine.weights, mine.biases, _linears(net), strict=True):
                layer.weight.copy_(weight if member is None else weight[member])
                layer.bias.copy_(bias if member is None else bias[member])
    ours.state.attach()
    before = method.v.weights[0].clone()
    ours.begin([3])
    for drawn in ours.drawn("policy", 10, 0):
        plain.update([column[drawn["rows"]] for column in plain.columns])
    ours.begin([3])
    ours.run("policy", 10)
    assert (method.v.weights[0] - before).abs().max() > 1e-3
    for mine, member, net in pairs:
        for weight, layer in zip(mine.weights, _linears(net), strict=True):
            torch.testing.assert_close(weight if member is None else weight[member], layer.weight, rtol=0, atol=1e-9)


def test_plain_scoring_gives_our_numbers():
    size = scoring.QUICK
    source = engine.transitions(size.rows, size.obs_dim, size.action_dim)
    ours = scoring.ensemble(source, size)
    plain = PlainEnsemble(source.features().contiguous().numpy(), size.ensemble_size, size.hidden)
    scoring.copy_weights(ours, plain)
    np.testing.assert_allclose(predict_reward(source, ours.reward).numpy(), plain.relabel(), atol=1e-5)
    query = scoring.candidates(source, size, 40)
    expected = plain.disagreement(query.start.numpy(), size.length)
    np.testing.assert_allclose(disagreement(ours.returns(query)).numpy(), expected, atol=1e-5)


def test_plain_k_center_picks_what_ours_picks():
    rng = torch.Generator().manual_seed(0)
    points, centres = torch.randn(30, 6, generator=rng), torch.randn(5, 6, generator=rng)
    assert k_center_by_full_distances(points, centres, 8) == k_center(points.__getitem__, 30, [centres], 8).tolist()


def test_plain_encoder_computes_what_ours_computes():
    """Equal weights, windows and pairs, no dropout: equal minibatches, embeddings, losses and gradients of both updates."""
    size, shape, episode = encoder.QUICK._replace(dropout=0.0), (16, 2, 2, 32), 20
    source = engine.transitions(600, 7, 3, episode)
    labels = encoder.answers(source, size.length, size.pairs)
    ours, theirs = encoder.clarify(source, labels, size, shape), encoder.plain(source, labels, size, shape)
    encoder.copy_weights(ours, theirs)
    (drawn,) = ours.running.drawn("encoder", 1, 0)
    pair, partner = drawn["pair"], drawn["partner"].float()
    batch = ours.gather_windows(drawn)
    assert 0.5 < batch["valid"].mean() < 0.95  # some windows are cut off by the end of their episode
    places = [(int(u * 600 / episode), int(v * episode)) for u, v in zip(drawn["episode"], drawn["time"], strict=True)]
    windows = theirs.windows(places)
    for mine, other in zip((batch["obs"], batch["action"], batch["time"], batch["valid"]), windows, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)

    pairs = theirs.pairs(pair.numpy())
    assert set(labels.status[pair].tolist()) == {Status.ANSWERED, Status.SKIPPED}
    z = ours.embed(Query("pair", labels.start[pair], size.length))
    for side in (0, 1):
        other = theirs.model.embed(*pairs[2 * side : 2 * side + 2], torch.ones(32, size.length))
        torch.testing.assert_close(z[:, side], other, rtol=1e-4, atol=1e-5)

    mine, other = ours.contrast(batch), theirs.contrast(windows, pairs, partner)
    for name in ("ambiguity", "quadrilateral", "norm"):
        assert mine[name].item() == pytest.approx(other[name].item(), abs=1e-5)
    both = [(ours.reconstruct(batch)["encoder"], theirs.reconstruction(*windows)), (mine["encoder"], other["loss"])]
    layers = [(a.get_parameter(n), p) for a, b in encoder.counterparts(ours, theirs) for n, p in b.named_parameters()]
    assert len(layers) == len(list(theirs.model.parameters()))
    for our_loss, their_loss in both:
        assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
        ours_moved = torch.autograd.grad(our_loss, [p for p, _ in layers], allow_unused=True)
        theirs_moved = torch.autograd.grad(their_loss, [p for _, p in layers], allow_unused=True)
        for mine, other in zip(ours_moved, theirs_moved, strict=True):
            assert (mine is None) == (other is None)  # the second update leaves the decoder as it is
            if mine is not None:
                torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_memory_counts_what_it_says():
    run = memory.fit(memory.QUICK, 20, 10)
    assert (run["questions"], run["rounds"], run["per_round"]) == (20, 2, 10)
    assert run["label_bytes"] == 20 * (2 * 8 + 4 + 8)  # two row ids, a value, a status
    assert run["data_bytes"] == 2_000 * (39 + 4 + 39 + 3) * 4
    assert 10**7 < run["peak_bytes_before_fit"] <= run["peak_bytes"] < 10**11 and run["store_file_bytes"] > 0
    assert memory.reserved() == {"pairs": 500_000, "bytes_per_pair": 17_200, "bytes": 8_600_000_000}
    runs = [{"questions": n, "per_round": p, "peak_bytes": b} for n, p, b in ((5, 5, 0), (10, 10, 1_000), (30, 10, 1_600))]
    assert memory.growth(runs) == 30.0


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "QUICK", memory.QUICK._replace(runs=((20, 10),)))
    assert memory.command_line(["--quick", "--out", str(tmp_path)]) == 0
    (run,) = (result := json.loads((tmp_path / "memory.json").read_text()))["runs"]
    assert run["questions"] == 20 and run["peak_bytes_range"] == [run["peak_bytes"]] * 2
    assert result["machine"]["command"].startswith("python -m benchmarks.memory")
    assert "peak, MiB" in capsys.readouterr().out
    shown = memory.in_readme({**result, "bytes_per_further_question": 30.0})
    assert "| 20 | 10 |" in shown and "8.6 GB" in shown


def test_a_block_of_the_readme_is_rewritten(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n")
    readme.rewrite("x", "new", path)
    assert path.read_text() == "a\n<!-- x -->\n\nnew\n\n<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n"
    for marker in (MARKER, memory.MARKER):
        assert f"<!-- {marker} -->" in readme.README.read_text()


def test_the_first_question_is_measured_with_the_commands_of_the_readme() -> None:
    *first, last = people_first_question.commands()
    assert [command[3] for command in first] == ["collect"] and last[3] == "fit"
    assert "--ask.teacher.init_args.serve=true" in last  # the one that prints the link


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_growth_measures_how_far_the_peak_rises():
    growth.hdf5_process._stop_idle()  # readers that other tests have left
    for megabytes in (40, 80):
        seen = growth.measured(lambda size=megabytes: np.ones(size * 125_000))
        assert 0.9 < seen["peak"] / (megabytes * 1e6) < 1.3 and seen["beside_peak"] == 0


def test_growth_compares_the_seconds_of_all_processes(monkeypatch):
    seen = {"ours": {"seconds": 2.0, "beside_seconds": 4.0}, "theirs": {"seconds": 3.0, "beside_seconds": 0.0}}
    sizes = {"peak": 3 << 20, "beside_peak": 1 << 20}
    monkeypatch.setattr(growth, "alone", lambda what, path: {**seen[what], **sizes})
    row = growth.compare("ours", "theirs", Path("a"), 3)
    assert row["ratio"] == [2.0, 2.0, 2.0] and row["longest_ratio"][1] == pytest.approx(4 / 3)
    line = growth.line({**row, "title": "x"})
    assert line == "| x | 2.00 + 4.00 | 3.00 + 0.00 | 2.00 (2.00 .. 2.00) | 1.33 | 3 (3) | 1 | 3 (3) |"
