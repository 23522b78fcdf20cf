"""Small classics whose numbers ship inside the package."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from pyrolvm.datasets.dataset import Dataset

__all__ = ["eight_schools", "faithful", "galaxies", "read_shipped"]

FAITHFUL_SOURCE = (
    "Azzalini & Bowman (1990), A look at some data on the Old Faithful geyser, Applied Statistics 39, 357-365"
)
GALAXIES_SOURCE = (
    "Roeder (1990), Density estimation with confidence sets exemplified by superclusters and voids in the galaxies, "
    "JASA 85, 617-624 (entry 78 corrected to 26960)"
)
EIGHT_SCHOOLS_SOURCE = (
    "Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational Statistics 6, 377-401"
)


def read_shipped(name: str, source: str) -> Dataset:
    """Read `data/<name>.csv`, one header line and then numbers.

    Args:
        name: Of the file and of the data set.
        source: Where the numbers come from, in one line.

    Returns:
        The numbers as `.x`.
    """
    lines = files("pyrolvm.datasets").joinpath("data", f"{name}.csv").read_text(encoding="utf-8").splitlines()
    x = np.loadtxt(lines[1:], delimiter=",", dtype=np.float64, ndmin=2)
    return Dataset(x=x, columns=tuple(lines[0].split(",")), source=source, name=name)


def faithful() -> Dataset:
    """Eruptions of the Old Faithful geyser: how long each lasted, and the wait until the next.

    Two clear, elongated clusters: the usual first data set for a Gaussian mixture.

    Returns:
        `.x` of shape (272, 2), columns `eruptions` (minutes) and `waiting` (minutes); no labels.

    Example:
        >>> from pyrolvm.datasets import faithful
        >>> faithful()
        Dataset('faithful', x: (272, 2), columns: eruptions, waiting)

    References:
        Azzalini & Bowman (1990), Applied Statistics 39, 357-365; the 272 rows are those of R's `faithful`.
    """
    return read_shipped("faithful", FAITHFUL_SOURCE)


def galaxies() -> Dataset:
    """Velocities of 82 galaxies in the Corona Borealis region, in km/s.

    One dimension, several clusters of which no two papers count the same number: for mixtures with unknown K.
    Entry 78 is 26960, as the help page of R's MASS corrects its own table (which has 26690).

    Returns:
        `.x` of shape (82, 1), column `velocity_km_per_s`, sorted; no labels. Many papers divide by 1000.

    Example:
        >>> from pyrolvm.datasets import galaxies
        >>> galaxies()
        Dataset('galaxies', x: (82, 1), columns: velocity_km_per_s)

    References:
        Roeder (1990), JASA 85, 617-624. Postman, Huchra & Geller (1986), Astronomical Journal 92, 1238-1247.
    """
    return read_shipped("galaxies", GALAXIES_SOURCE)


def eight_schools() -> Dataset:
    """Estimated effects of coaching on test scores in eight schools, with their standard errors.

    The usual small hierarchical model: effect_j ~ N(theta_j, standard_error_j), theta_j ~ N(mu, tau).

    Returns:
        `.x` of shape (8, 2), columns `effect` and `standard_error` (both in points of the test score); no labels.

    Example:
        >>> from pyrolvm.datasets import eight_schools
        >>> effect, standard_error = eight_schools().x.T
        >>> effect.astype(int).tolist()
        [28, 8, -3, 7, -1, 1, 18, 12]

    References:
        Rubin (1981), Journal of Educational Statistics 6, 377-401, Table 1.
    """
    effect = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
    standard_error = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
    x = np.column_stack([effect, standard_error])
    return Dataset(x=x, columns=("effect", "standard_error"), source=EIGHT_SCHOOLS_SOURCE, name="eight_schools")
