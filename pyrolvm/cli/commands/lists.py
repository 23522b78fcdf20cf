"""`pyrolvm models` and `pyrolvm datasets`."""

from dataclasses import asdict

from pyrolvm.cli.collection import GUIDES, MODELS
from pyrolvm.cli.summary import print_table
from pyrolvm.cli.training import OBJECTIVES

__all__ = ["list_datasets", "list_models"]


def list_models() -> None:
    """List the models, guides and objectives that have names, and the options that apply to each model."""
    lines = []
    for model in MODELS.values():
        defaults = {**model.settings, **asdict(model.training)}
        options = " ".join(f"--{name.replace('_', '-')} {v}" for name, v in defaults.items() if v is not None)
        data = "its own" if model.dataset else "DATA"
        lines.append((model.name, data, f"{model.summary} [{options}]"))
    lines.append(
        (
            "file.py:function",
            "what it takes",
            "a program of your own: a function, a module, or a class of these [--learning-rate 0.01, until the loss "
            "stops falling]",
        )
    )
    print_table(("MODEL", "DATA", "WHAT IT IS [options and their defaults]"), lines)
    print()
    guides = [(guide.name, guide.summary) for guide in GUIDES.values()]
    guides.append(("file.py:function", "a guide of your own; a class is called with the model"))
    print_table(("GUIDE", "WHAT IT IS"), guides)
    print()
    objectives = [
        (name, f"{objective.summary} [K = {objective.num_particles}]") for name, objective in OBJECTIVES.items()
    ]
    print_table(("OBJECTIVE", "WHAT IT IS [draws by default; NAME:K for K]"), objectives)


def list_datasets() -> None:
    """List the data sets that have names, with their shapes and sources."""
    from pyrolvm.datasets import describe

    lines = [(record.name, f"{record.shape[0]} x {record.shape[1]}", record.source) for record in describe()]
    lines.append(("path/to/file", "N x D", "CSV, Parquet, NPY, NPZ or IDX, plain or gzip"))
    print_table(("DATA", "SHAPE", "SOURCE"), lines)
