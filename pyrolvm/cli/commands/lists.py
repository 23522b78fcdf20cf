"""`pyrolvm models` and `pyrolvm datasets`."""

from pyrolvm.cli.collection import GUIDES, MODELS
from pyrolvm.cli.summary import print_table

__all__ = ["list_datasets", "list_models"]


def list_models() -> None:
    """List the models and guides that have names, and the options that apply to each."""
    lines = []
    for model in MODELS.values():
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in model.settings.items())
        data = "its own" if model.dataset else "DATA"
        lines.append((model.name, data, f"{model.summary}{f' [{options}]' if options else ''}"))
    lines.append(
        ("file.py:function", "what it takes", "a program of your own: a function, a module, or a class of these")
    )
    print_table(("MODEL", "DATA", "WHAT IT IS [options and their defaults]"), lines)
    print()
    guides = [(guide.name, guide.summary) for guide in GUIDES.values()]
    guides.append(("file.py:function", "a guide of your own; a class is called with the model"))
    print_table(("GUIDE", "WHAT IT IS"), guides)


def list_datasets() -> None:
    """List the data sets that have names, with their shapes and sources."""
    from pyrolvm.datasets import describe

    lines = [(record.name, f"{record.shape[0]} x {record.shape[1]}", record.source) for record in describe()]
    lines.append(("path/to/file", "N x D", "CSV, Parquet, NPY, NPZ or IDX, plain or gzip"))
    print_table(("DATA", "SHAPE", "SOURCE"), lines)
