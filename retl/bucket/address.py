"""The address of a folder in a bucket, such as `s3://acme-state/retl/`."""

import re
from dataclasses import dataclass

from retl.errors import ConfigError

SERVICES = {
    "s3": ("AWS_",),
    "gs": ("GOOGLE_", "GCS_"),
    "az": ("AZURE_",),
}
"""The schemes of such an address, and how the variables begin that say how the service is reached."""

_URL = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/?#@:\s]+)(?P<folder>(?:/[^/?#\s]+)*)/*")


@dataclass(frozen=True)
class BucketAddress:
    """A folder in a bucket.

    Attributes:
        scheme: of the service, one of `SERVICES`.
        bucket: its name; in Azure that of the container.
        folder: the path of the folder in it, without slashes around it; empty for the bucket itself.
    """

    scheme: str
    bucket: str
    folder: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.folder}{'/' if self.folder else ''}"


def read_bucket(text: str, where: str | None = None) -> BucketAddress:
    """Read an address.

    Args:
        text: the address; a Path has one of the two slashes behind the colon.
        where: the place that is named where it is wrong.

    Raises:
        ConfigError: it is none.
    """
    whole = re.sub(r"^([a-z0-9]+):/(?!/)", r"\1://", text)
    match = _URL.fullmatch(whole)
    if match is None or match["scheme"] not in SERVICES:
        raise ConfigError(
            f"this is no address of a bucket: {whole.partition('?')[0].rpartition('@')[2]}",
            where=where,
            hint="write a folder, or s3://BUCKET/FOLDER/, gs://BUCKET/FOLDER/ or az://CONTAINER/FOLDER/",
        )
    return BucketAddress(match["scheme"], match["bucket"], match["folder"].strip("/"))
