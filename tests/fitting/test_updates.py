"""The rules of optimizers, against the optimizers themselves."""

import numpy as np
import pytest
import torch
from pyro.optim.clipped_adam import ClippedAdam

from pyrolvm.fitting.bundles import Bundles
from pyrolvm.fitting.updates import update_of

OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3),
    "Adam, all options": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2, amsgrad=True, maximize=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD, all options": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.7, dampening=0.2, weight_decay=0.3, maximize=True
    ),
    "SGD, Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, nesterov=True),
    "ClippedAdam": lambda p: ClippedAdam(p, lr=0.1, clip_norm=0.5, lrd=0.9, weight_decay=0.1),
    "ClippedAdam, centered": lambda p: ClippedAdam(p, lr=0.1, centered_variance=True),
}


def leaves_and_optimizer(name):
    torch.manual_seed(0)
    leaves = [torch.randn(3).requires_grad_(), torch.randn(2, 2).requires_grad_(), torch.randn(40, 50).requires_grad_()]
    return leaves, OPTIMIZERS[name](leaves)


def gradients_of(leaves, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(leaf.shape, generator=generator) for leaf in leaves]


def step(leaves, optimizer, number):
    for leaf, gradient in zip(leaves, gradients_of(leaves, number), strict=True):
        leaf.grad = gradient
    optimizer.step()


def moved(leaves, optimizer, numbers, rates=None):
    """The optimizer's steps, by the rules."""
    bundles = Bundles(leaves, optimizer)
    moves = np.ones(len(numbers), dtype=bool)
    schedule = torch.from_numpy(bundles.schedule(moves, rates))
    tensors = bundles.tensors()
    for i, number in enumerate(numbers):
        tensors = bundles.moved(tensors, gradients_of(leaves, number), schedule[i])
    bundles.write(tensors, moves, rates)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rule_does_what_its_optimizer_does_and_they_take_turns(name):
    expected, optimizer = leaves_and_optimizer(name)
    for number in range(9):
        step(expected, optimizer, number)
    found, other = leaves_and_optimizer(name)
    step(found, other, 0)
    moved(found, other, [1, 2, 3, 4])
    step(found, other, 5)
    moved(found, other, [6, 7, 8])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other.state_dict(), optimizer.state_dict(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rates_that_are_set_before_each_step(name):
    rates = np.array([0.3, 0.2, 0.05])
    expected, optimizer = leaves_and_optimizer(name)
    step(expected, optimizer, 0)
    for number, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        step(expected, optimizer, 1 + number)
    found, other = leaves_and_optimizer(name)
    step(found, other, 0)
    moved(found, other, [1, 2, 3], rates)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_parameters_that_have_taken_fewer_steps_have_a_bundle_of_their_own():
    leaves, optimizer = leaves_and_optimizer("Adam")
    expected, other = leaves_and_optimizer("Adam")
    for own, rule in ((leaves, optimizer), (expected, other)):
        step(own[:1], rule, 0)
        step(own, rule, 1)
    moved(leaves, optimizer, [2, 3])
    for number in (2, 3):
        step(expected, other, number)
    torch.testing.assert_close(leaves, expected, rtol=1e-12, atol=1e-14)


def test_groups_keep_their_own_learning_rates():
    def build(p):
        return torch.optim.SGD([{"params": p[:1], "lr": 0.5}, {"params": p[1:]}], lr=0.1)

    leaves, other = leaves_and_optimizer("SGD")[0], leaves_and_optimizer("SGD")[0]
    optimizer = build(leaves)
    moved(leaves, optimizer, [0, 1])
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    eager = build(other)
    for number in (0, 1):
        step(other, eager, number)
    torch.testing.assert_close(leaves, other, rtol=1e-12, atol=1e-14)


def test_other_optimizers_have_no_rule():
    class Mine(torch.optim.Adam):
        pass

    leaf = torch.zeros(1, requires_grad=True)
    for optimizer in (torch.optim.RMSprop([leaf]), Mine([leaf])):
        assert update_of(optimizer, optimizer.param_groups[0]) is None
