"""The main job on real data: compare variational families, with an answer that can be checked.

Prints two tables and writes one page, ``report.html``, in about a minute on two cores:

1. eight schools, non-centered: mean-field against full-rank, held against the known evidence -31.31135;
2. a VAE on binarized digits, trained on the ELBO and on IWELBO(16), judged by log p(x) of held-out images.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

import pyrolvm as lvm

SEEDS = (0, 1, 2)


def eight_schools(seeds: tuple[int, ...] = SEEDS) -> lvm.Comparison:
    """Two guides of one model, whose evidence is known from quadrature."""
    y, sigma = torch.as_tensor(lvm.datasets.eight_schools().x, dtype=torch.get_default_dtype()).T
    return lvm.compare(
        lambda: partial(lvm.models.eight_schools_noncentered, y, sigma),
        guides={"mean-field": lvm.guides.MeanField, "full-rank": lvm.guides.FullRank},
        objectives={"ELBO": lvm.objectives.ELBO(num_particles=10)},
        seeds=seeds,
        fit_options={"num_steps": 1500, "learning_rate": lambda step: 0.03 * 0.998**step},
        reference=-31.31135,
        num_particles=20_000,
    )


def vae_on_digits(seeds: tuple[int, ...] = SEEDS, num_epochs: int = 60) -> lvm.Comparison:
    """One model and guide, two objectives; the digits' pixels are on where their value is 8 or more."""
    pixels = torch.as_tensor(lvm.datasets.digits().x >= 8).to(torch.get_default_dtype())
    shuffled = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    return lvm.compare(
        lambda: lvm.models.VAE(num_latents=8, decoder=lvm.nn.MLP(8, [128], 64)),
        shuffled[:1437],
        guides={"amortized": lambda model: lvm.guides.Amortized(model, lvm.nn.MLP(64, [128], 128))},
        objectives={"ELBO": lvm.objectives.ELBO(), "IWELBO(16)": lvm.objectives.IWELBO(num_particles=16)},
        seeds=seeds,
        fit_options={"num_epochs": num_epochs, "batch_size": 100, "learning_rate": 3e-3},
        test=shuffled[1437:],
    )


def main() -> None:
    """Run both comparisons, print their tables, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("report.html"), help="where to write the page")
    report = parser.parse_args().report
    torch.set_num_threads(1)  # networks this small run faster on one thread than on two
    schools, digits = eight_schools(), vae_on_digits()
    print("\nEight schools, non-centered (log evidence -31.31135)\n")
    print(schools)
    print("\nVAE on binarized digits, 360 held-out images\n")
    print(digits)
    print("\nlog p(x) of IWELBO(16) less that of ELBO, nats an image, paired over images\n")
    print(digits.paired(("amortized", "IWELBO(16)"), ("amortized", "ELBO")).to_string())
    lvm.comparison.write_page(
        report,
        {"Eight schools, non-centered": schools, "VAE on binarized digits, held-out images": digits},
        title="Variational families on real data",
    )
    print(f"\nPictures, and how to read them: {report}")


if __name__ == "__main__":
    main()
