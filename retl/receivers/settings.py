"""A customer's settings at a receiver, and the names of all receivers; no data file is read for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True)
class Settings:
    """The customer's settings at a receiver, as a sync has them.

    Attributes:
        rejects: whether calls that break a rule become rejected rows; else they are only counted.
        ignore: rules that are not looked at.
        values: by name: true or false, a trait, or traits by key.
    """

    rejects: bool = False
    ignore: frozenset[str] = frozenset()
    values: Mapping[str, bool | str | Mapping[str, str]] = field(default_factory=dict)

    def flag(self, name: str) -> bool:
        """Whether a setting, or a `setting.key`, is there and on."""
        setting, _, key = name.partition(".")
        value = self.values.get(setting)
        return bool(value.get(key) if key and isinstance(value, Mapping) else value)

    def traits(self, name: str) -> Mapping[str, str]:
        """The traits of a setting by key; a single trait goes by the setting's own name."""
        value = self.values.get(name) or {}
        return {name: value} if isinstance(value, str) else value if isinstance(value, Mapping) else {}


def known_receivers() -> list[str]:
    """The names of all receivers."""
    files = (file.name for file in resources.files("retl").joinpath("receivers").iterdir())
    return sorted(file.removesuffix(".yml") for file in files if file.endswith(".yml"))
