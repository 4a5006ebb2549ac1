"""A sync: which model is compared by which key, and which calls its changes become."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import PurePath
from typing import ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from retl.config.fields import (
    Columns,
    Engine,
    Event,
    Fields,
    Ids,
    ModelName,
    Name,
    Nulls,
    SchemaName,
    TableName,
    Text,
    Value,
    Zone,
)
from retl.config.kinds import (
    Audience,
    Change,
    Group,
    Identify,
    RemovedTraits,
    Track,
    TrackCall,
    refuse_overlap,
    refuse_reserved,
)
from retl.config.settings import Age, Channels, Guards, Limit, Receivers, SegmentSettings
from retl.errors import ConfigError
from retl.forms.dotted import literal_name, path
from retl.forms.form import Frozen, conflicting, lacking, nearest, refusal
from retl.forms.mistakes import checked
from retl.forms.yaml_file import Document, Location

__all__ = [
    "Audience",
    "Change",
    "Event",
    "Fields",
    "Group",
    "Guards",
    "Identify",
    "Limit",
    "Nulls",
    "RemovedTraits",
    "SegmentSettings",
    "Sync",
    "Track",
    "TrackCall",
    "Value",
    "parse",
    "with_columns",
]

KINDS = ("track", "audience", "identify", "group")

HISTORY = timedelta(days=30)
"""How long runs and the history are kept where no file says."""


class Sync(Frozen):
    """One sync file."""

    later: ClassVar[frozenset[str]] = frozenset({"schedule"})

    name: Name = Field(description="Name of the sync's state and part of its message ids; the file's name.")
    model: ModelName | None = Field(
        default=None, description="Model in the folder `models`, without `.sql`; or write `sql` or `table`."
    )
    sql: Text | None = Field(default=None, description="One SELECT, in place of `model`.")
    table: TableName | None = Field(
        default=None,
        description="A table or a view, all rows of it, in place of `model`: `schema.table`, such as a model "
        "of dbt. A part that SQL would have in quotes stands in quotes.",
    )
    primary_key: Columns = Field(description="Column or columns that tell rows apart: unique and never null.")
    track: Track | None = Field(default=None, description="Send track calls; see the block.")
    audience: Audience | None = Field(
        default=None, description="Send who entered and who left; see the block."
    )
    identify: Identify | None = Field(default=None, description="Send identify calls; see the block.")
    group: Group | None = Field(default=None, description="Send group calls; see the block.")
    initial: Literal["skip", "send"] | None = Field(
        default=None,
        description="For track and audience, the first run: only remember the rows (default), or send them.",
    )
    guards: Guards = Field(default=Guards(), description="Limits that stop a run; see the block.")
    nulls: Nulls | None = Field(
        default=None,
        description="What is sent for nulls: `clear` (null where a value was sent before), `send`, or "
        "`omit`; not written: `clear` for identify and group, `omit` for track and audience.",
    )
    timezone: Zone = Field(default="UTC", description="Zone of moments that name none.")
    compare: Columns | None = Field(
        default=None,
        description="Columns that make a row count as changed; not written: those that are sent.",
    )
    on_new_column: Literal["send", "baseline"] | None = Field(
        default=None,
        description="For a new trait or property: `send` its values, or only remember them (`baseline`); not "
        "written: `send` for identify and group, `baseline` for track and audience.",
    )
    on_rejected: Literal["fail", "warn"] = Field(
        default="fail", description="Exit code when rows or calls were rejected: 1 (`fail`) or 0 (`warn`)."
    )
    allow_ids: Ids = Field(
        default=(), description="Ids to send though they look like a mistake, such as `0`."
    )
    receivers: Receivers = Field(
        default={},
        description="Systems behind Segment by whose rules the calls are checked; see the block.",
    )
    keep: Age = Field(
        default=None,
        description="How long the history of calls and rejections, and the records of runs with their "
        "receipts, are kept, as `90d`; rejected rows and calls that are still open, too. Not written: 30 "
        "days, and what is open until it is fixed, sent or discarded. `off`: as long as the last 1,000 runs.",
    )
    notify: Channels = Field(
        default=(), description="Who is told when a run fails, or all is well again; see the block."
    )
    warehouse: Text = Field(
        default="${RETL_WAREHOUSE_URL}",
        repr=False,
        description="URL of the [warehouse](warehouses.md), as `postgresql://…`, `duckdb:///…` or `sc://…`.",
    )
    engine: Engine = Field(
        default="local",
        description="Where rows are compared: `local` reads all of them and writes nothing in the warehouse; "
        "`warehouse` compares them [there](promises/warehouse-engine.md), in tables in `engine_schema`, and "
        "reads what may have changed.",
    )
    engine_schema: SchemaName = Field(
        default="retl", description="The schema for the tables of `engine: warehouse`."
    )
    state: Text | None = Field(
        default=None,
        description="Where the state is kept: a folder, or a [bucket](bucket.md) as `s3://BUCKET/FOLDER/`, "
        "`gs://…` or `az://…`; not written: the folder `state` in the project.",
    )
    segment: SegmentSettings = Field(default=SegmentSettings(), description="Where calls go; see the block.")

    _documents: tuple[Document, ...] = PrivateAttr(default=())

    @property
    def keeps_history(self) -> timedelta | None:
        """How long runs and the history are kept; None is as long as the last runs, of whatever age."""
        return self.keep if "keep" in self.model_fields_set else HISTORY

    @property
    def kind(self) -> Literal["track", "audience", "identify", "group"]:
        """Which kind of call the sync sends."""
        if self.track:
            return "track"
        if self.audience:
            return "audience"
        return "identify" if self.identify else "group"

    @property
    def block(self) -> Track | Audience | Identify | Group:
        """The block of the file that is named for its kind."""
        block = self.track or self.audience or self.identify or self.group
        assert block, "a sync has one kind"
        return block

    @property
    def sends_first_pass(self) -> bool:
        """Whether the first pass sends its rows, or else only remembers them."""
        return self.kind in ("identify", "group") or self.initial == "send"

    @property
    def sends_new_fields(self) -> bool:
        """Whether a field that is new in the mapping makes rows changed, or is only remembered."""
        default = "send" if self.kind in ("identify", "group") else "baseline"
        return (self.on_new_column or default) == "send"

    @property
    def path(self) -> str:
        """The sync's file, as error messages show it; its name, where it was not read from a file."""
        return self._documents[0].shown if self._documents else self.name

    @property
    def sql_line(self) -> int:
        """The line of the file on which `sql` starts; 1-based."""
        return self._documents[0].text_line(("sql",)) if self._documents else 1

    @property
    def table_line(self) -> int:
        """The line of the file on which `table` stands; 1-based."""
        return self._documents[0].line(("table",)) if self._documents else 1

    def where(self, *location: str | int) -> str:
        """The place of a key for an error message, such as `syncs/users.yml:12 identify.traits.email`.

        It is in retl.yml where only that has the key.
        """
        for document in self._documents:
            if document.holds(location):
                return document.where(location)
        if self._documents:
            return self._documents[0].where(location)
        return f"{self.path} {'.'.join(map(str, location))}".rstrip()

    def writes(self, *location: str | int) -> bool:
        """Whether the sync's own file has a key, rather than retl.yml."""
        return any(document.holds(location) for document in self._documents[:1])

    def where_used(self, column: str) -> str:
        """The place where a column is first named, for an error message."""
        for document in self._documents[:1]:
            for key in ("primary_key", self.kind, "compare"):
                for location in _naming(document.data.get(key), column, (key,)):
                    return document.where(location)
        return self.path

    @model_validator(mode="after")
    def _one_kind(self, info: ValidationInfo) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) > 1:
            found = " and ".join(kind + _on_line(kind, info) for kind in given)
            count, rest = str(len(given)), "put the others in files of their own"
            if len(given) == 2:
                count, rest = "two", "put the other in a file of its own"
            raise conflicting(f"{count} kinds in one file: {found}; keep one and {rest}", *given[1:])
        if not given:
            for kind in self.model_fields_set.intersection(KINDS):
                raise refusal("has no value", kind)
            raise lacking(
                "none of `track`, `audience`, `identify` and `group` is there; write one of them",
                track={"user_id": "_", "added": "_"},
            )
        return self

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        given = [key for key in ("model", "sql", "table") if getattr(self, key) is not None]
        if len(given) > 1:
            raise refusal(f"both `{given[0]}` and `{given[1]}` are there; keep one", given[1])
        if not given:
            raise lacking(
                "none of `model` (a file in models/), `sql` and `table` is there; write one of them",
                model="_",
            )
        return self

    @model_validator(mode="after")
    def _initial_where_it_counts(self) -> Self:
        if self.initial is not None and self.kind in ("identify", "group"):
            raise refusal(
                f"`initial` is for track and audience; the first run of {self.kind} always sends", "initial"
            )
        return self

    @model_validator(mode="after")
    def _mark_alone(self) -> Self:
        mapped = [name for name in self.block.context if path(name)[0] == "app"]
        if self.segment.mark_runs and mapped:
            raise refusal(
                f"`mark_runs` sends the id of the run as `context.app`, which `{self.kind}` maps too "
                f"(`{mapped[0]}`); keep one",
                "segment",
            )
        return self


