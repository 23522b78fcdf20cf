"""What scikit-learn asks of every estimator."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyrolvm.estimators import BayesianGaussianMixture, FactorAnalysis, GaussianMixture, ProbabilisticPCA

ESTIMATORS = [
    GaussianMixture(),
    GaussianMixture(2, covariance_type="tied", init_params="random_from_data", n_init=2),
    BayesianGaussianMixture(n_components=2),
    FactorAnalysis(),
    ProbabilisticPCA(),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:Components .* explain no row, or have hardly more variance:UserWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # or the check of arrays by their interface is left out
    check(estimator)
