"""The models and guides that have names on the command line. To add one, add an entry to a table below."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm.cli.errors import note
from pyrolvm.cli.options import ModelOptions
from pyrolvm.cli.parsing import choose, numbers
from pyrolvm.cli.programs import is_spec

if TYPE_CHECKING:
    from pyrolvm.datasets import Dataset

__all__ = ["GUIDES", "MODELS", "Guide", "Model", "Training", "guide_name", "guide_of", "model_of", "settings_of"]

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """Defaults of a fit.

    Args:
        num_steps: Number of steps; None where epochs are counted.
        num_epochs: Passes over the data; None where steps are counted.
        batch_size: Rows of a minibatch; None for all rows.
        learning_rate: RATE or FIRST:LAST.
    """

    num_steps: int | None = None
    num_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: str = "0.01"


@dataclass(frozen=True)
class Model:
    """A model with a name.

    Args:
        name: What users type.
        summary: What it is, in a few words.
        make: Builds it from the data (None where it takes none) and its settings; draws from torch's generator.
        settings: The fields of ModelOptions that apply, with their defaults.
        guide: The guide of a single fit.
        guides: The guides of a comparison.
        dataset: The one data set that it is about; None where DATA is to be given.
        threshold: What to binarize data at where the user asks for nothing, None for not at all; or a refusal.
        reference: The true log p(x), nats, where it is known.
        training: Defaults of a fit.
    """

    name: str
    summary: str
    make: Callable[["Dataset | None", Settings], Any]
    settings: Settings = field(default_factory=dict)
    guide: str | None = None
    guides: tuple[str, ...] = ()
    dataset: str | None = None
    threshold: Callable[["Dataset", Settings], float | None] = lambda dataset, settings: None
    reference: float | None = None
    training: Training = Training(num_steps=2000)


@dataclass(frozen=True)
class Guide:
    """A guide with a name.

    Args:
        name: What users type.
        summary: What it is, in a few words.
        make: Builds it for a model, from the data and the settings of the model.
        needs_rows: Whether it looks at the data, a row at a time.
    """

    name: str
    summary: str
    make: Callable[[Any, "Dataset | None", Settings], Any]
    needs_rows: bool = False


def _gaussian_mixture(data: Any, settings: Settings) -> Any:
    from pyrolvm.models import GaussianMixture

    model = GaussianMixture(settings["num_components"], data.x.shape[1], settings["covariance"])
    return model.initialize(data.x, seed=None)


def _vae(data: Any, settings: Settings) -> Any:
    from pyrolvm.likelihoods import Bernoulli, Gaussian
    from pyrolvm.models import VAE
    from pyrolvm.nn import MLP

    hidden, num_latents = settings["hidden"], settings["num_latents"]
    decoder = MLP(num_latents, hidden[::-1], data.x.shape[1])
    gaussian = settings["likelihood"] == "gaussian"
    return VAE(num_latents, decoder, Gaussian(learn_scale=True) if gaussian else Bernoulli())


def _threshold_of_vae(data: "Dataset", settings: Settings) -> float | None:
    """The middle of grey values, which is said; other values than 0 and 1 are left for the user to treat."""
    low, high = data.x.min(), data.x.max()
    if settings["likelihood"] == "gaussian" or np.isin(data.x, (0.0, 1.0)).all():
        return None
    if low == 0 and 1 < high <= 255 and not (data.x % 1).any():
        note(f"grey values 0 to {high:g} were binarized at {high / 2:g}; --binarize takes another threshold.")
        return float(high / 2)
    raise ValueError(
        f"the Bernoulli likelihood of the VAE needs zeros and ones; '{data.name}' has values from {low:g} to {high:g}. "
        "Pass --binarize THRESHOLD, or --likelihood gaussian (with --standardize where units differ)."
    )


def _eight_schools(name: str) -> Callable[[Any, Settings], Any]:
    def make(data: Any, settings: Settings) -> Any:
        from pyrolvm import models

        return getattr(models, name)

    return make


def _amortized(model: Any, data: Any, settings: Settings) -> Any:
    import torch

    from pyrolvm.guides import Amortized
    from pyrolvm.nn import MLP

    hidden = settings.get("hidden") or (128,)
    encoder = torch.nn.Sequential(MLP(data.x.shape[1], hidden[:-1], hidden[-1]), torch.nn.ReLU())
    return Amortized(model, encoder)


def _outside(name: str) -> Callable[[Any, Any, Settings], Any]:
    def make(model: Any, data: Any, settings: Settings) -> Any:
        from pyrolvm import guides

        return getattr(guides, name)(model)

    return make


_SCHOOLS: dict[str, Any] = {
    "guide": "full_rank",
    "guides": ("mean_field", "full_rank"),
    "dataset": "eight_schools",
    "reference": -31.31135,  # by quadrature
    "training": Training(num_steps=1200, learning_rate="0.05:0.001"),
}

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "gaussian_mixture",
            "mixture of Gaussians; the component of each row is summed out",
            _gaussian_mixture,
            settings={"num_components": 2, "covariance": "full"},
            guide="none",
            guides=("none",),
            training=Training(num_steps=2000, learning_rate="0.05:0.0005"),
        ),
        Model(
            "vae",
            "variational autoencoder: Gaussian latents, a neural decoder",
            _vae,
            settings={"num_latents": 8, "hidden": "128", "likelihood": "bernoulli"},
            guide="amortized",
            guides=("amortized",),
            threshold=_threshold_of_vae,
            training=Training(num_epochs=100, batch_size=100, learning_rate="0.005:0.0005"),
        ),
        Model(
            "eight_schools",
            "eight schools (Rubin 1981); the same as eight_schools_noncentered",
            _eight_schools("eight_schools_noncentered"),
            **_SCHOOLS,
        ),
        Model(
            "eight_schools_noncentered",
            "effects as mean + spread * standardized effect: no funnel in the prior",
            _eight_schools("eight_schools_noncentered"),
            **_SCHOOLS,
        ),
        Model(
            "eight_schools_centered",
            "effects drawn around their mean: a funnel, which Gaussian guides fit badly",
            _eight_schools("eight_schools_centered"),
            **_SCHOOLS,
        ),
    )
}

GUIDES: dict[str, Guide] = {
    guide.name: guide
    for guide in (
        Guide("none", "nothing is left to guide: every latent is summed out", lambda model, data, settings: None),
        Guide("mean_field", "independent normals, for latents outside the data plate", _outside("MeanField")),
        Guide("low_rank", "a normal of low rank, for latents outside the data plate", _outside("LowRank")),
        Guide("full_rank", "one multivariate normal, for latents outside the data plate", _outside("FullRank")),
        Guide("mixture", "two normals, for latents outside the data plate", _outside("Mixture")),
        Guide("laplace", "a normal at the mode, for latents outside the data plate", _outside("Laplace")),
        Guide("amortized", "normals whose parameters a network computes from each row", _amortized, needs_rows=True),
    )
}


def model_of(name: str) -> Model:
    """The model of this name.

    Args:
        name: One of MODELS; case and - for _ do not matter.

    Raises:
        ValueError: If there is none; the nearest is suggested.

    Example:
        >>> model_of("vae").guides
        ('amortized',)
    """
    return MODELS[choose(name, MODELS, "model", " A program of your own is given as path/to/file.py:function.")]


def guide_of(name: str) -> Guide:
    """The guide of this name.

    Args:
        name: One of GUIDES; case and - for _ do not matter.

    Raises:
        ValueError: If there is none; the nearest is suggested.

    Example:
        >>> guide_of("Full-Rank").name
        'full_rank'
    """
    return GUIDES[choose(name, GUIDES, "guide", " A guide of your own is given as path/to/file.py:function.")]


def guide_name(text: str) -> str:
    """How a guide is called: its name in the collection, or path/to/file.py:function.

    Args:
        text: What was given.

    Raises:
        ValueError: If there is no such guide.

    Example:
        >>> guide_name("Mean-Field"), guide_name("my.py:guide")
        ('mean_field', 'my.py:guide')
    """
    return text if is_spec(text) else guide_of(text).name


def settings_of(model: Model, options: ModelOptions) -> Settings:
    """Settings of a model: what was given, and defaults for the rest.

    Args:
        model: A model.
        options: What was given.

    Raises:
        ValueError: If an option does not apply to the model, or has no such value.
    """
    given = {f.name: value for f in fields(options) if (value := getattr(options, f.name)) is not None}
    for name in given:
        if name not in model.settings:
            users = ", ".join(other.name for other in MODELS.values() if name in other.settings)
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} does not apply to {model.name}; it is for {users}. Leave it out.")
    settings = {**model.settings, **given}
    if "hidden" in settings:
        settings["hidden"] = numbers(settings["hidden"], "--hidden", 1)
    if "likelihood" in settings:
        settings["likelihood"] = choose(settings["likelihood"], ("bernoulli", "gaussian"), "likelihood")
    for name in ("num_components", "num_latents"):
        if settings.get(name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {settings[name]}.")
    return settings