_NO_COLUMN = {"value", "name", "key", "style", "as", "unit", "nulls"}
"""Keys whose texts are not columns."""


def _naming(written: object, column: str, location: Location) -> Iterator[Location]:
    """The places at or below a key where a column is named."""
    if written == column and location[-1] != "event":
        yield location
    elif isinstance(written, dict):
        for key, inner in written.items():
            if key not in _NO_COLUMN:
                yield from _naming(inner, column, (*location, key))
    elif isinstance(written, list) and column in written:
        yield location


def parse(document: Document, defaults: Document | None = None) -> Sync:
    """Make a sync of its file.

    Args:
        defaults: retl.yml, which `check_defaults` found right.

    Raises:
        ConfigError: all that is wrong with the file: the first as the message, the others as lines below it.
    """
    data: dict[str, object] = {"name": PurePath(document.shown).stem, **document.data}
    for key, default in (defaults.data if defaults else {}).items():
        if default is not None:
            data[key] = _over(default, data[key]) if key in data else default
    sync = checked(Sync, data, document)
    sync._documents = (document, defaults) if defaults else (document,)
    return sync


def _over(default: object, own: object) -> object:
    """A sync's own value over that of retl.yml, which counts for keys that it does not write."""
    if not isinstance(own, dict) or not isinstance(default, dict):
        return own
    return {**default, **{key: _over(default.get(key), value) for key, value in own.items()}}


