"""The benchmarks run, and what they compare computes the same numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benchmarks import engine, measure, scoring  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.plain_iql import PlainIQL  # noqa: E402
from benchmarks.plain_scoring import PlainEnsemble, k_center_by_full_distances  # noqa: E402
from lightning_pbrl.data.relabel import predict_reward  # noqa: E402
from lightning_pbrl.queries.disagreement import disagreement  # noqa: E402
from lightning_pbrl.queries.kcenter import k_center  # noqa: E402


def test_quick_run_writes_every_claim(tmp_path, capsys):
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    assert "k-center, 20 picks" in capsys.readouterr().out
    for name, claims in (("engine", [*engine.CLAIMS, engine.TRAINER_CLAIM]), ("scoring", scoring.CLAIMS)):
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert [row["claim"] for row in result["claims"]] == [claim.text for claim in claims]
        assert all(row["rounds"] == 2 and row["min"] <= row["ratio"] <= row["max"] for row in result["claims"])
        assert result["machine"]["torch"] == torch.__version__ and result["machine"]["threads"] == 1


def test_judge_takes_the_median_of_the_rounds_own_ratios():
    row = measure.judge(measure.Claim("a", 2.0, "other", "ours"), {"other": [2.0, 9.0, 10.0], "ours": [1.0, 3.0, 2.0]})
    assert (row["ratio"], row["min"], row["max"], row["reached"]) == (3.0, 2.0, 5.0, True)
    assert row["ratio_of_medians"] == 4.5


def test_unknown_suite_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["enigne"])
    assert "unknown suite 'enigne': choose from engine, scoring" in capsys.readouterr().err


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
    ours.flat.attach()
    before = method.v.weights[0].clone()
    for ids in list(ours.program.sample(10, torch.Generator().manual_seed(3))):
        plain.update([column[ids] for column in plain.columns])
    ours.generators[0].manual_seed(3)
    ours.run(10)
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
    assert k_center_by_full_distances(points, centres, 8) == k_center(points, [centres], 8).tolist()
