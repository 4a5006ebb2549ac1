"""The dotted names of fields: `address.city` is `city` in `address`."""

import re


def path(name: str) -> tuple[str, ...]:
    r"""The keys that a field's name leads through: `address.city` is `city` in `address`.

    A dot that belongs to a key is written `\.`, and a backslash before a dot `\\`.
    """
    pieces = re.findall(r"\\[.\\]|[.]|[^.]", name, re.DOTALL)
    keys = [""]
    for piece in pieces:
        if piece == ".":
            keys.append("")
        else:
            keys[-1] += piece[1] if len(piece) == 2 else piece
    return tuple(keys)


def literal_name(key: str) -> str:
    r"""The name of a field whose key is taken as it is: `a.b` is written `a\.b`."""
    return re.sub(r"\\(?=[.\\])|[.]", r"\\\g<0>", key)
