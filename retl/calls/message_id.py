"""Message ids of retl's own, by which Segment recognises a call that reaches it twice.

An id is `retl-` and 32 hexadecimal digits, the MD5 of this text in UTF-8:

    <destination id>:<sync>:<diff>:<mapping>:<change>:<counts as>:<bytes of key>:<key>:<hash>:<timestamp>

    destination id  the state's random id: two Segment sources that are fed alike have ids of their own
    sync            the sync's name, in which there is never a colon; so have two syncs
    diff            how many diffs the state has recorded, this one counted: so have A → B → A, and a row that
                    leaves and comes again; `reset` does not start the count again
    mapping         a hash of the sync's mapping (`SyncMapping.digest`)
    change          what happened to the row: "added", "changed", "removed" or "unchanged"
    counts as       the kind of change as which the call is ordered; a row that moves from one user to another
                    is one change with two calls, which count as "removed" and "added"
    bytes of key    the length of the key in UTF-8, so that the text says where the key ends
    key             the row's primary key
    hash            of the row's compared columns (`retl.engine.row_hash`), as the row is after the change, or
                    was before it is gone
    timestamp       the instant that the row gives, in UTC, such as `2026-03-01 12:00:00.125`; empty where the
                    call takes the moment of detection

An id needs no text of the call, so that the text can be made when the call leaves. The id stays what it was
at enqueue, as the hash is kept. Mapping and hash are there for a state that is put back to an older copy: a
change that was sent since then is sent again, under the same id where it is the same, and else under another.

The moment of detection is left out: a run that is stopped before it has recorded its diff, and is run again,
gives the same calls the same ids. MD5 is used for its 128 bits, in which a billion calls do not collide; it
keeps no secret. An id has 37 characters; Segment allows 100 (Segment Spec, common fields).
"""

from dataclasses import dataclass

from retl import sql

MAX_MESSAGE_ID = 100
"""A message id's length limit in characters (Segment Spec, common fields)."""


@dataclass(frozen=True)
class MessageIdScope:
    """The parts of the recipe that all calls of one diff have in common.

    Attributes:
        destination_id: the state's random id.
        sync: the sync's name.
        generation: how many diffs the state has recorded before this one.
        mapping: the hash of the sync's mapping.
    """

    destination_id: str
    sync: str
    generation: int
    mapping: str

    @property
    def prefix(self) -> str:
        """The beginning of the text that is hashed."""
        return f"{self.destination_id}:{self.sync}:{self.generation + 1}:{self.mapping}:"


def made_message_id(scope: MessageIdScope) -> str:
    """The SQL of a call's message id, by the recipe above.

    Args:
        scope: the parts that all calls of the diff have in common.

    Returns:
        An expression over the columns `change`, `counts_as`, `key` (VARCHAR), `hash` and `stamp` (TIMESTAMP).
    """
    hashed = (
        f"concat({sql.text(scope.prefix)}, change, ':', counts_as, ':', strlen(key), ':', key, ':', "
        "hash, ':', stamp)"
    )
    return f"'retl-' || md5({hashed})"
