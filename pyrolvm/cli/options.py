"""The options of the commands, in groups."""

from dataclasses import dataclass
from typing import Annotated

import typer

__all__ = ["DataArgument", "DataOptions", "EvidenceOptions", "ModelArgument", "ModelOptions", "TrainingOptions"]

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", show_default=False, help="A name from 'pyrolvm models', or path/file.py:function."),
]
DataArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A name from 'pyrolvm datasets', or a file: CSV, Parquet, NPY, NPZ, IDX, plain or gzip.",
    ),
]


@dataclass(frozen=True)
class DataOptions:
    """How DATA is read and prepared."""

    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of classes in a CSV or Parquet file: left out.")
    ] = None
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns of a CSV or Parquet file to use; default all.")
    ] = None
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Give every column mean 0 and standard deviation 1.")
    ] = False
    binarize: Annotated[
        float | None, typer.Option(metavar="THRESHOLD", help="Make values above this 1 and the others 0.")
    ] = None


@dataclass(frozen=True)
class ModelOptions:
    """What the model is made of; each applies to some models, which 'pyrolvm models' shows."""

    num_components: Annotated[int | None, typer.Option(metavar="K", help="Components of a mixture.")] = None
    covariance: Annotated[
        str | None, typer.Option(metavar="KIND", help="Of a Gaussian mixture: full, tied, diagonal, spherical.")
    ] = None
    num_latents: Annotated[int | None, typer.Option(metavar="L", help="Latent dimensions, or factors.")] = None
    hidden: Annotated[
        str | None, typer.Option(metavar="H1,H2,...", help="Widths of the hidden layers of encoder and decoder.")
    ] = None
    likelihood: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of a VAE: bernoulli (for 0 and 1), gaussian, heteroscedastic_gaussian, poisson, negative_binomial.",
        ),
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """How a pair is fitted."""

    num_particles: Annotated[
        int | None, typer.Option(metavar="K", help="Draws in the objective [default: elbo 1, iwelbo 16].")
    ] = None
    num_steps: Annotated[
        int | None,
        typer.Option(metavar="T", help="Steps, or iterations of EM; defaults are in 'pyrolvm models'."),
    ] = None
    num_epochs: Annotated[int | None, typer.Option(metavar="E", help="Passes over the data, in place of steps.")] = None
    batch_size: Annotated[int | None, typer.Option(metavar="B", help="Rows of a minibatch; 0 for all rows.")] = None
    learning_rate: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Of Adam; FIRST:LAST falls from one to the other by the end."),
    ] = None
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")] = None


@dataclass(frozen=True)
class EvidenceOptions:
    """How log p(x) is estimated."""

    evidence_particles: Annotated[
        int, typer.Option(metavar="K", min=1, help="Draws of the guide for estimates of log p(x).")
    ] = 1000
