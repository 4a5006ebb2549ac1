"""A model's text as one query that only reads, as far as the text tells.

A parser decides: sqlglot, which knows the SQL of most databases. Where it does not understand a text that the
database may well understand, the tokens decide, more strictly. The database has the last word in both cases:
its transaction is read-only, and its driver sends one statement.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from retl.errors import ModelError
from retl.model import Model
from retl.warehouse.base import at_line, not_a_select

TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | \b[eE]'(?:\\.|[^'\\])*' | '[^']*' | "[^"]*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
  | (?P<end> ; )
  | \w+ | \S
    """,
    re.VERBOSE | re.DOTALL,
)
"""A token of SQL; `comment` is not part of the statement, `end` ends it."""

_WRITING_WORDS = (
    "INSERT|UPDATE|DELETE|MERGE|INTO|CREATE|ALTER|DROP|TRUNCATE|GRANT|REVOKE|CALL|COMMIT|ROLLBACK"
)
_RUNNING_WORDS = "EXEC|EXECUTE"
_BATCH_WORDS = (
    "ALTER|BACKUP|BEGIN|BULK|CHECKPOINT|CLOSE|COMMIT|CREATE|DBCC|DEALLOCATE|DECLARE|DELETE|DENY|DROP|DUMP"
    "|GOTO|GRANT|IF|INSERT|KILL|LOAD|OPEN|PRINT|RAISERROR|RECONFIGURE|RESTORE|RETURN|REVERT|REVOKE|ROLLBACK"
    "|SAVE|SET|SHUTDOWN|TRIGGER|TRUNCATE|UPDATE|UPDATETEXT|USE|WAITFOR|WHILE|WRITETEXT"
)
"""Words that T-SQL reserves for statements, so that nothing else has such a name."""

