"""Edits of a sync that send nothing by themselves, so that a run can tell what stays as it is at Segment."""

from collections.abc import Sequence

from retl.engine.base import Changes
from retl.engine.mapping import NOTHING_SAID, Part, moved_columns, nested_columns

MOST_NAMES = 6
"""Names in a sentence, beyond which the others are only counted."""


def unsent(changes: Changes) -> list[str]:
    """The names of what an edit added to calls, or altered in them, and what no row is sent for.

    Empty on a first pass, and where the state was written by a retl that did not keep such things.
    """
    new, old = changes.mapping, changes.old_mapping
    if old is None:
        return []
    # A field that is compared with its own column as it was sends no row for being new.
    compared = {one.use for one in changes.compared if one.use in old.compared or one.before != one.after}
    found = [
        use.label
        for use, column in new.fields.items()
        if use.part is Part.FIELD and use not in compared and old.fields.get(use) != column
    ]
    sent = {use.label for use in compared if old.compared.get(use) != new.compared[use]}
    for name, said in new.uncompared.items() if old.uncompared else ():
        if said != old.uncompared.get(name, NOTHING_SAID) and name not in sent:
            found.append(name)
    if moved_columns(new, old) or nested_columns(new, old):
        found.append("timezone")
    return list(dict.fromkeys(found))


def unsent_sentence(names: Sequence[str]) -> str:
    """The sentence about what an edit does not send."""
    named = ", ".join(f"`{name}`" for name in names[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"the sync was edited; no row is sent for {named}{more}, but with its next change, or with --full"
