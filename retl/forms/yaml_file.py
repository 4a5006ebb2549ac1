"""A YAML file that a user wrote: its values, and the line on which each stands.

Timestamps and dates stay the text they are, merge keys and tags are refused, and a key that stands twice in
one mapping is an error.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from retl.errors import ConfigError

Location = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_TAG = "tag:yaml.org,2002:"
_TEXT = {_TAG + "str", _TAG + "timestamp"}
_PLAIN = {_TAG + "null", _TAG + "bool", _TAG + "int", _TAG + "float"}


@dataclass(frozen=True)
class Document:
    """The content of one YAML file.

    Attributes:
        shown: the file's path as error messages show it.
        data: its mapping, as plain Python values, variables filled in.
    """

    shown: str
    data: dict[str, object] = field(repr=False)
    _lines: Mapping[Location, int] = field(repr=False)
    _text_lines: Mapping[Location, int] = field(repr=False)

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
        key = ".".join(map(str, location))
        return f"{self.shown}{line} {key}".rstrip()


def load(
    path: Path, env: Mapping[str, str], *, root: Path | None = None, as_written: Collection[Location] = ()
) -> Document:
    """Read a YAML file whose top is a mapping.

    Args:
        env: where `${NAME}` inside text values comes from.
        root: error messages show the path relative to it.
        as_written: locations whose `${NAME}` are left alone.

    Raises:
        ConfigError: the file cannot be read, is no such YAML, or names a variable that is not set.
    """
    shown = path.relative_to(root).as_posix() if root and path.is_relative_to(root) else str(path)
    return _Reader(shown, env, as_written).document(_compose(path, shown))


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
        if default is not None:
            return env.get(name) or default
        if name not in env:
            raise ConfigError(f"{name} is not set", where=where, hint="set it in the environment or in .env")
        return env[name]

    return _VARIABLE.sub(value, text)


def _compose(path: Path, shown: str) -> Node:
    """The file as a tree of YAML nodes, which know their lines."""
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=shown) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=shown) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}" if mark else shown
        # The parser splits some sentences: "expected a single document in the stream" is context.
        context = f"{error.context}, " if str(error.problem).startswith("but ") else ""
        raise ConfigError(f"is not valid YAML: {context}{error.problem}", where=where) from None
    except YAMLError as error:
        raise ConfigError(f"is not valid YAML: {str(error).splitlines()[0]}", where=shown) from None
    if node is None:
        raise ConfigError("the file is empty", where=shown)
    if not isinstance(node, MappingNode):
        raise ConfigError(
            "the file must be a mapping, lines of `key: value`", where=f"{shown}:{node.start_mark.line + 1}"
        )
    return node


class _Reader:
    """Turns nodes into plain values and notes the line of each."""

    def __init__(self, shown: str, env: Mapping[str, str], as_written: Collection[Location]) -> None:
        self.shown = shown
        self.env = env
        self.as_written = as_written
        self.lines: dict[Location, int] = {}
        self.text_lines: dict[Location, int] = {}
        self.constructor = YAML(typ="safe", pure=True).constructor

    def document(self, node: Node) -> Document:
        self.lines[()] = _line(node)
        data = self.mapping(node, (), ())
        return Document(self.shown, data, self.lines, self.text_lines)

    def value(self, node: Node, location: Location, around: tuple[Node, ...]) -> object:
        if any(node is outer for outer in around):
            raise self.error(self.lines[location], location, "the alias stands inside what it stands for")
        if isinstance(node, MappingNode):
            return self.mapping(node, location, around)
        if isinstance(node, SequenceNode):
            return self.sequence(node, location, around)
        return self.scalar(node, location)

    def mapping(self, node: Node, location: Location, around: tuple[Node, ...]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, location)
            below = (*location, key)
            if key in result:
                message = f"the key `{key}` stands here twice; first on line {self.lines[below]}"
                raise self.error(_line(key_node), below, message)
            self.lines[below] = _line(key_node)
            result[key] = self.value(value_node, below, (*around, node))
        return result

    def key(self, node: Node, location: Location) -> str:
        if not isinstance(node, ScalarNode):
            raise self.error(_line(node), location, "a key must be text, not a list or a mapping")
        if node.tag == _TAG + "merge":
            raise self.error(_line(node), location, "merge keys (`<<`) are not supported")
        if node.tag not in _TEXT:
            raise self.error(_line(node), location, f"a key must be text; put `{node.value}` in quotes")
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
            result.append(self.value(item, below, (*around, node)))
        return result

    def scalar(self, node: Node, location: Location) -> object:
        if node.tag in _PLAIN:
            try:
                return self.constructor.construct_object(node)
            except (ValueError, KeyError):
                raise self.error(_line(node), location, f"`{node.value}` is not what its tag says") from None
        if node.tag not in _TEXT:
            raise self.error(_line(node), location, f"the tag {node.tag} is not supported")
        block = isinstance(node, ScalarNode) and node.style in ("|", ">")
        self.text_lines[location] = _line(node) + (1 if block else 0)
        text = self.text(node, location)
        if location in self.as_written:
            return text
        return interpolate(text, self.env, self.place(_line(node), location))

    def error(self, line: int, location: Location, message: str) -> ConfigError:
        return ConfigError(message, where=self.place(line, location))

    def place(self, line: int, location: Location) -> str:
        return f"{self.shown}:{line} {'.'.join(map(str, location))}".rstrip()


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
