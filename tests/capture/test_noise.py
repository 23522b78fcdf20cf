"""Draws inside a graph are the generator's, whatever form they are put into."""

import pytest
import torch

from pyrolvm.capture import record

WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def test_noise_is_the_generator_s():
    def noisy(x):
        gamma = torch.distributions.Gamma(x, 1.0, validate_args=False).sample()
        return (x + torch.randn(3), gamma, torch.bernoulli(x / 10), torch.empty(20).normal_())

    recording = record(noisy, (WEIGHTS,))
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = noisy(WEIGHTS)
        torch.manual_seed(seed)
        torch.testing.assert_close(recording.run((WEIGHTS,)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_noise_that_follows_each_other_is_drawn_at_once(dtype):
    """Ten entries in two draws, then what is drawn otherwise, then 15 and 1, too many to be drawn as one."""

    def noisy(x):
        first = torch.randn((), dtype=dtype), torch.randn(3, 3, dtype=dtype)
        coin = torch.bernoulli(x / 10)
        return (*first, coin, torch.randn(5, 3, dtype=dtype), torch.randn(1, dtype=dtype), torch.randn(40, dtype=dtype))

    recording = record(noisy, (WEIGHTS,))
    assert recording.graph.code.count("aten.randn.default") == 4
    for seed in range(3):
        torch.manual_seed(seed)
        expected, after = noisy(WEIGHTS), torch.get_rng_state()
        torch.manual_seed(seed)
        torch.testing.assert_close(recording.run((WEIGHTS,)), expected, rtol=0, atol=0)
        assert torch.equal(after, torch.get_rng_state())
