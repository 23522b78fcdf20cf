"""Components renumbered to agree with a reference."""

import itertools

import numpy as np
import pytest
import sklearn.mixture
import torch

from pyrolvm.datasets import iris
from pyrolvm.fitting import fit_em
from pyrolvm.models import GaussianMixture

KINDS = ["full", "tied", "diagonal", "spherical"]


def mixture(covariance="full", num_components=4, num_features=4):
    """As many features as components, so that no dimension is taken for another."""
    torch.manual_seed(1)
    model = GaussianMixture(num_components, num_features, covariance)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
        model.locs.mul_(4)
    return model


def permuted(model, order):
    """The same mixture with its components in another order, by the kinds' shapes."""
    other = GaussianMixture(model.num_components, model.num_features, model.covariance)
    with torch.no_grad():
        other.logits.copy_(model.logits[order])
        other.locs.copy_(model.locs[order])
        name = "scale_tril" if model.covariance in ("full", "tied") else "scale"
        scale = getattr(model, name)
        setattr(other, name, (scale if model.covariance == "tied" else scale[order]).detach())
    return other


@pytest.mark.parametrize("covariance", KINDS)
def test_a_permuted_mixture_gets_its_order_back(covariance):
    model = mixture(covariance)
    x, z = model.sample(300, seed=0)
    for order in ([2, 0, 3, 1], [1, 2, 3, 0], [0, 1, 2, 3]):
        for reference in (model, z, z.numpy(), z.tolist()):
            other = permuted(model, order)
            before = [(p, p.data_ptr()) for p in other.parameters()]
            density = other.log_density(x).detach()
            assert other.align(x, reference) is other
            for name in ("weights", "locs", "covariances"):
                torch.testing.assert_close(getattr(other, name), getattr(model, name))
            torch.testing.assert_close(other.log_density(x).detach(), density)
            assert [(p, p.data_ptr()) for p in other.parameters()] == before


def test_no_permutation_agrees_with_more_rows():
    """Of all 24, tried one by one."""
    model, other = mixture(), mixture("spherical")
    x = 3 * torch.randn(100, 4)
    target = other.responsibilities(x).detach()
    orders = [list(order) for order in itertools.permutations(range(4))]
    agreements = [(model.responsibilities(x)[:, order] * target).sum().item() for order in orders]
    assert max(agreements) > agreements[0] + 1
    model.align(x, other)
    assert (model.responsibilities(x) * target).sum().item() == pytest.approx(max(agreements))


def test_clusters_of_iris_get_the_species_numbers():
    """As many flowers are in another species' cluster as with scikit-learn's fit, in any order of its clusters."""
    data = iris()
    theirs = sklearn.mixture.GaussianMixture(3, n_init=5, random_state=0).fit_predict(data.x)
    expected = min((np.array(order)[theirs] != data.labels).sum() for order in itertools.permutations(range(3)))
    model = fit_em(GaussianMixture(3, 4), data.x, num_restarts=5, seed=0, progress=False).model
    model.align(data.x, data.labels)
    assert (model.responsibilities(data.x).argmax(-1).numpy() != data.labels).sum() == expected == 5


def test_one_component_and_one_row():
    model = mixture(num_components=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.align(torch.zeros(1, 4), [0]).align(torch.zeros(1, 4), mixture(num_components=1))
    torch.testing.assert_close(dict(model.state_dict()), before)


def test_components_without_rows_take_what_is_left():
    model = mixture()
    x, z = model.sample(200, seed=0)
    rows = z > 1
    other = permuted(model, [3, 1, 0, 2])
    other.align(x[rows], z[rows])
    torch.testing.assert_close(other.locs[2:], model.locs[2:])
    assert sorted(other.locs[:2, 0].tolist()) == sorted(model.locs[:2, 0].tolist())


@pytest.mark.parametrize(
    ("reference", "error", "match"),
    [
        ("species", TypeError, "'reference' must be a mixture or integer labels; got str"),
        ([[0], [1, 2]], TypeError, "'reference' must be a mixture or integer labels; got list"),
        (np.zeros(5), TypeError, r"'reference' must hold integer labels; got torch\.float64\. Use numbers in 0\.\.K-1"),
        (np.zeros(4, int), ValueError, r"'reference' must hold a label for each row, shape \(5,\); got \(4,\)"),
        (np.zeros((5, 4), int), ValueError, r"a label for each row, shape \(5,\); got \(5, 4\)"),
        ([0, 1, 4, 2, 3], ValueError, r"must hold labels in 0\.\.3; row 2 holds 4"),
        ([0, -1, 4, 2, 3], ValueError, r"must hold labels in 0\.\.3; row 1 holds -1"),
    ],
)
def test_refused_references(reference, error, match):
    with pytest.raises(error, match=match):
        mixture().align(torch.zeros(5, 4), reference)


def test_mixtures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="'reference' must have as many components as the model, 4; got 3"):
        mixture().align(torch.zeros(5, 4), mixture(num_components=3))
    with pytest.raises(ValueError, match=r"'x' must have shape \(N, 3\); got \(5, 4\)"):
        mixture().align(torch.zeros(5, 4), mixture(num_features=3))
    with pytest.raises(ValueError, match=r"'x' must have shape \(N, 4\); got \(5, 2\)"):
        mixture().align(torch.zeros(5, 2), mixture())
