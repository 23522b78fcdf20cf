"""`pyrolvm fit`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyrolvm as lvm


def test_em_reaches_the_known_maximum(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "gaussian_mixture", "faithful")
    assert outcome.number("log p(x)") == pytest.approx(-1130.264, abs=0.01)
    assert outcome.row("fit").startswith("EM: ")
    assert outcome.row("model") == "gaussian_mixture on faithful (272 x 2), num_components 2, covariance full"
    assert "exact" in outcome.row("verdict")
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--covariance", "tied"), -1140.1868),
        (("--covariance", "tied", "--num-components", 3), -1126.3159),
        (("--covariance", "diagonal"), -1147.8064),
        (("--covariance", "spherical"), -1709.5293),
    ],
)
def test_other_covariances(options: tuple[Any, ...], expected: float, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "gaussian-mixture", "faithful", *options)
    assert outcome.number("log p(x)") == pytest.approx(expected, abs=0.01)


def test_svi_with_the_component_summed_out(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "gaussian_mixture", "faithful", "--method", "svi", "--num-steps", 100)
    assert outcome.number("log p(x)") == pytest.approx(-1130.264, abs=0.3)
    assert outcome.row("fit").startswith("guide none, objective elbo: 100 steps")


def test_an_option_of_svi_chooses_it(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "gaussian_mixture", "faithful", "--learning-rate", 0.01, "--num-steps", 3)
    assert "3 steps" in outcome.row("fit")


def test_standardized_data_and_the_way_back(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "gaussian_mixture", "faithful", "--standardize")
    note = outcome.err.strip()
    assert note.startswith("pyrolvm: note: columns were standardized")
    nats = float(note.split(" add ")[1].split()[0])
    assert outcome.number("log p(x)") + nats == pytest.approx(-1130.264, abs=0.05)


def test_columns_of_a_data_set(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "gaussian_mixture", "faithful", "--columns", "waiting")
    assert "(272 x 1)" in outcome.row("model")


def test_a_file_with_labels(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    rows = lvm.datasets.iris()
    names = ("setosa", "versicolor", "virginica")
    lines = [f"{','.join(map(str, x))},{names[label]}" for x, label in zip(rows.x, rows.labels, strict=True)]
    (tmp_path / "flowers.csv").write_text("a,b,c,d,species\n" + "\n".join(lines))
    outcome = succeeds("fit", "gaussian_mixture", "flowers.csv", "--label-column", "species", "--num-components", 3)
    assert "flowers (150 x 4)" in outcome.row("model")


def test_em_takes_iterations_and_a_batch_size(succeeds: Callable[..., Any]) -> None:
    options = ("--method", "em", "--num-steps", 2, "--batch-size", 50, "--device", "cpu")
    outcome = succeeds("fit", "gaussian_mixture", "faithful", *options)
    assert "2 iterations" in outcome.row("fit")
    assert "not converged" in outcome.row("fit")
    assert outcome.err.startswith("pyrolvm: warning: EM did not converge in 2 iterations")
    assert len(outcome.err.splitlines()) == 1


def test_eight_schools(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds(
        "fit", "eight_schools", "--guide", "Mean-Field", "--num-steps", 30, "--learning-rate", "0.1:0.01"
    )
    assert outcome.row("model") == "eight_schools"
    assert "guide mean_field, objective elbo: 30 steps" in outcome.row("fit")
    assert outcome.number("ELBO") < outcome.number("log p(x)")
    assert "ESS" in outcome.row("k-hat")


def test_the_same_seed_gives_the_same_fit(succeeds: Callable[..., Any]) -> None:
    def bound(seed: int) -> float:
        return float(succeeds("fit", "eight_schools", "--num-steps", 5, "--seed", seed).number("ELBO"))

    assert bound(1) == bound(1) != bound(2)


def test_grey_values_are_binarized_in_the_middle(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "vae", "digits", "--num-epochs", 1, "--evidence-particles", 30, "--objective", "iwelbo:4")
    assert (
        outcome.err == "pyrolvm: note: grey values 0 to 16 were binarized at 8; --binarize takes another threshold.\n"
    )
    assert "objective iwelbo:4: 17 steps" in outcome.row("fit")
    assert outcome.number("ELBO") < outcome.number("IWELBO(4)") < outcome.number("log p(x)")


def test_a_gaussian_vae(succeeds: Callable[..., Any]) -> None:
    options = ("--likelihood", "gaussian", "--standardize", "--num-latents", 1, "--hidden", "8,4", "--num-epochs", 3)
    outcome = succeeds("fit", "vae", "iris", *options, "--batch-size", 0, "--evidence-particles", 30)
    assert outcome.row("model") == "vae on iris (150 x 4), num_latents 1, hidden 8,4, likelihood gaussian"
    assert "3 steps" in outcome.row("fit")


@pytest.mark.parametrize(
    ("name", "likelihood", "width"),
    [
        ("poisson", lvm.likelihoods.Poisson, 64),
        ("negative-binomial", lambda: lvm.likelihoods.NegativeBinomial(torch.ones(64)), 64),
        ("heteroscedastic_gaussian", lvm.likelihoods.HeteroscedasticGaussian, 128),
    ],
)
def test_vaes_of_counts_and_of_other_numbers(
    tmp_path: Path, succeeds: Callable[..., Any], name: str, likelihood: Callable[[], Any], width: int
) -> None:
    options = ("--likelihood", name, "--num-latents", 2, "--hidden", 8, "--num-epochs", 2, "--evidence-particles", 30)
    outcome = succeeds("fit", "vae", "digits", *options, "--output", "fit.safetensors")
    assert outcome.row("model").endswith(f"likelihood {name.replace('-', '_')}")
    assert outcome.err == ""  # nothing is binarized
    assert outcome.number("ELBO") < outcome.number("log p(x)")
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [8], width), likelihood())
    first = [] if width == 128 else [lvm.nn.Map(torch.log1p)]  # encoders of counts see their logarithms
    encoder = torch.nn.Sequential(*first, lvm.nn.MLP(64, [], 8), torch.nn.ReLU())
    guide = lvm.guides.Amortized(model, encoder)
    x = torch.tensor(lvm.datasets.digits().x)
    result = lvm.load(tmp_path / "fit.safetensors", *lvm.bind(model, guide, x[:2]))
    bound = lvm.objectives.ELBO(30).bound(result.model, result.guide, x, seed=0).sum().item()
    assert bound == pytest.approx(outcome.number("ELBO"), rel=0.01)


def test_zeros_and_ones_are_taken_as_they_are(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    np.save(tmp_path / "bits.npy", np.random.default_rng(0).integers(0, 2, (20, 4)))
    outcome = succeeds("fit", "vae", "bits.npy", "--num-epochs", 1, "--evidence-particles", 30)
    assert outcome.err == ""
    assert "1 steps" in outcome.row("fit")  # fewer rows than a minibatch: all at once


def test_too_few_draws_for_a_verdict(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "eight_schools", "--num-steps", 2, "--evidence-particles", 10)
    assert outcome.row("verdict").startswith("doubtful: k-hat is not known")
    assert outcome.err == ""  # the verdict says it


def test_a_fit_is_saved_whole(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    (tmp_path / "fit.safetensors").write_text("something older")
    outcome = succeeds("fit", "gaussian_mixture", "faithful", "--output", "fit.safetensors")
    assert outcome.row("saved") == "fit.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    model = lvm.models.GaussianMixture(2, 2)
    loaded = lvm.load(tmp_path / "fit.safetensors", model)
    assert model.log_density(lvm.datasets.faithful().x).sum().item() == pytest.approx(-1130.264, abs=0.01)
    assert loaded.converged


@pytest.mark.gpu
def test_on_a_gpu(succeeds: Callable[..., Any]) -> None:
    options = ("--device", "cuda", "--num-epochs", 1, "--evidence-particles", 50)
    fitted = succeeds("fit", "vae", "digits", *options, "--output", "vae.safetensors")
    loaded = succeeds("evidence", "vae", "digits", "--fit", "vae.safetensors", "--evidence-particles", 50)
    assert loaded.number("log p(x)") == pytest.approx(fitted.number("log p(x)"), rel=0.01)
    assert "ELBO" in succeeds("fit", "eight_schools", "--device", "cuda", "--num-steps", 5).out
    mixture = succeeds("evidence", "gaussian_mixture", "faithful", "--device", "cuda")
    assert mixture.number("log p(x)") == pytest.approx(-1130.264, abs=0.01)
