"""Networks whose reward depends on the past: who sees whom, the weighted sum by hand, and what padding does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.nn.lstm_reward import LSTMReward
from lightning_pbrl.nn.preference_transformer import TransformerReward, weighted_sum
from lightning_pbrl.nn.transformer import CausalTransformer, SelfAttention, causal_mask

KINDS = ["weighted", "plain", "two layers", "lstm"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "lstm":
        return LSTMReward(3, 2, width=16).eval().requires_grad_(False)
    layers = 2 if kind == "two layers" else 1
    net = TransformerReward(3, 2, width=16, layers=layers, heads=2, max_steps=20, weighted=kind != "plain", attention_dim=4)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_depends_on_the_past_alone(kind: str) -> None:
    net, x = network(kind), numbers(1, 8, 5)
    before, z = net(x)
    for t in range(8):
        for part in (0, 4):  # a state entry and an action entry
            changed = x.clone()
            changed[0, t, part] += 1
            after, after_z = net(changed)
            moved = (after - before).abs()[0]
            assert t == 0 or moved[:t].max() == 0
            assert moved[t : t + 3].min() > 1e-7, (t, part)  # an LSTM forgets
            if kind in ("weighted", "two layers"):
                assert (after_z - z).abs().min() > 1e-7  # preference attention looks both ways


def test_weighted_sum_by_hand() -> None:
    # Two steps, D = 1. q = (1, 0), k = (0, log 3), r = (1, 5). Step 0 weighs exp(0) : exp(log 3) = 1 : 3, step 1 half and half.
    query, key, reward = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [math.log(3)]]]), torch.tensor([[1.0, 5.0]])
    z = weighted_sum(query, key, reward)
    assert z.tolist()[0] == pytest.approx([(1 * 1 + 3 * 5) / 4, 3.0])
    # The mean of z is sum_i w_i r_i with w = ((1/4 + 1/2) / 2, (3/4 + 1/2) / 2) = (3/8, 5/8).
    assert z.mean().item() == pytest.approx(3 / 8 * 1 + 5 / 8 * 5)
    # With D = 4 and equal entries the product is four times as large; scaled by 1 / sqrt 4 twice as large.
    wide = weighted_sum(query.expand(1, 2, 4), key.expand(1, 2, 4), reward)
    assert wide[0, 0].item() == pytest.approx((1 + 81 * 5) / 82)
    scaled = weighted_sum(query.expand(1, 2, 4), key.expand(1, 2, 4), reward, scale=True)
    assert scaled[0, 0].item() == pytest.approx((1 + 9 * 5) / 10)


def test_weights_sum_to_one() -> None:
    query, key = numbers(3, 6, 4), numbers(3, 6, 4, seed=1)
    torch.testing.assert_close(weighted_sum(query, key, torch.ones(3, 6)), torch.ones(3, 6))
    rows = torch.stack([weighted_sum(query, key, torch.eye(6)[i].expand(3, 6)) for i in range(6)], -1)  # weight of each r_i
    assert rows.min() > 0
    torch.testing.assert_close(rows.sum(-1), torch.ones(3, 6))


def test_padding_gets_no_weight() -> None:
    query, key, reward = numbers(1, 5, 4), numbers(1, 5, 4, seed=1), torch.tensor([[1e6, -1e6, 1.0, 2.0, 3.0]])
    valid = torch.tensor([[False, False, True, True, True]])
    expected = weighted_sum(query[:, 2:], key[:, 2:], reward[:, 2:])
    torch.testing.assert_close(weighted_sum(query, key, reward, valid)[:, 2:], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_in_front_changes_nothing(kind: str) -> None:
    """A window of 4 steps, alone and behind 3 steps of padding with arbitrary content."""
    net, x = network(kind), numbers(2, 4, 5)
    padded = torch.cat([torch.full((2, 3, 5), 9.0), x], 1)
    time = torch.tensor([0, 0, 0, 1, 2, 3, 4]).expand(2, 7)
    for out, expected in zip(net(padded, time), net(x), strict=True):
        torch.testing.assert_close(out[:, 3:], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(net.last(padded, time), net.last(x), atol=1e-5, rtol=0)
    mixed = net.last(torch.stack([padded[0], numbers(7, 5, seed=2)]), torch.stack([time[0], torch.arange(1, 8)]))
    torch.testing.assert_close(mixed[0], net.last(x)[0], atol=1e-5, rtol=0)  # beside a window without padding
    torch.testing.assert_close(mixed[1], net.last(numbers(1, 7, 5, seed=2))[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_short_way_to_the_last_reward(kind: str) -> None:
    net, x = network(kind), numbers(3, 9, 5)
    torch.testing.assert_close(net.last(x), net(x)[0][:, -1], atol=1e-6, rtol=0)
    time = torch.tensor([[0, 0, 0, 0, 1, 2, 3, 4, 5]] * 3)
    torch.testing.assert_close(net.last(x, time), net(x, time)[0][:, -1], atol=1e-6, rtol=0)


def test_one_query_gives_the_last_row_of_attention() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, 0.0).requires_grad_(False)
    x, mask = numbers(2, 5, 8), causal_mask(torch.tensor([[0.0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
    layer.qkv.bias.copy_(numbers(24, seed=1))
    torch.testing.assert_close(layer.last(x, None), layer(x, None)[:, -1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.last(x, mask), layer(x, mask)[:, -1:], atol=1e-6, rtol=0)
    stack = CausalTransformer(8, 3, 2).eval().requires_grad_(False)
    torch.testing.assert_close(stack(x, last=True), stack(x)[:, -1:], atol=1e-6, rtol=0)


def test_time_and_order_of_tokens() -> None:
    """Time 0 is padding's; a step's reward sees its own action, because the action's token comes first."""
    net, x = network("weighted"), numbers(1, 4, 5)
    torch.testing.assert_close(net(x)[0], net(x, torch.arange(1, 5)[None])[0])
    later = net(x, torch.arange(3, 7)[None])[0]
    assert (later - net(x)[0]).abs().max() > 1e-4
    changed = x.clone()
    changed[0, 3, 4] += 1
    assert (net(changed)[0] - net(x)[0])[0, 3].abs() > 1e-5


def test_dropout_only_while_training() -> None:
    for kind in ("weighted", "lstm"):
        net, x = network(kind), numbers(2, 6, 5)
        assert torch.equal(net(x)[0], net(x)[0])
        net.train()
        assert not torch.equal(net(x)[0], net(x)[0])


def test_sizes_of_the_release() -> None:
    """Width d = 256, hopper: 11 + 3 entries of a step."""
    d, table = 256, 1001 * 256
    embeddings = (11 + 3) * d + 2 * d + table + 2 * d  # two linear maps, time, a LayerNorm
    block = (d * 3 * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 4 * d
    net = TransformerReward(11, 3)
    assert sum(p.numel() for p in net.parameters()) == embeddings + block + 2 * d + (d + 1) * 513
    plain = TransformerReward(11, 3, weighted=False)
    assert sum(p.numel() for p in plain.parameters()) == embeddings + block + 2 * d + (d + 1) * 128 + 129
    lstm = LSTMReward(11, 3)
    step = 15 * 256 + 257 * 128 + 129 * 128
    head = 257 * 128 + 129 * 64 + 65 * 64 + 65
    assert sum(p.numel() for p in lstm.parameters()) == step + 4 * 128 * (128 + 128 + 2) + head
