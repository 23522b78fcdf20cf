"""The command line: a thin skin over the public functions."""

from pyrolvm.cli.application import app, main

__all__ = ["app", "main"]
