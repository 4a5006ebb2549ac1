"""Spelling names and constants into SQL text."""


def name(identifier: str) -> str:
    """A quoted identifier: `first name` becomes `"first name"`."""
    return '"' + identifier.replace('"', '""') + '"'


def text(constant: str) -> str:
    """A quoted string constant: `O'Brien` becomes `'O''Brien'`."""
    return "'" + constant.replace("'", "''") + "'"


def let(variable: str, value: str, expression: str) -> str:
    """An expression over a variable that stands for a value, which is then computed once."""
    return f"list_transform([{value}], lambda {variable}: {expression})[1]"


def join_lines(parts: list[str], separator: str = ",", indent: str = "    ") -> str:
    """One part a line, so that generated SQL can be read where it is logged."""
    return f"{separator}\n{indent}".join(parts)
