"""A customer's settings at a receiver, as a sync has them.

Each command that reads a sync checks them, and of a receiver's data file needs the few lines about settings:
to read the files in whole takes a tenth of a second.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field
from ruamel.yaml import YAML

from retl.forms.form import Frozen, nearest, refusal


class Setting(Frozen):
    """A setting that a customer may change at the receiver, and then repeats in the sync."""

    says: str
    kind: Literal["flag", "trait", "traits"] = Field(
        default="traits", description="True or false; the name of a trait; or names by key."
    )
    keys: dict[str, str] | None = Field(default=None, description="The keys that there are; None: any.")
    default: dict[str, str] = Field(default={}, description="What counts for keys that are not written.")
    looks_like: str | None = Field(
        default=None, description="Pattern of traits that are likely meant for it."
    )
    rule: str | None = Field(default=None, description="Rule to name where such a trait is not in it.")


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


def text_of(name: str) -> str:
    """The text of a receiver's data file."""
    return resources.files("retl").joinpath("receivers", f"{name}.yml").read_text(encoding="utf-8")


def _section(name: str, key: str) -> str:
    """The part of a data file that is a key of its top, with what is below it."""
    found = re.search(rf"^{key}:.*\n(?:(?:[ #].*)?\n)*", text_of(name), re.MULTILINE)
    return found[0] if found else f"{key}: {{}}"


@cache
def known_settings(name: str) -> dict[str, Setting]:
    """The settings that a sync may have of a receiver, by name."""
    written = YAML(typ="safe", pure=True).load(_section(name, "settings"))["settings"]
    return {key: Setting.model_validate(one) for key, one in written.items()}


def known_rules(name: str) -> list[str]:
    """The ids of a receiver's rules."""
    return re.findall(r"^  (\w+):", _section(name, "rules"), re.MULTILINE)


def read_settings(name: str, written: object) -> Settings:
    """The settings of a receiver from a sync's file.

    Args:
        name: the receiver's name.
        written: the mapping below it: `mode`, `ignore`, and the receiver's own settings.

    Raises:
        PydanticCustomError: one is unknown, or not of its kind.
    """
    if not isinstance(written, dict):
        raise refusal("must be a mapping of settings; {} takes the defaults", name)
    own = known_settings(name)
    keys = ["mode", "ignore", *own]
    for key in written:
        if key not in keys:
            raise refusal(f"unknown key `{key}`{nearest(str(key), keys)}", name, str(key))
    mode, ignore = written.get("mode", "warn"), written.get("ignore", [])
    if mode not in ("warn", "reject"):
        raise refusal("must be `warn` or `reject`", name, "mode")
    if not isinstance(ignore, list) or not all(isinstance(rule, str) for rule in ignore):
        raise refusal("must be a list of rules", name, "ignore")
    rules = known_rules(name) if ignore else []
    for rule in ignore:
        if rule not in rules:
            raise refusal(f"there is no rule `{rule}`{nearest(rule, rules)}", name, "ignore")
    values = {key: _read_setting(name, key, setting, written.get(key)) for key, setting in own.items()}
    return Settings(mode == "reject", frozenset(ignore), values)


def _read_setting(name: str, key: str, setting: Setting, written: object) -> Any:
    if setting.kind == "flag":
        if not isinstance(written, bool | None):
            raise refusal("must be true or false", name, key)
        return bool(written)
    if setting.kind == "trait":
        if written is not None and (not isinstance(written, str) or not written):
            raise refusal("must be the name of a trait", name, key)
        return written or ""
    if not isinstance(written, dict | None):
        raise refusal("must be a mapping of names", name, key)
    for one, trait in (written or {}).items():
        if setting.keys is not None and one not in setting.keys:
            raise refusal(f"unknown key `{one}`{nearest(str(one), list(setting.keys))}", name, key, str(one))
        if not isinstance(trait, str) or not trait:
            raise refusal("must be the name of a trait or property", name, key, str(one))
    return {**setting.default, **(written or {})}
