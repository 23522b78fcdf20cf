"""When a loss counts as having stopped falling."""

import pytest
import torch

from pyrolvm.fitting.convergence import has_converged


def noise(num_steps, scale=1.0):
    return scale * torch.randn(num_steps, generator=torch.Generator().manual_seed(0))


def test_too_few_steps():
    assert not has_converged(torch.zeros(999))
    assert has_converged(torch.zeros(1000))


def test_a_flat_loss_in_noise():
    """A false alarm is that the gain is above its standard error: half of a symmetric error's upper half, P = 0.16."""
    runs = [has_converged(100 + torch.randn(1000, generator=torch.Generator().manual_seed(s))) for s in range(200)]
    share = torch.tensor(runs, dtype=torch.float64).mean()
    expected = 0.8413
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 200) ** 0.5


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_a_falling_loss(scale):
    falling = torch.linspace(200, 100, 1500) + noise(1500, scale)
    assert not has_converged(falling)


def test_a_slope_is_no_noise():
    """A steep fall without noise has a large variance within each window, and has not converged."""
    assert not has_converged(torch.linspace(1e6, 0, 1000))
    assert not has_converged(torch.exp(-torch.arange(1000.0) / 300))


def test_a_millionth_of_the_loss_is_nothing():
    settled = 1e6 + torch.linspace(0.4, 0.0, 1000)
    assert has_converged(settled)
    assert has_converged(-settled.flip(0))
    assert not has_converged(torch.linspace(0.4, 0.0, 1000) + 1)


def test_a_rising_loss_has_stopped_falling():
    assert has_converged(torch.linspace(100, 200, 1000) + noise(1000))


def test_only_the_last_thousand_count():
    assert has_converged(torch.cat([torch.linspace(1e4, 0, 5000), torch.zeros(1000)]))
    assert not has_converged(torch.cat([torch.zeros(5000), torch.linspace(100, 0, 1000)]))


def test_float32_losses():
    losses = (1e5 + noise(1000)).float()
    assert has_converged(losses) == has_converged(losses.double())
