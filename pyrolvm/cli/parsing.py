"""Values of options that are more than one word or number."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["choose", "nearest", "numbers", "split_count", "words"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest known word, or a full stop where none is near.

    Args:
        word: What was given.
        known: What could have been.

    Example:
        >>> nearest("mean-feild", ["mean_field", "full_rank"])
        "; did you mean 'mean_field'?"
    """
    near = get_close_matches(word.lower().replace("-", "_"), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def choose(word: str, known: Iterable[str], what: str, more: str = "") -> str:
    """The one of the known words that was meant; case does not count, nor - for _.

    Args:
        word: What was given.
        known: Words to choose from.
        what: What kind of word it is, for the message.
        more: What else may be given, for the message.

    Raises:
        ValueError: If there is no such word; the nearest is suggested.

    Example:
        >>> choose("Full-Rank", ["mean_field", "full_rank"], "guide")
        'full_rank'
    """
    choices = list(known)
    plain = word.strip().lower().replace("-", "_")
    if plain not in choices:
        raise ValueError(f"unknown {what} {word!r}{nearest(word, choices)} Known: {', '.join(choices)}.{more}")
    return plain


def words(text: str, option: str) -> tuple[str, ...]:
    """Words between commas.

    Args:
        text: For instance "a,b".
        option: The option, for the message.

    Raises:
        ValueError: If there is none, an empty one, or one twice.

    Example:
        >>> words("a, b", "--guides")
        ('a', 'b')
    """
    found = tuple(word.strip() for word in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise ValueError(f"{option} takes names with commas between them, each once; got {text!r}.")
    return found


def numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    """Whole numbers between commas.

    Args:
        text: For instance "0,1,2".
        option: The option, for the message.
        least: The smallest that is allowed.

    Raises:
        ValueError: If there is none, or something else.

    Example:
        >>> numbers("128,64", "--hidden", 1)
        (128, 64)
    """
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < least:
        kind = f"whole numbers of at least {least}"
        raise ValueError(f"{option} takes {kind} with commas between them; got {text!r}.")
    return found


def split_count(text: str) -> tuple[str, int | None]:
    """A name and the count after its colon.

    Args:
        text: For instance "iwelbo:16", or "elbo".

    Raises:
        ValueError: If what follows the colon is no positive whole number.

    Example:
        >>> split_count("iwelbo:16")
        ('iwelbo', 16)
    """
    name, colon, count = text.partition(":")
    if not colon:
        return name, None
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"the number of particles after ':' must be a whole number of at least 1; got {text!r}.")
    return name, int(count)
