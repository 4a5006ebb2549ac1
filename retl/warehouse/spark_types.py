"""The types of Spark's SQL by their names, as Spark and Databricks write them: `map<string,int>`."""

import re

from retl.warehouse.workspace import StoredColumn

_NAME = re.compile(r"(?:^|[<,:])([a-z_]+)(?: [\w ]*)?(?=[<(,>]|$)", re.IGNORECASE)
"""The name of a type, or of one inside of it; the name of a field has a colon behind it."""

_CUT = re.compile(r"\.\.\. \d+ more fields")
"""Stands in the name of a type in place of fields, where there are many."""

_SPELLED = {
    *("tinyint", "smallint", "int", "bigint", "float", "double", "decimal", "boolean", "void"),
    *("string", "char", "varchar", "binary", "date", "timestamp", "timestamp_ntz", "time"),
    *("array", "map", "struct"),
}
"""Types that Arrow and DuckDB have."""

_SAME = {"boolean", "tinyint", "smallint", "int", "bigint", "decimal", "binary"}
"""Types of which what is equal is the same."""

_INSTANTS = {
    "date": ("DATE '0001-01-01'", "DATE '9999-12-31'"),
    "timestamp": ("TIMESTAMP '0001-01-01 00:00:00Z'", "TIMESTAMP '9999-12-31 23:59:59.999999Z'"),
    "timestamp_ntz": ("TIMESTAMP_NTZ '0001-01-01 00:00:00'", "TIMESTAMP_NTZ '9999-12-31 23:59:59.999999'"),
}
"""The first value and the last that can be sent, of types of instants."""

_MICROSECONDS = "yyyy-MM-dd HH:mm:ss.SSSSSS"

_JSON = (
    f"to_json({{}}, map('timestampFormat', '{_MICROSECONDS}', 'timestampNTZFormat', '{_MICROSECONDS}',"
    " 'ignoreNullFields', 'false'))"
)
"""The JSON of a nested value, with all that it holds."""


def is_spelled(kind: str) -> bool:
    """Whether values of a type, and all that they hold, have a clear spelling."""
    return _names(kind) <= _SPELLED


def family(kind: str) -> str:
    """The name of a type without what it holds, its length and its collation."""
    found = _NAME.match(kind)
    return found[1].lower() if found else kind


def stored(name: str, kind: str) -> StoredColumn:
    """How a column of that type is compared in a workspace."""
    outer = family(kind)
    if outer in _SAME:
        return StoredColumn(name, kind, "{}", ("{}",))
    if outer in ("string", "char", "varchar"):  # whatever its collation
        text = "CAST({} AS BINARY)"
        return StoredColumn(name, kind, text, (text,), at_fault="NOT is_valid_utf8({})")
    if outer in ("float", "double"):
        no_number = "CAST({} AS STRING) IN ('NaN', 'Infinity', '-Infinity')"
        return StoredColumn(name, kind, "{}", ("CAST({} AS STRING)",), no_number)
    if outer in _INSTANTS:
        outside = "{{}} NOT BETWEEN {} AND {}".format(*_INSTANTS[outer])
        return StoredColumn(name, kind, "{}", ("{}",), outside, outside)
    if outer == "variant":
        return StoredColumn(name, kind, None, ("to_json({})",))
    if outer not in ("array", "map", "struct"):
        return StoredColumn(name, kind, None, ("CAST({} AS STRING)",))
    # What is equal may be spelled in two ways, as 0.0 and -0.0; and a MAP is equal to nothing.
    exact = (_JSON, "CAST({} AS STRING)" if _may_hold(kind, {"map", "variant"}) else "{}")
    at_fault = "{} IS NOT NULL" if _may_hold(kind, {*_INSTANTS}) else "NOT is_valid_utf8(CAST({} AS STRING))"
    return StoredColumn(name, kind, None, exact, at_fault=at_fault)


def _may_hold(kind: str, wanted: set[str]) -> bool:
    """Whether a type is one of these, or holds one, as far as its name tells."""
    return bool(_names(kind) & wanted) or _CUT.search(kind) is not None


def _names(kind: str) -> set[str]:
    return {name.lower() for name in _NAME.findall(kind)}
