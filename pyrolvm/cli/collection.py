"""The models and guides that have names on the command line. To add one, add an entry to a table below."""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pyrolvm.cli.entries import Guide, Model, Settings, Training
from pyrolvm.cli.options import ModelOptions
from pyrolvm.cli.parsing import choose, numbers
from pyrolvm.cli.posteriors import POSTERIORS, plain
from pyrolvm.cli.programs import is_spec
from pyrolvm.cli.shallow import SHALLOW, threshold_of_bits

if TYPE_CHECKING:
    from pyrolvm.datasets import Dataset

__all__ = ["GUIDES", "MODELS", "Guide", "Model", "Training", "guide_name", "guide_of", "model_of", "settings_of"]


_COUNTS = ("poisson", "negative_binomial")
_LIKELIHOODS = ("bernoulli", "gaussian", "heteroscedastic_gaussian", *_COUNTS)


def _likelihood(name: str, num_features: int) -> Any:
    import torch

    from pyrolvm import likelihoods

    if name == "gaussian":
        return likelihoods.Gaussian(learn_scale=True)
    if name == "negative_binomial":
        return likelihoods.NegativeBinomial(torch.ones(num_features))
    others = {"heteroscedastic_gaussian": likelihoods.HeteroscedasticGaussian, "poisson": likelihoods.Poisson}
    return others.get(name, likelihoods.Bernoulli)()


def _vae(data: Any, settings: Settings) -> Any:
    from pyrolvm.models import VAE
    from pyrolvm.nn import MLP

    hidden, num_latents, num_features = settings["hidden"], settings["num_latents"], data.x.shape[1]
    likelihood = _likelihood(settings["likelihood"], num_features)
    decoder = MLP(num_latents, hidden[::-1], likelihood.num_outputs(num_features))
    return VAE(num_latents, decoder, likelihood)


def _threshold_of_vae(data: "Dataset", settings: Settings) -> float | None:
    if settings["likelihood"] != "bernoulli":
        return None
    otherwise = "or --likelihood poisson for counts, gaussian for others (with --standardize where units differ)"
    return threshold_of_bits(data, "the Bernoulli likelihood of the VAE", otherwise)


def _amortized(model: Any, data: Any, settings: Settings) -> Any:
    import torch

    from pyrolvm.guides import Amortized
    from pyrolvm.nn import MLP, Map

    hidden = settings.get("hidden") or (128,)
    first = [Map(torch.log1p)] if settings.get("likelihood") in _COUNTS else []
    return Amortized(model, torch.nn.Sequential(*first, MLP(data.x.shape[1], hidden[:-1], hidden[-1]), torch.nn.ReLU()))


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
        *SHALLOW,
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
            plain("eight_schools_noncentered"),
            **_SCHOOLS,
        ),
        Model(
            "eight_schools_noncentered",
            "effects as mean + spread * standardized effect: no funnel in the prior",
            plain("eight_schools_noncentered"),
            **_SCHOOLS,
        ),
        Model(
            "eight_schools_centered",
            "effects drawn around their mean: a funnel, which Gaussian guides fit badly",
            plain("eight_schools_centered"),
            **_SCHOOLS,
        ),
        *POSTERIORS,
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
        Guide("flow", "a normalizing flow, for latents outside the data plate", _outside("Flow")),
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
        settings["likelihood"] = choose(settings["likelihood"], _LIKELIHOODS, "likelihood")
    for name in ("num_components", "num_latents"):
        if settings.get(name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {settings[name]}.")
    return settings
