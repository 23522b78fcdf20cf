"""What the models and `fit_em` say, in scikit-learn's words."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning

__all__ = ["in_sklearns_words"]

_WORDS = {
    r"\bnum_components\b": "n_components",
    r"\bnum_latents\b": "n_components",
    r"\bnum_iterations\b": "max_iter",
    r"\btolerance\b": "tol",
    r"\bregularization\b": "reg_covar",
    "'concentration'": "'weight_concentration_prior'",
    "^'x'|(?<=of )'x'": "'X'",
}
_NOT_CONVERGED = "did not converge"


def _translated(text: str) -> str:
    for ours, theirs in _WORDS.items():
        text = re.sub(ours, theirs, text)
    return text


@contextmanager
def in_sklearns_words() -> Iterator[None]:
    """Have errors and warnings from within name options as scikit-learn does; no convergence is its warning of that.

    Raises:
        TypeError, ValueError: With the message in its words, if one was raised within.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(_translated(str(error))) from error
    for warning in caught:
        text = str(warning.message)
        category = ConvergenceWarning if _NOT_CONVERGED in text else warning.category
        warnings.warn(_translated(text), category, stacklevel=4)
