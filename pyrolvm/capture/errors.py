"""What is raised where something cannot be captured."""

__all__ = ["CaptureError", "first_line"]


class CaptureError(Exception):
    """A run cannot be captured; the message says why, to the user.

    Example:
        >>> raise CaptureError("the program reads the value of a tensor")
        Traceback (most recent call last):
        pyrolvm.capture.errors.CaptureError: the program reads the value of a tensor
    """


def first_line(error: Exception) -> str:
    """What an error says, in one line.

    Args:
        error: Any error.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
