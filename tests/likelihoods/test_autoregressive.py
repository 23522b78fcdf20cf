"""Bits in order, by enumeration of all x."""

import itertools

import pytest
import torch

from pyrolvm.likelihoods import Autoregressive, Likelihood


def every(num_features):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=num_features)))


def far_from_uniform(num_features, num_context, hidden, **options):
    likelihood = Autoregressive(num_features, num_context, hidden, **options)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.mul_(3.0)
    return likelihood


@pytest.mark.parametrize("hidden", [[], [3], [16], [16, 5]], ids=str)
@pytest.mark.parametrize("num_features", [1, 2, 8])
def test_probabilities_of_all_x_sum_to_one(num_features, hidden):
    likelihood = far_from_uniform(num_features, 2, hidden)
    assert isinstance(likelihood, Likelihood)
    assert likelihood.num_outputs(num_features) == 2
    contexts = torch.randn(5, 1, 2)
    log_density = likelihood.distribution(contexts).log_prob(every(num_features))
    assert log_density.shape == (5, 2**num_features)
    torch.testing.assert_close(log_density.exp().sum(-1), torch.ones(5))
    assert log_density.std() > 0.3


@pytest.mark.parametrize("hidden", [[], [3], [16, 5]], ids=str)
def test_density_is_the_product_of_conditionals_found_by_changing_bits_one_at_a_time(hidden):
    """Each p(x_d | x_<d) is a ratio of sums over all x, and depends on each bit before d, and on the context."""
    likelihood, x = far_from_uniform(6, 2, hidden), every(6)
    distribution = likelihood.distribution(torch.randn(2))
    joint = distribution.log_prob(x).exp().reshape([2] * 6)
    log_density = torch.zeros([2] * 6)
    for d in range(6):
        prefixes = joint.reshape(*[2] * (d + 1), -1).sum(-1)
        conditional = prefixes / prefixes.sum(-1, keepdim=True)
        log_density += conditional.log().reshape(*conditional.shape, *[1] * (5 - d))
        for before in range(d):
            assert (conditional.select(before, 0) - conditional.select(before, 1)).abs().max() > 1e-4
    torch.testing.assert_close(log_density.flatten(), distribution.log_prob(x))


def test_draws_have_the_probabilities():
    n, likelihood = 40_000, far_from_uniform(4, 2, [8])
    distribution = likelihood.distribution(torch.randn(3, 2))
    draws = distribution.sample((n,))
    likelihood.check(draws.flatten(0, 1))
    for x in every(4):
        probability = distribution.log_prob(x).exp()
        error = (probability * (1 - probability) / n).sqrt()
        assert ((draws == x).all(-1).double().mean(0) - probability).abs().div(error).max() < 4.5


def test_context_moves_the_density_and_carries_gradients():
    likelihood, context = far_from_uniform(5, 3, [8]), torch.randn(2, 3, requires_grad=True)
    x = (torch.rand(2, 5) > 0.5).double()
    likelihood.distribution(context).log_prob(x).sum().backward()
    assert (context.grad != 0).all()
    assert all(parameter.grad is not None for parameter in likelihood.parameters())


def test_it_broadcasts_over_particles_and_expands():
    likelihood, contexts = far_from_uniform(5, 3, [8]), torch.randn(4, 6, 3)
    x = (torch.rand(6, 5) > 0.5).double()
    found = likelihood.distribution(contexts).log_prob(x)
    torch.testing.assert_close(found, torch.stack([likelihood.distribution(row).log_prob(x) for row in contexts]))
    expanded = likelihood.distribution(contexts[0]).expand((2, 6))
    torch.testing.assert_close(expanded.log_prob(x), found[0].expand(2, 6))
    assert expanded.sample((3,)).shape == (3, 2, 6, 5)


def test_it_runs_on_the_device(device):
    likelihood, context = far_from_uniform(5, 3, [8]), torch.randn(6, 3)
    x = (torch.rand(6, 5) > 0.5).double()
    expected = likelihood.distribution(context).log_prob(x)
    distribution = likelihood.to(device).distribution(context.to(device))
    torch.testing.assert_close(distribution.log_prob(x.to(device)).cpu(), expected)
    assert distribution.sample().device.type == device.type


def test_float32_is_float64_rounded():
    likelihood, context = far_from_uniform(5, 3, [8]), torch.randn(6, 3)
    x = (torch.rand(6, 5) > 0.5).double()
    expected = likelihood.distribution(context).log_prob(x)
    distribution = likelihood.float().distribution(context.float())
    torch.testing.assert_close(distribution.log_prob(x.float()).double(), expected, rtol=1e-5, atol=1e-5)
    assert distribution.sample().dtype == torch.float32


def test_bits_are_hidden_in_training_alone():
    """With logistic conditionals the logits' mean over what is hidden is the logits with nothing hidden."""
    n, likelihood = 20_000, far_from_uniform(4, 2, [], dropout=0.4)
    context, x = torch.randn(2), torch.tensor([1.0, 0.0, 1.0, 0.0])
    ones, zeros = (x.clone().index_fill_(0, torch.tensor(3), value).expand(n, 4) for value in (1.0, 0.0))
    logits = []
    for training in (True, False):
        distribution = likelihood.train(training).distribution(context)
        densities = []
        for value in (ones, zeros):
            torch.manual_seed(1)  # the same bits hidden: all conditionals but the last are the same
            densities.append(distribution.log_prob(value))
        logits.append(densities[0] - densities[1])
    hidden, plain = logits
    assert hidden.unique().numel() == 8
    assert plain.unique().numel() == 1
    assert (hidden.mean() - plain[0]).abs() < 4 * hidden.std() / n**0.5
    draws = []
    for training in (True, False):
        torch.manual_seed(1)
        draws.append(likelihood.train(training).distribution(context).sample((50,)))
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda: Autoregressive(0, 2, [4]), ValueError, "'num_features' must be at least 1; got 0"),
        (lambda: Autoregressive(3, 2.0, [4]), TypeError, r"'num_context' must be an integer; got 2\.0"),
        (lambda: Autoregressive(3, 2, 4), TypeError, r"'hidden' must be a sequence of widths; got 4"),
        (lambda: Autoregressive(3, 2, [0]), ValueError, "'hidden' must be at least 1; got 0"),
        (lambda: Autoregressive(3, 2, [4], dropout=1.0), ValueError, r"'dropout' must be a probability, .* got 1\.0"),
        (lambda: Autoregressive(3, 2, [4], dropout="a"), ValueError, "'dropout' must be a probability, .* got 'a'"),
        (
            lambda: Autoregressive(3, 2, [4]).num_outputs(5),
            ValueError,
            "is for 3 features; got data with 5. Pass num_features=5",
        ),
        (
            lambda: Autoregressive(3, 2, [4]).mean(torch.zeros(2)),
            ValueError,
            r"has no mean of x given z in closed form.*Draw instead: .* or model\.sample\(n\)",
        ),
        (
            lambda: Autoregressive(3, 2, [4]).check(torch.tensor([[0.0, 1.0, 3.0]])),
            ValueError,
            r"must hold only 0 and 1 for likelihoods\.Autoregressive; .* row 0, column 2 \(3\)\. Binarize it",
        ),
    ],
)
def test_refusals(act, error, match):
    with pytest.raises(error, match=match):
        act()
