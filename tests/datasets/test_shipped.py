"""The shipped numbers, held against facts found outside this package."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import halfcauchy, multivariate_normal
from sklearn.mixture import GaussianMixture

from pyrolvm.datasets import eight_schools, faithful, galaxies


def test_faithful_is_r_faithful():
    data = faithful()
    assert data.x.shape == (272, 2)
    assert data.columns == ("eruptions", "waiting")
    assert data.labels is None
    assert data.x[:5].tolist() == [[3.6, 79], [1.8, 54], [3.333, 74], [2.283, 62], [4.533, 85]]
    np.testing.assert_allclose(data.x.mean(axis=0), [3.487783, 70.897059], atol=5e-7)


@pytest.mark.parametrize(
    ("covariance", "log_likelihood"),
    [("full", -1130.2640), ("tied", -1140.1868), ("diag", -1147.8064), ("spherical", -1709.5293)],
)
def test_faithful_has_the_known_likelihood_under_two_components(covariance, log_likelihood):
    x = faithful().x
    mixture = GaussianMixture(2, covariance_type=covariance, reg_covar=1e-6, tol=1e-10, max_iter=2000, random_state=0)
    total = mixture.fit(x).score(x) * len(x)
    assert total == pytest.approx(log_likelihood, abs=1e-3)


def test_galaxies_is_mass_galaxies_with_its_correction():
    data = galaxies()
    velocity = data.x[:, 0]
    assert data.x.shape == (82, 1)
    assert data.columns == ("velocity_km_per_s",)
    assert (velocity.min(), velocity.max()) == (9172, 34279)
    assert (np.diff(velocity) >= 0).all()
    assert velocity[77] == 26960  # entry 78
    assert velocity.mean() - (26960 - 26690) / 82 == pytest.approx(20828.17, abs=5e-3)  # the mean before correction


def test_eight_schools_is_rubins_table():
    data = eight_schools()
    assert data.columns == ("effect", "standard_error")
    assert data.x[:, 0].tolist() == [28, 8, -3, 7, -1, 1, 18, 12]
    assert data.x[:, 1].tolist() == [15, 10, 16, 11, 9, 11, 10, 18]


def test_eight_schools_has_the_known_evidence():
    """The evidence of mu ~ N(0, 5), tau ~ HalfCauchy(5): mu and the effects in closed form, tau by quadrature."""
    effect, standard_error = eight_schools().x.T

    def integrand(tau):
        covariance = np.diag(standard_error**2 + tau**2) + 25.0
        return multivariate_normal(np.zeros(8), covariance).pdf(effect) * halfcauchy(scale=5).pdf(tau)

    evidence, _ = quad(integrand, 0, np.inf, epsabs=0, epsrel=1e-9)
    assert np.log(evidence) == pytest.approx(-31.31135, abs=1e-5)
