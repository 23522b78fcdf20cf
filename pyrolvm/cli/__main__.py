"""`python -m pyrolvm.cli`, where the program `pyrolvm` is not on the path."""

from pyrolvm.cli import main

__all__: list[str] = []

main()
