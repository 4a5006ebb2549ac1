"""Settings that retl.yml gives defaults for: guards, the Segment source, the warehouse, the time zone."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from retl.config.fields import (
    Connections,
    Count,
    Endpoint,
    Engine,
    Flag,
    Name,
    SchemaName,
    Text,
    Zone,
    is_whole,
)
from retl.forms.form import Frozen, nearest, refusal
from retl.forms.mistakes import checked
from retl.forms.yaml_file import Document
from retl.receivers.settings import Settings, known_receivers, read_settings


class Limit(Frozen):
    """How much may change in one run: a count of rows, a percentage of the snapshot, or no limit."""

    count: int | None = Field(default=None, ge=0, description="Rows.")
    percent: float | None = Field(default=None, ge=0, description="Percentage of the rows of the snapshot.")
    off: bool = Field(default=False, description="No limit.")

    def __str__(self) -> str:
        """As it is written in a file."""
        if self.off:
            return "off"
        return str(self.count) if self.count is not None else f"{self.percent:g}%"


def _limit(written: object) -> Limit:
    """Read 500000, 20% or off.

    Raises:
        PydanticCustomError: it is none of them.
    """
    if isinstance(written, Limit):
        return written
    text = str(int(written) if isinstance(written, float) and is_whole(written) else written).strip()
    if written is False or text == "off":
        return Limit(off=True)
    if re.fullmatch(r"[0-9]{1,12}", text):
        return Limit(count=int(text))
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?%", text):
        return Limit(percent=float(text[:-1]))
    raise refusal("must be a count such as 500000, a percentage such as 20%, or off")


GuardLimit = Annotated[Limit, BeforeValidator(_limit)]


class Guards(Frozen):
    """Limits that stop a run before the first call."""

    removed: GuardLimit | None = Field(
        default=None,
        description="Most rows that may be gone: a count, a percentage of the snapshot, or `off`; not "
        "written: 20%, where the snapshot has 100 rows or more, or more than 1,000 rows are gone.",
    )
    changed: GuardLimit | None = Field(
        default=None, description="Most rows that may have changed; as `removed`, with 50%."
    )
    added: GuardLimit | None = Field(
        default=None, description="Most rows that may be new; as `removed`, with 100%."
    )
    rejected: GuardLimit | None = Field(
        default=None,
        description="Most rows that cannot be compared, as their key is null or shared or a text is none "
        "that can be read: a count, a percentage of the rows read, or `off`; not written: 20%, of 100 rows "
        "or more. It holds on a first run, too. Rows that can be compared and make no call, as with "
        "`no_id` or `bad_timestamp`, do not count.",
    )
    min_rows: Count = Field(default=1, description="Fewest rows that the model may yield.")


def _age(written: object) -> timedelta | None:
    """Read 30d or off.

    Raises:
        PydanticCustomError: it is neither.
    """
    if written is None or isinstance(written, timedelta):
        return written
    if written is False or written == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})d", str(written).strip())
    if match is None:
        raise refusal("must be a number of days such as 30d, or off")
    return timedelta(days=int(match[1]))


Age = Annotated[timedelta | None, BeforeValidator(_age)]


class OAuth(Frozen):
    """The OAuth application that may write to the source, where its workspace asks for one."""

    client_id: Text = Field(description="Client id of the application.")
    key_id: Text = Field(description="Id of its public key, as Segment shows it.")
    private_key: SecretStr | None = Field(
        default=None, description="Its private key as PEM, as a variable: `${NAME}`; or `private_key_file`."
    )
    private_key_file: Text | None = Field(default=None, description="File of the private key, as PEM.")
    auth_server: Endpoint | None = Field(
        default=None, description="URL of the token server; not written: that of the region."
    )
    scope: Text = Field(default="tracking_api:write", description="Scope of the tokens.")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.private_key is None) == (self.private_key_file is None):
            raise refusal("needs either `private_key` or `private_key_file`")
        if self.auth_server is not None and self.auth_server.startswith("file:"):
            raise refusal("must be a URL that starts with http:// or https://", "auth_server")
        return self


class SegmentSettings(Frozen):
    """The destination of the calls: a Segment source, or a file."""

    write_key: SecretStr = Field(
        default=SecretStr("${SEGMENT_WRITE_KEY}"),
        description="Write key of the source, as a variable: `${NAME}`.",
    )
    region: Literal["us", "eu"] = Field(default="us", description="Region of the workspace.")
    endpoint: Endpoint | None = Field(
        default=None,
        description="URL to send to instead of the region's; `file:calls.ndjson` writes the calls to a file.",
    )
    name: Name | None = Field(default=None, description="Name of the source, where one sync feeds several.")
    events_per_second: Count = Field(default=500, description="Most calls a second; 0: without a rate limit.")
    concurrency: Connections = Field(
        default=16,
        description="Most requests under way at once, 1 to 64; more than 4 only where answers take long.",
    )
    gzip: Flag = Field(default=False, description="Compress the requests.")
    ssl_cert: Text | None = Field(default=None, description="File of certificates to trust, as PEM.")
    oauth: OAuth | None = Field(
        default=None, description="OAuth application for sources that ask for one; see the block."
    )
    source_id: Text | None = Field(
        default=None,
        description="Id of the source at Segment, for `retl verify`; no secret, and shown in the source's "
        "settings.",
    )
    mark_runs: Flag = Field(
        default=False,
        description="Send the id of the run as `context.app.version`, so that `retl verify` can tell its "
        "calls from others at the source.",
    )

    @property
    def file(self) -> str | None:
        """The path of the file that takes the calls; None where they go to Segment."""
        if self.endpoint is None or not self.endpoint.startswith("file:"):
            return None
        return self.endpoint.removeprefix("file:").removeprefix("//")

    @property
    def marks(self) -> bool:
        """Whether calls carry the run's id; those in a file do not."""
        return self.mark_runs and self.file is None

    @property
    def calls_per_second(self) -> int:
        """The most calls a second; 0 is without limit, as for a file."""
        return 0 if self.file is not None else self.events_per_second


