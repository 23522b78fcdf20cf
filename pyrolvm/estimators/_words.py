"""What the models and `fit_em` say, in scikit-learn's words."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning

__all__ = ["in_sklearns_words"]

_WORDS = {
    "num_components": "n_components",
    "num_latents": "n_components",
    "num_iterations": "max_iter",
    "tolerance": "tol",
    "regularization": "reg_covar",
    "'x'": "'X'",
}
_NOT_CONVERGED = "did not converge"


def _translated(text: str) -> str:
    return re.sub("|".join(rf"(?<!\w){word}(?!\w)" for word in _WORDS), lambda found: _WORDS[found.group()], text)


@contextmanager
def in_sklearns_words() -> Iterator[None]:
    """Have errors and warnings from within name options as scikit-learn does; no convergence is its warning of that.

    Raises:
        ValueError: With the message in its words, if one was raised within.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except ValueError as error:
            raise ValueError(_translated(str(error))) from error
    for warning in caught:
        text = str(warning.message)
        category = ConvergenceWarning if _NOT_CONVERGED in text else warning.category
        warnings.warn(_translated(text), category, stacklevel=4)
