"""The recipe that all runs on images share: binary pixels, one stochastic layer, tanh networks (Burda et al. 2016)."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

import pyrolvm as lvm

__all__ = ["Recipe", "Split", "score", "split", "train"]

_OBJECTIVES = {"ELBO": lvm.objectives.ELBO, "IWELBO": lvm.objectives.IWELBO, "DReG": lvm.objectives.DReG}


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        objective: "ELBO", "IWELBO" or "DReG".
        num_particles: Of the objective.
        family: Of the guide.
        num_epochs: Passes over the training images.
        batch_size: Of a step.
        learning_rate: Of Adam in the first half; it falls to a tenth in the second, evenly on the log scale.
        hidden: Width of the two hidden layers on each side.
        num_latents: Of the one stochastic layer.
        num_test_particles: Behind log p(x) of each test image.
    """

    objective: Literal["ELBO", "IWELBO", "DReG"] = "ELBO"
    num_particles: int = 1
    family: Literal["diagonal", "full_rank", "flow"] = "diagonal"
    num_epochs: int = 25
    batch_size: int = 20
    learning_rate: float = 3e-3
    hidden: int = 200
    num_latents: int = 50
    num_test_particles: int = 1000


class Split(NamedTuple):
    """Images as rows: grey levels in [0, 1] to train on, bits to judge by, and the digits of both."""

    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    train_labels: np.ndarray
    test_labels: np.ndarray


def split(data: Any, num_train: int, num_validation: int, num_test: int) -> Split:
    """Take rows in their order; grey levels of validation and test images are made bits by one draw, always the same.

    Args:
        data: A data set of grey values 0..255, its rows shuffled.
        num_train: Rows to train on.
        num_validation: Rows that choose the epoch.
        num_test: Rows that are judged.
    """
    last = num_train + num_validation + num_test
    grey = torch.tensor(data.x[:last] / 255, dtype=torch.float32)
    train, *others = grey.split([num_train, num_validation, num_test])
    generator = torch.Generator().manual_seed(0)
    validation, test = (torch.bernoulli(part, generator=generator) for part in others)
    return Split(train, validation, test, data.labels[:num_train], data.labels[last - num_test : last])


def pair(recipe: Recipe, means: torch.Tensor) -> tuple[Any, Any]:
    """Model and guide; the decoder's last bias starts at the logits of the pixels' means."""
    width, features, latents = recipe.hidden, len(means), recipe.num_latents
    decoder = lvm.nn.MLP(latents, [width, width], features, torch.nn.Tanh)
    last = decoder[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.copy_(means.clamp(1e-3, 1 - 1e-3).logit())
    encoder = torch.nn.Sequential(lvm.nn.MLP(features, [width], width, torch.nn.Tanh), torch.nn.Tanh())
    model = lvm.models.VAE(latents, decoder)
    return model, lvm.guides.Amortized(model, encoder, recipe.family)


def train(recipe: Recipe, data: Split, seed: int, compile: bool | Literal["auto"] = "auto") -> lvm.FitResult:
    """Fit with bits drawn anew at each step; the parameters of the epoch with the best validation bound are kept.

    Args:
        recipe: The recipe.
        data: The images.
        seed: Of the networks' start, noise and rows.
        compile: As ``lvm.fit`` takes it.
    """
    torch.manual_seed(seed)
    model, guide = pair(recipe, data.train.mean(0))
    num_steps = recipe.num_epochs * (len(data.train) // recipe.batch_size)
    return lvm.fit(
        model,
        guide,
        data.train,
        objective=_OBJECTIVES[recipe.objective](recipe.num_particles),
        learning_rate=lambda step: recipe.learning_rate * 0.1 ** max(0.0, 2 * step / num_steps - 1),
        num_epochs=recipe.num_epochs,
        batch_size=recipe.batch_size,
        transform=torch.bernoulli,
        compile=compile,
        validation=data.validation,
        patience=recipe.num_epochs,
        progress=False,
        seed=seed,
    )


def score(recipe: Recipe, fitted: lvm.FitResult, data: Split) -> dict[str, Any]:
    """What a fit is worth.

    Args:
        recipe: The recipe.
        fitted: The fit.
        data: The images.

    Returns:
        Of the test images "log_p" (each image's), "error" (standard error of their mean, of the particles alone),
        "khat" (each image's) and "elbo" (mean); of the training images, as bits of one draw, "active" and "rate";
        "accuracy" of a linear classifier on features. Nats an image.
    """
    model, guide = fitted.model, fitted.guide
    bits = torch.bernoulli(data.train, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # k-hat is in the table, units that have collapsed are counted
        found = lvm.evidence.importance(
            model, guide, data.test, num_particles=recipe.num_test_particles, batch_size=100, seed=0
        )
        report = lvm.diagnostics.collapse(model, guide, bits, num_draws=3, batch_size=1000, seed=0)
    assert found.khat is not None
    bound = lvm.objectives.ELBO(100).bound(model, guide, data.test, seed=0)
    means: dict[str, Any] = {"num_particles": 20, "batch_size": 1000, "seed": 0}  # draws are used for the flow only
    train_features, test_features = (lvm.features(model, guide, part, **means) for part in (bits, data.test))
    return {
        "log_p": [round(value, 3) for value in found.log_evidence.tolist()],
        "error": float(found.total.standard_error) / len(data.test),
        "khat": [round(value, 2) for value in found.khat.tolist()],
        "elbo": float(bound.mean()),
        "active": report.num_active,
        "rate": report.rate,
        "accuracy": accuracy(train_features, test_features, data),
    }


def accuracy(train: np.ndarray, test: np.ndarray, data: Split) -> float:
    """Share of the test images that logistic regression on features of the training images gets right.

    Args:
        train: Features of the training images.
        test: Features of the test images.
        data: The images' labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return float(classifier.fit(train, data.train_labels).score(test, data.test_labels))