def with_columns(sync: Sync, columns: Sequence[str]) -> Sync:
    """The sync in which `all` is spelled out as the model's columns; any other as it is.

    Raises:
        ConfigError: `except` names a column that the model lacks, or a column has no name, or that of a
            field with a meaning of its own.
    """
    block = sync.block
    if not block.sends_all:
        return sync
    for column in block.except_ or ():
        if column not in columns:
            raise ConfigError(
                f"the model has no column `{column}` to leave out{nearest(column, list(columns))}",
                where=sync.where(sync.kind, "except"),
            )
    left_out = block.placed.union(block.except_ or ())
    if "" in columns and "" not in left_out:
        raise ConfigError(
            "a column of the model has no name",
            where=sync.where(sync.kind, block.fields_key),
            hint="give it one: SELECT … AS name",
        )
    fields = {literal_name(column): Value(column=column) for column in columns if column not in left_out}
    try:
        refuse_reserved(fields, block.reserved)
        for call in block.calls.values() if isinstance(block, Track) else ():
            refuse_overlap(call.properties or {}, fields)
    except PydanticCustomError as error:
        raise ConfigError(
            str(error),
            where=sync.where(sync.kind, block.fields_key),
            hint="give the column another name in the model, or list it below `except`",
        ) from None
    spelled_out = block.model_copy(update={block.fields_key: fields})
    return sync.model_copy(update={sync.kind: spelled_out})


def _on_line(key: str, info: ValidationInfo) -> str:
    return f" (line {info.context.line((key,))})" if isinstance(info.context, Document) else ""
