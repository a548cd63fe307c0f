"""Random streams: the same numbers for ever, and one component moves no other."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl import rng


def test_derived_seeds_never_change():
    # blake2b of "(0, 'init')" and of "(7, 'question', 3)", first 8 bytes, little endian, without the top bit.
    assert rng.derive(0, "init") == 2020223635098297231
    assert rng.question_keys(7, first=3, count=2)[0] == 1342752194133080535
    assert rng.derive(0, "init") != rng.derive(1, "init") != rng.derive(1, "sampler")


def test_streams_never_change_and_are_independent():
    assert torch.randint(1000, (4,), generator=rng.stream(3, "query", "uniform")).tolist() == [888, 6, 971, 897]
    sampler = rng.stream(3, "sampler")
    torch.rand(100, generator=sampler)  # using one stream ...
    assert torch.randint(1000, (4,), generator=rng.stream(3, "query", "uniform")).tolist() == [
        888,
        6,
        971,
        897,
    ]  # ... moves no other


def test_uniform_is_splitmix64():
    # The first two outputs of SplitMix64 with seed 0, as published with the generator.
    zero = torch.zeros(1, dtype=torch.int64)
    assert rng.uniform(zero, 0).item() == (0xE220A8397B1DCDAF >> 11) * 2.0**-53
    assert rng.uniform(zero, 1).item() == (0x6E789E6AA1B965F4 >> 11) * 2.0**-53


def test_a_questions_draw_depends_on_its_number_alone():
    together = rng.uniform(rng.question_keys(5, 0, 10), 2)
    apart = torch.cat([rng.uniform(rng.question_keys(5, i, 1), 2) for i in range(10)])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("draw", [0, 1, 5])
def test_uniform_is_uniform(draw: int):
    values = rng.uniform(rng.question_keys(0, 0, 4000), draw)
    assert values.min() >= 0
    assert values.max() < 1.0
    # 4 sigma of a binomial with n = 4000, p = 0.2
    assert abs(int((values < 0.2).sum()) - 800) < 4 * math.sqrt(4000 * 0.2 * 0.8)
