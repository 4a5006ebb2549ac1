"""A YAML file that a user wrote: its values, and the line on which each stands.

Timestamps and dates stay the text they are, merge keys and tags are refused, and a key that stands twice in
one mapping is an error.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from retl.errors import ConfigError
from retl.forms.nodes import LARGEST, compose
from retl.system import read_file, system_words

Location = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
ANY = "*"
"""Any item of a list, in a location."""

_TAG = "tag:yaml.org,2002:"
_TEXT = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}
_NESTED = {_TAG + "map", _TAG + "seq"}
_PLAIN = {_TAG + "null", _TAG + "bool", _TAG + "int", _TAG + "float"}


NUMBER_DIGITS = 100
"""Most digits of a whole number in a file."""

_TOO_LONG = 10**NUMBER_DIGITS


@dataclass(frozen=True)
class Fault:
    """A value or a key that cannot be read, though the file as a whole can.

    Attributes:
        line: its line; 1-based.
        location: of the value; None where it is a key.
        error: what is wrong.
    """

    line: int
    location: Location | None
    error: ConfigError


@dataclass(frozen=True)
class Document:
    """The content of one YAML file.

    Attributes:
        shown: the file's path as error messages show it.
        data: its mapping, as plain Python values, variables filled in; None in place of what cannot be read.
        faults: what cannot be read.
    """

    shown: str
    data: dict[str, object] = field(repr=False)
    _lines: Mapping[Location, int] = field(repr=False)
    _text_lines: Mapping[Location, int] = field(repr=False)
    faults: tuple[Fault, ...] = ()

    def holds(self, location: Location) -> bool:
        """Whether the file has a value at that location."""
        return location in self._lines

    def line(self, location: Location) -> int:
        """The 1-based line of a key or list item; of the nearest one around it where the file lacks it."""
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def text_line(self, location: Location) -> int:
        """The 1-based line on which the text of a value starts; for a `|` block, the line below the `|`."""
        return self._text_lines[location]

    def where(self, location: Location) -> str:
        """A place for an error message: `syncs/users.yml:12 identify.traits`; no line where there is none."""
        line = f":{self.line(location)}" if self.holds(location[:1]) and location else ""
        return f"{self.shown}{line} {_dotted(location)}".rstrip()


def load(
    path: Path, env: Mapping[str, str], *, root: Path | None = None, as_written: Collection[Location] = ()
) -> Document:
    """Read a YAML file whose top is a mapping.

    Args:
        env: where `${NAME}` inside text values comes from.
        root: error messages show the path relative to it.
        as_written: locations whose `${NAME}` are left alone; `ANY` in them is any item of a list.

    Returns:
        The document, with the faults of single values and keys, such as a variable that is not set.

    Raises:
        ConfigError: the file cannot be read, or is no such YAML.
    """
    shown = path.relative_to(root).as_posix() if root and path.is_relative_to(root) else str(path)
    return _Reader(shown, env, as_written).document(compose(_text(path, shown), shown))


def interpolate(text: str, env: Mapping[str, str], where: str | None) -> str:
    """Replace `${NAME}` and `${NAME:-default}` in a text; `$${` stands for a plain `${`.

    The default counts where the variable is unset or empty.

    Raises:
        ConfigError: a variable without a default is not set, or a `${` is not followed by a name and `}`.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            raise ConfigError(
                "`${` without a variable's name and `}`", where=where, hint="write `$${` for a plain `${`"
            )
        if default is not None and not env.get(name):
            return default
        if name not in env:
            raise ConfigError(f"{name} is not set", where=where, hint="set it in the environment or in .env")
        if not _is_unicode(env[name]):
            raise ConfigError(f"{name} is not UTF-8 text", where=where)
        return env[name]

    return _VARIABLE.sub(value, text)


