"""The nodes of a YAML text, composed within limits.

A few lines of YAML can stand for gigabytes (aliases of aliases), or be nested deeper than a program can
follow. Such a text is refused while it is read.
"""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from retl.errors import ConfigError
from retl.forms.yaml_mistakes import character_error, yaml_error

DEEPEST = 50
"""Mappings and lists inside one another."""

LARGEST = 1_000_000
"""Characters of a file, and those of all values once each alias is what it stands for."""

NODE_SIZE = 50
"""Characters that each value counts as, besides its own."""


def compose(text: str, shown: str) -> MappingNode:
    """The mapping that a text holds, as a tree of nodes, which know their lines.

    Raises:
        ConfigError: the text is not YAML, not a mapping, too large or too deep.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    try:
        node: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        raise yaml_error(error, text, shown) from None
    except ReaderError as error:
        raise character_error(error, text, shown) from None
    except YAMLError as error:
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}", where=shown) from None
    except Exception:  # a slip of the parser, as over the escape "\UFFFFFFFF"; the text is the cause
        where = f"{shown}:{yaml.reader.line + 1}"
        raise ConfigError("not valid YAML: it cannot be read beyond this line", where=where) from None
    if node is None:
        raise ConfigError("the file is empty", where=shown)
    if not isinstance(node, MappingNode):
        raise ConfigError(
            "the file must be a mapping, lines of `key: value`", where=f"{shown}:{node.start_mark.line + 1}"
        )
    return node


class _Bounded(Composer):
    """Composes nodes until they are too deep, or stand for too much."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # YAML lets an anchor be set anew
        self._levels = 0
        self._size = 0
        self._sizes: dict[int, int] = {}  # of what aliases may stand for, by the identity of the node

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        before = self._size
        self._levels += 1
        if self._levels > DEEPEST:
            raise self._refused(f"it is nested more than {DEEPEST} levels deep", event)
        node = super().compose_node(parent, index)
        self._levels -= 1
        if isinstance(event, AliasEvent):
            self._size += self._sizes.get(id(node), NODE_SIZE)
        else:
            self._size += NODE_SIZE + (len(node.value) if isinstance(node, ScalarNode) else 0)
            if event.anchor is not None:
                self._sizes[id(node)] = self._size - before
        if self._size > LARGEST:
            raise self._refused("it is too large, each alias counted as what it stands for", event)
        return node

    def _refused(self, sentence: str, event: Any) -> ComposerError:
        return ComposerError(None, None, sentence, event.start_mark)
