"""Objects: those of a folder in a bucket, with writes that nobody else's can be lost by."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from retl.bucket.address import SERVICES, BucketAddress
from retl.errors import ConfigError, RetlError, StorageError
from retl.lazy import lazy_module
from retl.mask import note

if TYPE_CHECKING:
    import obstore
    from obstore import exceptions, store
else:
    obstore = lazy_module("obstore", extra="cloud")
    exceptions = lazy_module("obstore.exceptions", extra="cloud")
    store = lazy_module("obstore.store", extra="cloud")

PART_BYTES = 16 * 1024 * 1024
"""The parts in which a large file is uploaded."""

PARTS_AT_ONCE = 4
"""How many of them are on their way at a time, so that memory stays bounded."""

RETRY_SECONDS = 20
"""How long the library repeats a request that failed."""

_SECRET = re.compile(r"SECRET|TOKEN|KEY|SAS|PASSWORD", re.IGNORECASE)

_KNOWN = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|REGION|DEFAULT_REGION|ENDPOINT_URL(_S3)?|ROLE_ARN"
    r"|ROLE_SESSION_NAME|WEB_IDENTITY_TOKEN_FILE|CONTAINER_CREDENTIALS_(RELATIVE|FULL)_URI"
    r"|CONTAINER_AUTHORIZATION_TOKEN_FILE|SERVER_SIDE_ENCRYPTION|SSE_KMS_KEY_ID|VIRTUAL_HOSTED_STYLE_REQUEST"
    r"|SKIP_SIGNATURE|REQUEST_PAYER)"
    r"|GOOGLE_(SERVICE_ACCOUNT|SERVICE_ACCOUNT_KEY|APPLICATION_CREDENTIALS|BASE_URL|SKIP_SIGNATURE)"
    r"|AZURE_(STORAGE_ACCOUNT_NAME|STORAGE_ACCOUNT_KEY|STORAGE_SAS_KEY|STORAGE_CLIENT_ID|STORAGE_CLIENT_SECRET|STORAGE_TENANT_ID"
    r"|CLIENT_ID|CLIENT_SECRET|TENANT_ID|STORAGE_ENDPOINT|STORAGE_USE_EMULATOR|FEDERATED_TOKEN_FILE"
    r"|MSI_ENDPOINT|AUTHORITY_HOST|USE_AZURE_CLI)"
)
"""Variables that the library takes; others of the same beginning are for other tools."""

_STATUS = re.compile(r"status code: (\d{3}[ \w]*)")

_CODE = re.compile(r"<Code>(\w+)</Code>")

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist", re.IGNORECASE)


class ConflictError(Exception):
    """A write was not made: another one was there before it."""


@dataclass(frozen=True)
class Version:
    """One version of an object: the next write names it, and is not made where there is a newer one.

    Attributes:
        e_tag: the hash or number that the service gave to it.
        number: its generation, where the service counts them.
        written_at: the moment of the write by the clock of the service; None where it was not asked.
    """

    e_tag: str | None
    number: str | None
    written_at: datetime | None = None


class Objects:
    """The objects below a folder of a bucket."""

    def __init__(
        self, address: BucketAddress, environ: Mapping[str, str], retry_seconds: int = RETRY_SECONDS
    ) -> None:
        """Reach no server yet.

        Args:
            address: the folder.
            environ: says who asks, and where the service is.
            retry_seconds: how long a request that failed is made again.
        """
        self.address = address
        self._retry_seconds = retry_seconds
        self._environ = environ
        self._opened: Any = None

    @property
    def _store(self) -> Any:
        if self._opened is None:
            with _own_errors(self.address):
                self._opened = _open(self.address, self._environ, self._retry_seconds)
        return self._opened

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """The bytes of a small object and its version; None where there is none."""
        with _own_errors(self.address):
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError as error:
                _refuse_missing_bucket(error)
                return None
            version = Version(found.meta["e_tag"], found.meta["version"], found.meta["last_modified"])
            return bytes(found.bytes()), version

    def create(self, name: str, content: bytes) -> Version:
        """Write an object that is not there.

        Args:
            name: of the object.
            content: unlike any that was written before: by it a write is known again whose answer got lost.

        Raises:
            ConflictError: it is.
        """
        return self._known_again(name, content, "create")

    def replace(self, name: str, content: bytes, version: Version) -> Version:
        """Write an object anew; the content is that of `create`.

        Raises:
            ConflictError: another version of it is there now.
        """
        known = {"e_tag": version.e_tag, "version": version.number}
        mode = {key: value for key, value in known.items() if value is not None}
        return self._known_again(name, content, mode)

    def _known_again(self, name: str, content: bytes, mode: Any) -> Version:
        """Write, and where that seems to have failed, see whether it did."""
        try:
            return self._write(name, content, mode)
        except (ConflictError, StorageError):
            found = self.read(name)
            if found is None or found[0] != content:
                raise
            return found[1]

    def _write(self, name: str, content: bytes, mode: Any) -> Version:
        with _own_errors(self.address):
            try:
                written = obstore.put(self._store, name, content, mode=mode)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
                raise ConflictError(name) from error
            except FileNotFoundError as error:
                _refuse_missing_bucket(error)
                raise ConflictError(name) from error  # the version that was to be replaced is gone
            return Version(written["e_tag"], written["version"])

    def refuse_overwriting(self, name: str, before: Version) -> None:
        """See that the bucket refuses what would overwrite another's work, tried on an object.

        Args:
            name: of the object, in which anything may stand.
            before: a version of it that is not the newest.

        Raises:
            ConfigError: it does not.
        """
        made = 0
        with suppress(ConflictError):
            self.create(name, token_bytes(16))
            made += 1
        with suppress(ConflictError):
            self.replace(name, token_bytes(16), before)
            made += 1
        if made:
            raise ConfigError(
                "this bucket does not refuse a write that would undo another's, so no state is safe in it",
                where=str(self.address),
                hint="retl needs conditional writes (If-None-Match and If-Match on PUT), which S3 has, and "
                "services like it in newer versions",
            )

    def overwrite(self, name: str, content: bytes) -> None:
        """Write an object, whatever is there."""
        with _own_errors(self.address):
            obstore.put(self._store, name, content)

    def now(self, name: str) -> datetime:
        """The moment by the clock of the service, for which an object is written and deleted."""
        with _own_errors(self.address):
            obstore.put(self._store, name, b"")
            try:
                moment: datetime = obstore.head(self._store, name)["last_modified"]
            finally:
                self.delete(name)
        return moment

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object; one that is cut off is never seen."""
        with _own_errors(self.address):
            obstore.put(self._store, name, path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def download(self, name: str, path: Path) -> str | None:
        """Write an object to a file; gives the SHA-256 of its bytes, None where there is no such object."""
        digest = sha256()
        with _own_errors(self.address):
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            with path.open("wb") as file:
                path.chmod(0o600)
                for chunk in found.stream(min_chunk_size=PART_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with _own_errors(self.address):
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                return

    def names(self, beginning: str = "") -> list[str]:
        """The names of the objects right in the folder, or in a folder below it, sorted."""
        with _own_errors(self.address):
            found = obstore.list_with_delimiter(self._store, beginning or None)
            return sorted(one["path"] for one in found["objects"])


def settings_of(address: BucketAddress, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that say how a bucket is reached and who asks; those of the service's own tools.

    Raises:
        ConfigError: an endpoint is no URL.
    """
    settings = {
        name.lower(): value
        for name, value in environ.items()
        if name.startswith(SERVICES[address.scheme]) and value and _KNOWN.fullmatch(name)
    }
    for name, value in settings.items():
        if _SECRET.search(name):
            note(value)
        elif re.search("endpoint|_url", name) and not _is_url(value):
            raise ConfigError("this is not a URL that begins with https:// or http://", where=name.upper())
    return settings


def _is_url(text: str) -> bool:
    """Whether a text is the URL of a server; the library ends the process where it is none."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _open(address: BucketAddress, environ: Mapping[str, str], retry_seconds: int) -> Any:
    settings = settings_of(address, environ)
    if address.scheme == "s3":
        settings["aws_conditional_put"] = "etag"
    endpoint = next((value for name, value in settings.items() if "endpoint" in name), "")
    unencrypted = endpoint.startswith("http://") or environ.get("AWS_ALLOW_HTTP") == "true"
    open_store: Any = store.from_url  # typed for each service apart
    return open_store(
        str(address),
        config=settings,
        client_options={
            "allow_http": unencrypted or "azure_storage_use_emulator" in settings,
            "timeout": timedelta(hours=1),  # of a whole transfer
            "read_timeout": timedelta(seconds=30),
            "connect_timeout": timedelta(seconds=10),
        },
        retry_config={"retry_timeout": timedelta(seconds=retry_seconds), "max_retries": 6},
    )


def _refuse_missing_bucket(error: FileNotFoundError) -> None:
    """See that it was the object that is missing: a state in a bucket that is not there is not a new one.

    Raises:
        FileNotFoundError: it is the bucket.
    """
    if _NO_BUCKET.search(str(error)):
        raise error


@contextmanager
def _own_errors(address: BucketAddress) -> Iterator[None]:
    """Turn the library's errors into errors of this program: its words may quote a signed URL."""
    try:
        yield
    except (RetlError, ConflictError):
        raise
    except FileNotFoundError as error:
        if error.filename is not None:  # a local file
            raise
        raise _no_bucket(address) from None
    except OSError:
        raise
    except (exceptions.BaseError, ValueError) as error:
        raise _told(error, address) from None


def _told(error: Exception, address: BucketAddress) -> RetlError:
    """The error to report for one of the library."""
    text, where = str(error), str(address)
    if _NO_BUCKET.search(text):
        return _no_bucket(address)
    status, code = _STATUS.search(text), _CODE.search(text)
    words = ", ".join(one[1].strip() for one in (status, code) if one) or "no answer"
    refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if refused or (status and status[1][:3] in ("401", "403")):
        return ConfigError(
            f"the bucket refuses access ({words})",
            where=where,
            hint="the credentials need to list, read, write and delete objects in this folder",
        )
    if isinstance(error, exceptions.NotSupportedError | ValueError | exceptions.UnknownConfigurationKeyError):
        return ConfigError(f"the bucket cannot be opened ({_first_words(text)})", where=where)
    if status is None and "HTTP error" not in text:
        return ConfigError(
            f"the bucket cannot be opened ({_first_words(text)})",
            where=where,
            hint="its service needs variables that say who asks; docs/bucket.md lists them",
        )
    return StorageError(
        f"the bucket cannot be reached ({words})", where=where, hint="run it again; nothing is lost"
    )


def _no_bucket(address: BucketAddress) -> ConfigError:
    return ConfigError("there is no such bucket", where=str(address), hint="make it, or correct its name")


def _first_words(text: str) -> str:
    """The first sentence of the library's own text, without an address."""
    return re.sub(r"\S+://\S+", "…", text.partition("\n")[0])[:200]