_NEXT_STATEMENT = re.compile(
    rf";(?:\s|--[^\n]*\n|/\*.*?\*/)*"
    rf"({_WRITING_WORDS}|{_RUNNING_WORDS}|BEGIN|START|SET|DO|SELECT|WITH)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Grammar:
    """The way in which a kind of database reads SQL.

    Attributes:
        parser: sqlglot's name for its dialect; None where sqlglot has none.
        token: matches its tokens, as `TOKEN` does for most; for what sqlglot cannot parse.
        writing_functions: matches functions that change something even in a read-only transaction.
        runs_comments: whether it executes comments that begin with `/*!`.
        has_batches: whether statements follow one another without a semicolon, as in T-SQL.
        runs_programs: whether `SELECT TRANSFORM (…) USING '…'` executes a program.
    """

    parser: str | None = None
    token: re.Pattern[str] = TOKEN
    writing_functions: re.Pattern[str] = re.compile("nextval|setval", re.IGNORECASE)
    runs_comments: bool = False
    has_batches: bool = False
    runs_programs: bool = False


@dataclass(frozen=True)
class _Token:
    text: str  # of a quoted name, without the quotes
    start: int
    is_end: bool
    is_quoted: bool
    is_constant: bool


@lru_cache(maxsize=8)  # a read asks for the columns first, and to parse a long model takes a second
def one_query(model: Model, grammar: Grammar) -> str:
    """The model's SQL without the semicolon that ends it and what follows; its lines stay where they are.

    Raises:
        ModelError: there is no SQL, more than one statement, another statement than a SELECT, or one that
            does more than read.
    """
    refuse_odd_characters(model)
    tokens = _tokens(model, grammar)
    words = [token for token in tokens if not token.is_end]
    if not words:
        raise no_sql(model)
    end = next((token.start for token in tokens if token.is_end), len(model.sql))
    if words[-1].start > end:
        raise second_statement(model, next(word.start for word in words if word.start > end))
    first = words[0]
    if first.text.upper() not in ("SELECT", "WITH", "(") or first.is_quoted:
        raise not_a_select(model, first.text.upper(), _line(model, first.start))
    sql = model.sql[:end]
    tree = _tree(sql, grammar)
    if tree is None:
        _refuse_by_words(model, sql, words)
    else:
        _refuse_by_tree(model, tree, words)
    _refuse_functions(model, words, grammar)
    spelled = " ".join(word.text.upper() for word in words if not word.is_constant)
    if " NEXT VALUE FOR " in spelled:
        raise more_than_read(model, "NEXT VALUE FOR")
    if grammar.has_batches:
        _refuse_batches(model, words)
    if grammar.runs_comments:
        _refuse_comments(model, grammar)
    if grammar.runs_programs:
        _refuse_programs(model, words)
    return sql


def refuse_odd_characters(model: Model) -> None:
    """Refuse a text that no database takes as it is.

    Raises:
        ModelError: it holds a null character, or half of a surrogate pair.
    """
    odd = re.search("[\0\ud800-\udfff]", model.sql)
    if odd:
        raise ModelError(
            f"model {model.name} holds the character U+{ord(odd[0]):04X}, which SQL cannot have",
            where=at_line(model, _line(model, odd.start())),
        )


def no_sql(model: Model) -> ModelError:
    """The error for a model without a statement."""
    return ModelError(f"model {model.name} holds no SQL", where=model.where)


def second_statement(model: Model, start: int) -> ModelError:
    """The error for a model with a second statement, which begins at that character."""
    return ModelError(
        f"model {model.name} holds more than one statement",
        where=at_line(model, _line(model, start)),
        hint="A model is one SELECT (or WITH … SELECT).",
    )


def more_than_read(model: Model, what: str, start: int | None = None) -> ModelError:
    """The error for a query that would change something, or lock it, at that character."""
    return ModelError(
        f"model {model.name} does more than read: {what}",
        where=at_line(model, None if start is None else _line(model, start)),
        hint="A model is one SELECT (or WITH … SELECT) that changes nothing and locks nothing.",
    )


def _line(model: Model, start: int) -> int:
    return model.sql.count("\n", 0, start) + 1


def _tokens(model: Model, grammar: Grammar) -> Sequence[_Token]:
    """The tokens that are not comments, as sqlglot finds them; by `Grammar.token` where it fails."""
    sql = model.sql
    if grammar.parser is None or "{#" in sql:  # which sqlglot takes for a comment, and no database does
        return _matched_tokens(model, grammar.token)
    # sqlglot takes part of a second to import, and only models of such databases need it.
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.errors import SqlglotError

    try:
        found = Dialect.get_or_raise(grammar.parser).tokenize(sql)
    except SqlglotError:
        return _matched_tokens(model, grammar.token)
    if any(token.token_type.name == "STRING" and not _TEXT.match(sql, token.start) for token in found):
        # sqlglot takes all that follows a word such as FETCH for one text, where it begins a command.
        return _matched_tokens(model, grammar.token)
    return [
        _Token(
            token.text,
            token.start,
            token.token_type.name == "SEMICOLON",
            token.token_type.name == "IDENTIFIER",
            "STRING" in token.token_type.name,
        )
        for token in found
    ]


_TEXT = re.compile(r"(?:\w*|[uU]&|@\w*)['\"$`]")
"""The beginning of a text in quotes."""


def _matched_tokens(model: Model, pattern: re.Pattern[str]) -> Sequence[_Token]:
    for found in pattern.finditer(model.sql):
        if found["comment"] and re.search(r"\r(?!\n)|(?!^)/\*", found["comment"]):
            raise more_than_read(
                model, "a comment that not all databases end in the same place", found.start()
            )
    matches = [found for found in pattern.finditer(model.sql) if not found["comment"]]
    return [
        _Token(
            found[0].strip('"`'),
            found.start(),
            bool(found["end"]),
            found[0][0] in '"`',
            "'" in found[0] or found[0][0] == "$",
        )
        for found in matches
    ]


def _tree(sql: str, grammar: Grammar) -> Any:
    """The parsed query; None where sqlglot does not understand it."""
    if grammar.parser is None or "{#" in sql:
        return None
    from sqlglot.dialects.dialect import Dialect

    logging.getLogger("sqlglot").addHandler(logging.NullHandler())  # its warnings quote the SQL
    dialect = Dialect.get_or_raise(grammar.parser)
    try:
        trees = dialect.parse(sql)
    # Whatever goes wrong in it: the database is asked in any case, and knows better.
    except Exception:
        return None
    return trees[0] if len(trees) == 1 else None


def _refuse_by_tree(model: Model, tree: Any, words: Sequence[_Token]) -> None:
    from sqlglot import exp

    kinds: dict[type, str] = {exp.Into: "INTO", exp.Lock: "FOR", exp.NextValueFor: "NEXT"}
    if not isinstance(tree, exp.Query):
        raise not_a_select(model, tree.key.upper())
    for node in tree.walk():
        word = kinds.get(type(node))
        if word is None and isinstance(node, (exp.DML, exp.DDL, exp.Command)):
            word = node.key.upper()
        if word is not None:
            start = next((one.start for one in words if one.text.upper() == word), None)
            raise more_than_read(model, "a lock on rows" if word == "FOR" else word, start)


def _refuse_by_words(model: Model, sql: str, words: Sequence[_Token]) -> None:
    """Refuse words that no SELECT has, in a text that is not understood: some databases need no semicolon."""
    following = _NEXT_STATEMENT.search(sql)
    if following:
        raise second_statement(model, following.start(1))
    for before, word, after in zip([None, *words], words, [*words[1:], None], strict=False):
        if word.is_quoted or word.is_constant or (before and before.text == "."):
            continue
        is_name = before is not None and before.text.upper() == "AS"
        is_call = after is not None and after.text in ("(", ".")
        writes = not is_name and not is_call and re.fullmatch(_WRITING_WORDS, word.text, re.IGNORECASE)
        if writes or re.fullmatch(_RUNNING_WORDS, word.text, re.IGNORECASE):
            raise more_than_read(model, word.text.upper(), word.start)


def _refuse_batches(model: Model, words: Sequence[_Token]) -> None:
    """Refuse statements that sqlglot may take for the name of a column: `SELECT 1 SHUTDOWN`."""
    for word in words:
        is_name = word.is_quoted or word.is_constant
        if not is_name and re.fullmatch(f"{_BATCH_WORDS}|{_RUNNING_WORDS}", word.text, re.IGNORECASE):
            raise more_than_read(model, word.text.upper(), word.start)


def _refuse_functions(model: Model, words: Sequence[_Token], grammar: Grammar) -> None:
    for word, after in pairwise(words):
        if after.text.upper() == "NEXTVAL" and word.text == "." and not after.is_constant:
            raise more_than_read(model, "nextval", after.start)
        is_call = after.text == "(" and not word.is_constant
        if is_call and grammar.writing_functions.fullmatch(word.text):
            raise more_than_read(model, f"the function {word.text.lower()}", word.start)
        # U&"\006eextval" is a name, too.
        is_escaped = word.is_quoted and model.sql[: word.start].upper().endswith("U&")
        if is_escaped and after.text.upper() in ("(", "UESCAPE"):
            raise more_than_read(model, "a name that is written in escapes", word.start)


def _refuse_programs(model: Model, words: Sequence[_Token]) -> None:
    """Refuse USING in front of a program's text; that of a join has a list of columns."""
    for word, after in pairwise(words):
        is_name = word.is_quoted or word.is_constant
        if not is_name and word.text.upper() == "USING" and after.text != "(":
            raise more_than_read(model, "a program that USING names", word.start)


def _refuse_comments(model: Model, grammar: Grammar) -> None:
    for found in grammar.token.finditer(model.sql):
        if re.match(r"/\*M?!", found["comment"] or ""):
            raise more_than_read(model, "a comment that the database executes", found.start())
