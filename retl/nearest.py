"""Did you mean: the known name that a misspelled one is most like."""

import difflib
from collections.abc import Iterable

LONGEST = 200
"""Characters beyond which a name is like no other; to compare takes the square of them."""


def nearest_name(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that is most like the given one; None where none is like it.

    Args:
        name: as somebody wrote it; capitals do not count.
        known: the names that there are.
        likeness: the least that counts, from 0 to 1 (the ratio of `difflib.SequenceMatcher`).
    """
    if len(name) > LONGEST:
        return None
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=likeness)
    return folded[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The question after an unknown name, such as "did you mean `users`?"; None where no name is like it."""
    near = nearest_name(name, known, likeness)
    return None if near is None else f"did you mean `{near}`?"