def cut(text: str, most: int = 60) -> str:
    """A text as an error message quotes it: its beginning, where it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


def _is_unicode(text: str) -> bool:
    """Whether a text is whole; Python reads bytes that are not UTF-8 as halves of characters."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _text(path: Path, shown: str) -> str:
    """The text of a file.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        return read_file(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=shown) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {system_words(error)}", where=shown) from error


class _Reader:
    """Turns nodes into plain values and notes the line of each."""

    def __init__(self, shown: str, env: Mapping[str, str], as_written: Collection[Location]) -> None:
        self.shown = shown
        self.env = env
        self.as_written = as_written
        self.lines: dict[Location, int] = {}
        self.text_lines: dict[Location, int] = {}
        self.faults: list[Fault] = []
        self.constructor = YAML(typ="safe", pure=True).constructor

    def document(self, node: Node) -> Document:
        self.lines[()] = _line(node)
        data = self.mapping(node, (), ())
        return Document(self.shown, data, self.lines, self.text_lines, tuple(self.faults))

    def value(self, node: Node, location: Location, around: tuple[Node, ...]) -> object:
        if any(node is outer for outer in around):
            raise self.error(self.lines[location], location, "the alias stands inside what it stands for")
        if not isinstance(node, ScalarNode) and node.tag not in _NESTED:
            raise self.error(_line(node), location, f"the tag {cut(str(node.tag))} is not supported")
        if isinstance(node, MappingNode):
            return self.mapping(node, location, around)
        if isinstance(node, SequenceNode):
            return self.sequence(node, location, around)
        assert isinstance(node, ScalarNode)
        return self.scalar(node, location)

    def mapping(self, node: Node, location: Location, around: tuple[Node, ...]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            with self.noting(_line(key_node), None):
                key = self.key(key_node, location)
                below = (*location, key)
                if key in result:
                    message = f"the key `{cut(key)}` stands here twice; first on line {self.lines[below]}"
                    raise self.error(_line(key_node), below, message)
                self.lines[below] = _line(key_node)
                result[key] = None
                with self.noting(_line(key_node), below):
                    result[key] = self.value(value_node, below, (*around, node))
        return result

    @contextmanager
    def noting(self, line: int, location: Location | None) -> Iterator[None]:
        """Note what is wrong with a part of the file, and go on behind it."""
        try:
            yield
        except ConfigError as error:
            self.faults.append(Fault(line, location, error))

    def key(self, node: Node, location: Location) -> str:
        if not isinstance(node, ScalarNode):
            raise self.error(_line(node), location, "a key must be text, not a list or a mapping")
        if node.tag == _TAG + "merge":
            raise self.error(_line(node), location, "merge keys (`<<`) are not supported")
        if node.tag not in _TEXT:
            raise self.error(_line(node), location, f"a key must be text; put `{cut(node.value)}` in quotes")
        return self.text(node, location)

    def text(self, node: Node, location: Location) -> str:
        """A node's text; a character that is escaped as two halves, as JSON does it, is made whole."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self.error(_line(node), location, "half of a character stands here alone") from None

    def sequence(self, node: Node, location: Location, around: tuple[Node, ...]) -> list[object]:
        result: list[object] = []
        for index, item in enumerate(node.value):
            below = (*location, index)
            self.lines[below] = _line(item)
            result.append(None)
            with self.noting(_line(item), below):
                result[index] = self.value(item, below, (*around, node))
        return result

    def scalar(self, node: ScalarNode, location: Location) -> object:
        if node.tag in _PLAIN:
            return self.plain(node, location)
        if node.tag not in _TEXT:
            raise self.error(_line(node), location, f"the tag {cut(str(node.tag))} is not supported")
        block = node.style in ("|", ">")
        self.text_lines[location] = _line(node) + (1 if block else 0)
        text = self.text(node, location)
        if tuple(ANY if isinstance(key, int) else key for key in location) in self.as_written:
            return text
        return interpolate(text, self.env, self.place(_line(node), location))

    def plain(self, node: ScalarNode, location: Location) -> object:
        """A node's number, true, false or null."""
        if node.style is None and re.search("_|^[-+]?0b", node.value):
            message = f"`{cut(node.value)}` is a number to some readers of YAML and text to others"
            raise self.error(_line(node), location, f"{message}; write digits alone, or quotes")
        try:
            value = self.constructor.construct_object(node)
        except Exception:  # of many kinds: the library does not look before it reads
            message = f"`{cut(node.value)}` is not what its tag says"
            raise self.error(_line(node), location, message) from None
        if isinstance(value, int) and abs(value) >= _TOO_LONG:
            message = f"a whole number has at most {NUMBER_DIGITS} digits; put it in quotes if text is meant"
            raise self.error(_line(node), location, message)
        return value

    def error(self, line: int, location: Location, message: str) -> ConfigError:
        return ConfigError(message, where=self.place(line, location))

    def place(self, line: int, location: Location) -> str:
        return f"{self.shown}:{line} {_dotted(location)}".rstrip()


def _dotted(location: Location) -> str:
    """A location as error messages show it."""
    return ".".join(cut(str(key), 200) for key in location)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
