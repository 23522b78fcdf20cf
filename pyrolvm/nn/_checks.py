"""Checks that networks share."""

__all__ = ["check_width"]


def check_width(width: int, name: str) -> None:
    """Refuse a width that is none."""
    if isinstance(width, bool) or not isinstance(width, int):
        raise TypeError(f"'{name}' must be an integer width; got {width!r}.")
    if width < 1:
        raise ValueError(f"'{name}' must be at least 1; got {width}.")