def _receivers(written: object) -> dict[str, Settings]:
    """Read the settings of receivers by name.

    Raises:
        PydanticCustomError: a receiver is unknown, or a setting is wrong.
    """
    if not isinstance(written, dict):
        raise refusal("must be a mapping of receivers to settings")
    known = known_receivers()
    for name in written:
        if name not in known:
            raise refusal(f"there is no receiver `{name}`{nearest(str(name), known)}", str(name))
    return {name: read_settings(name, settings) for name, settings in written.items()}


Receivers = Annotated[dict[str, Settings], BeforeValidator(_receivers)]


class Notify(Frozen):
    """A channel that is told when the condition of a sync changes."""

    webhook: SecretStr | None = Field(
        default=None,
        description="URL that gets the alert as JSON, in the form of Slack, as a variable: `${NAME}`.",
    )
    apprise: SecretStr | None = Field(
        default=None,
        description="URL of [apprise](https://github.com/caronc/apprise), for mail, Teams and others, as a "
        "variable: `${NAME}`; or `webhook`.",
    )
    on: tuple[Literal["failed", "guarded", "rejected", "recovered"], ...] = Field(
        default=("failed", "guarded", "rejected", "recovered"),
        description="Changes that it is told of; not written: all four.",
    )
    rejected: GuardLimit = Field(
        default=Limit(count=0),
        description="Most rows and calls that a run may reject before that counts: a count, a percentage of "
        "the rows read, or `off`; not written: 0.",
    )

    @property
    def kind(self) -> Literal["webhook", "apprise"]:
        """The key by which it is given."""
        return "webhook" if self.webhook is not None else "apprise"

    @property
    def url(self) -> str:
        """Its URL as it is written, variables and all."""
        url = self.webhook or self.apprise
        assert url is not None, "a channel has a URL"
        return url.get_secret_value()

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.webhook is None) == (self.apprise is None):
            raise refusal("needs either `webhook` or `apprise`")
        return self


Channels = tuple[Notify, ...]


class Defaults(Frozen):
    """The defaults in retl.yml for all syncs of the project; a sync's own keys win."""

    warehouse: Text | None = Field(default=None, repr=False, description="Default of `warehouse`.")
    engine: Engine | None = Field(default=None, description="Default of `engine`.")
    engine_schema: SchemaName | None = Field(default=None, description="Default of `engine_schema`.")
    state: Text | None = Field(default=None, description="Default of `state`.")
    segment: SegmentSettings | None = Field(default=None, description="Defaults of the keys of `segment`.")
    guards: Guards | None = Field(default=None, description="Defaults of the keys of `guards`.")
    timezone: Zone | None = Field(default=None, description="Default of `timezone`.")
    keep: Age = Field(default=None, description="Default of `keep`.")
    receivers: Receivers | None = Field(default=None, description="Defaults of the keys of `receivers`.")
    notify: Channels | None = Field(default=None, description="Default of `notify`.")


def check_defaults(document: Document) -> Defaults:
    """Check retl.yml; gives what it says.

    Raises:
        ConfigError: all that is wrong with it, as in `parse`.
    """
    return checked(Defaults, document.data, document)
