"""Rendering: all that the SQL of a sync's calls depends on, and the SQL of what a row says of its user."""

from dataclasses import dataclass
from datetime import datetime

from retl import sql
from retl.calls.message_id import MessageIdScope
from retl.calls.template import Image, Template
from retl.config.sync import Sync
from retl.engine.canonical import plain_text
from retl.engine.mapping import Part, SyncMapping, Use


@dataclass(frozen=True)
class Rendering:
    """The values that the SQL of calls depends on, besides the changes.

    Attributes:
        sync: the sync.
        mapping: its mapping, with the types of the model's columns; the row after the change.
        old_mapping: the mapping with which the snapshot was built; the row before the change. None on a
            first pass.
        id_scope: the state, the sync and the generation, for message ids.
        detected_at: the moment at which the changes were found, UTC.
        lanes: over how many lanes the users are spread.
        full: whether every current row is sent again.
        silent: whether this is a silent baseline, which makes no calls.
        promoted: the SELECT of the changes from the promoted snapshot, each with its place `seq`; None where
            the text of all calls is wanted now.
    """

    sync: Sync
    mapping: SyncMapping
    old_mapping: SyncMapping | None
    id_scope: MessageIdScope
    detected_at: datetime
    lanes: int = 1
    full: bool = False
    silent: bool = False
    promoted: str | None = None

    def type_of(self, image: Image, column: str) -> str | None:
        """The canonical type of a column in one of the two rows; None where that row lacks it."""
        now = self.mapping.types.get(column)
        if image is Image.AFTER:
            return now
        return self.old_mapping.type_of(column, now) if self.old_mapping else None

    def column(self, image: Image, column: str) -> str:
        """SQL for a column of one of the two rows; NULL where that row lacks it."""
        return "NULL" if self.type_of(image, column) is None else f"{image}[{sql.text(column)}]"

    def old_column(self, template: Template, use: Use) -> str | None:
        """The column that the old mapping had for a use; None where it had none."""
        return self.old_mapping.column_of(use, template.says) if self.old_mapping else None

    def source(self, template: Template, use: Use, column: str) -> str:
        """The column for a use in a call; for a removed row the one that was mapped while it was there."""
        if template.image is Image.BEFORE and self.type_of(Image.BEFORE, column) is None:
            return self.old_column(template, use) or column
        return column

    def text(self, image: Image, column: str) -> str:
        """SQL for the text of a column of one of the two rows, as ids are sent; NULL where it lacks it."""
        kind = self.type_of(image, column)
        return "NULL::VARCHAR" if kind is None else plain_text(kind, self.column(image, column))

    def ids(self, template: Template) -> dict[str, str]:
        """SQL for the ids of a call as text, by their names in the sync's file."""
        return {name: self.text(template.image, column) for name, column in self.mapping.ids.items()}

    def user(self, image: Image) -> str:
        """SQL for the user id of a row, else its anonymous id."""
        return f"coalesce({', '.join(self.text(image, one) for one in self._user_columns())})"

    def moved(self, template: Template) -> str:
        """SQL for the condition that the row's user is, or is not, another than before; empty for either."""
        if template.moved is None:
            return ""
        columns = self._user_columns()
        pairs = ((self.text(Image.BEFORE, one), self.text(Image.AFTER, one)) for one in columns)
        moved = " OR ".join(f"{before} IS DISTINCT FROM {after}" for before, after in pairs)
        if not template.moved:
            return f" AND NOT ({moved})"
        # Nobody leaves where nobody was known.
        somebody = f" AND {self.user(Image.BEFORE)} IS NOT NULL" if template.image is Image.BEFORE else ""
        return f" AND ({moved}){somebody}"

    def event(self, template: Template) -> str:
        """SQL for the name of a track call's event."""
        event = template.event
        if event is None or event.column is None:
            return sql.text(event.name) if event and event.name else "NULL::VARCHAR"
        return self.text(template.image, self.source(template, Use(Part.EVENT), event.column))

    def message_id(self, template: Template) -> str:
        """SQL for the message id that a row gives itself; NULL where it gives none."""
        if template.message_id is None:
            return "NULL::VARCHAR"
        return f"nullif({self.text(template.image, template.message_id)}, '')"

    def _user_columns(self) -> list[str]:
        return [column for name, column in self.mapping.ids.items() if name != "group_id"]
