"""The trajectory encoder: who sees whom, what padding does, and what the two read-outs depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.trajectory_encoder import ActionDecoder, AntiCausalEncoder, Readout
from lightning_pbrl.nn.transformer import CausalTransformer, SelfAttention, causal_mask

SIZES = {"width": 8, "layers": 2, "heads": 2, "dropout": 0.1, "max_steps": 40}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder(readout: Readout = "full") -> AntiCausalEncoder:
    torch.manual_seed(0)
    return AntiCausalEncoder(3, 4, readout=readout, **SIZES).eval()  # type: ignore[arg-type]


def decoder() -> ActionDecoder:
    torch.manual_seed(1)
    return ActionDecoder(3, 2, 4, **SIZES).eval()  # type: ignore[arg-type]


def steps(batch: int, length: int) -> Tensor:
    return torch.arange(length).expand(batch, length)


def test_attention_against_a_slow_loop() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(4, 2, 0.0).requires_grad_(False)
    x, valid = numbers(2, 5, 4), torch.tensor([[0.0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(4, dim=-1)
    expected = torch.zeros(2, 5, 4)
    for b in range(2):
        for head in (slice(0, 2), slice(2, 4)):
            for t in range(5):
                score = [float(q[b, t, head] @ k[b, s, head]) / math.sqrt(2) - 1e4 * (valid[b, s] == 0) for s in range(t + 1)]
                weight = torch.tensor(score).softmax(0)
                expected[b, t, head] = sum(w * v[b, s, head] for s, w in enumerate(weight))
    expected = expected @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(x, causal_mask(valid)), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(layer(x, None)[1], expected[1], atol=1e-5, rtol=0)  # no padding: no mask needed


def test_mask_by_hand() -> None:
    inf = math.inf
    expected = [[-1e4, -inf, -inf], [-1e4, 0, -inf], [-1e4, 0, 0]]
    assert causal_mask(torch.tensor([[0, 1, 1]])).tolist() == [[expected]]


def test_a_token_depends_on_earlier_tokens_only() -> None:
    torch.manual_seed(0)
    stack = CausalTransformer(8, 2, 2).eval().requires_grad_(False)
    for p in stack.parameters():
        p.mul_(10 if p.dim() == 2 else 1)  # away from the tiny initial weights, so that a dependence shows
    x = numbers(1, 6, 8)
    changed = x.clone()
    changed[0, 3, 0] += 1
    moved = (stack(x) - stack(changed)).abs().sum(-1)[0]
    assert moved[:3].max() == 0 and moved[3:].min() > 1e-3


def test_sizes_of_the_paper() -> None:
    # Two stacks of 4 x 12.6 width^2, two tables of 500 x 256 and the small layers: about 6.5 million parameters.
    full = {"width": 256, "layers": 4, "heads": 4, "dropout": 0.1, "max_steps": 500}
    parts = [AntiCausalEncoder(39, 16, **full), ActionDecoder(39, 4, 16, **full)]  # type: ignore[arg-type]
    assert sum(p.numel() for part in parts for p in part.parameters()) == pytest.approx(6.5e6, rel=0.03)
    weights = parts[0].stack.blocks[0].mlp[0].weight
    assert weights.shape == (1024, 256) and weights.std().item() == pytest.approx(0.02, rel=0.02)


def test_width_that_heads_do_not_divide() -> None:
    with pytest.raises(UserError, match="width 8 cannot have 3 heads: choose a width that heads divides"):
        CausalTransformer(8, 1, 3)


@pytest.mark.parametrize("readout", ["full", "reference"])
def test_what_the_segment_embedding_depends_on(readout: Readout) -> None:
    """Paper: on all states. Released code: on the last state alone, the others change it by exactly 0."""
    net, obs = encoder(readout), numbers(1, 10, 3)
    before = net.segment(obs, steps(1, 10))
    for t in range(10):
        changed = obs.clone()
        changed[0, t] += 1
        moved = (net.segment(changed, steps(1, 10)) - before).abs().max().item()
        if readout == "full" or t == 9:
            assert moved > 1e-5, t
        else:
            assert moved == 0, t


def test_embedding_t_sees_what_follows() -> None:
    net, obs = encoder(), numbers(1, 6, 3)
    changed = obs.clone()
    changed[0, 2] += 1
    moved = (net(obs, steps(1, 6)) - net(changed, steps(1, 6))).abs().sum(-1)[0]
    assert moved[3:].max() == 0 and moved[:3].min() > 1e-5
    assert torch.equal(encoder("reference")(obs, steps(1, 6)), net(obs, steps(1, 6)).flip(1))  # the flip is all they differ in


def test_time_of_a_segment_matters() -> None:
    net, obs = encoder(), numbers(1, 6, 3)
    assert (net.segment(obs, steps(1, 6)) - net.segment(obs, steps(1, 6) + 5)).abs().max() > 1e-3


def test_padding_in_front_changes_nothing() -> None:
    """A window of 4 steps, alone and behind 3 steps of padding with arbitrary content."""
    enc, dec = encoder(), decoder()
    obs, action, time = numbers(2, 4, 3), numbers(2, 4, 2, seed=1), steps(2, 4) + 7
    padded = [torch.cat([torch.full((2, 3, x.shape[-1]), 9.0), x], 1) for x in (obs, action)]
    long_time = torch.cat([torch.zeros(2, 3, dtype=torch.long), time], 1)
    valid = torch.cat([torch.zeros(2, 3), torch.ones(2, 4)], 1)
    z, long_z = enc(obs, time), enc(padded[0], long_time, valid)
    torch.testing.assert_close(long_z[:, 3:], z, atol=1e-5, rtol=0)
    out, long_out = dec(z, obs, action, time), dec(long_z, *padded, long_time, valid)
    torch.testing.assert_close(long_out[:, 3:], out, atol=1e-5, rtol=0)
    assert torch.isfinite(long_out).all() and torch.isfinite(long_z).all()


def test_decoder_sees_earlier_actions_only() -> None:
    dec = decoder()
    z, obs, action = numbers(1, 5, 4), numbers(1, 5, 3, seed=1), numbers(1, 5, 2, seed=2)
    before = dec(z, obs, action, steps(1, 5))
    assert before.shape == (1, 5, 2) and before.abs().max() < 1

    def moved(**change: Tensor) -> list[bool]:
        after = dec(**{"z": z, "obs": obs, "action": action, "time": steps(1, 5), **change})
        return ((after - before).abs().sum(-1)[0] > 0).tolist()

    for t in range(5):
        bump = torch.zeros(1, 5, 1)
        bump[0, t] = 1
        assert moved(action=action + bump) == [step > t for step in range(5)]
        assert moved(obs=obs + bump) == [step >= t for step in range(5)]
        assert moved(z=z + bump) == [step >= t for step in range(5)]


def test_dropout_only_while_training() -> None:
    net, obs = encoder(), numbers(1, 6, 3)
    assert torch.equal(net(obs, steps(1, 6)), net(obs, steps(1, 6)))
    net.train()
    assert not torch.equal(net(obs, steps(1, 6)), net(obs, steps(1, 6)))
    torch.manual_seed(3)
    first = net(obs, steps(1, 6))
    torch.manual_seed(3)
    assert torch.equal(net(obs, steps(1, 6)), first)
