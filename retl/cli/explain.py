"""`retl explain`: the calls of one row or user, and their results at receivers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.check import looking_job, receiver_settings
from retl.cli.console import SIGNS, Ragged, as_json_line, console
from retl.cli.options import AS_JSON, ONE_SYNC, RECEIVERS, REHEARSAL, STATE_DIR
from retl.cli.receivers import EFFECT_COLORS, reason_meaning
from retl.clock import SystemClock
from retl.explain import Explained, ReceiverResult, explain
from retl.receivers.data_file import Effect, chosen_receivers, receiver
from retl.session import find_sessions


@click.command("explain")
@ONE_SYNC
@click.argument("key")
@RECEIVERS
@AS_JSON
@REHEARSAL
@STATE_DIR
def explain_command(
    sync: str, key: str, receivers: str, as_json: bool, rehearsal: bool, state_dir: Path | None
) -> int:
    """Show the calls of one row or user, and what receivers would make of them.

    KEY is a primary key as `retl plan --json` shows it, a user id or an anonymous id. Without --receiver
    the sync's own receivers are asked. Nothing is sent, and nothing changes.

    Example: retl explain orders o-5001 --receiver insider
    """
    names = chosen_receivers(receivers)
    for session in find_sessions([sync], state_dir, rehearsal):
        with session.peeked_state(SystemClock()) as state:
            job = looking_job(session, state)
            explained = explain(job, key, receiver_settings(session, names or list(session.sync.receivers)))
        for one in explained:
            if as_json:
                click.echo(as_json_line({"sync": session.sync.name, **one.as_json()}))
            else:
                console().print(explained_report(one))
    return 0


def explained_report(explained: Explained) -> RenderableType:
    """A call, and its result at each receiver."""
    sign, color = SIGNS[explained.change]
    head = Text.assemble((explained.key, "bold"), ": ", (f"{sign} {explained.change}", color))
    if explained.what_if is not None:
        head.append(f"; the next run has no call for it, but {_WHAT_IF[explained.what_if]} this one:")
    elif explained.reason is None:
        head.append("; the next run sends:")
    lines: list[RenderableType] = [head, Text(f"  {explained.body}")]
    if explained.reason:
        rejected = f"would be rejected: {reason_meaning(explained.reason)} ({explained.reason})"
        lines.append(Text(f"  {rejected}", "yellow"))
    for result in explained.results:
        lines += _result_lines(result)
    return Group(*lines)


_WHAT_IF = {"added": "if it were new", "changed": "if it changed", "removed": "if it were gone"}


def _result_lines(result: ReceiverResult) -> list[RenderableType]:
    lines: list[RenderableType] = [Text(receiver(result.receiver).title, "bold")]
    for violation in result.violations:
        effect = (f"{violation.effect} {violation.rule}", EFFECT_COLORS[violation.effect])
        lines.append(Text.assemble("  ", effect, f"  {violation.says}\n    → {violation.do}"))
    parts = [("user", result.arrival.user)] if result.arrival.user else []
    several = len(result.arrival.events) > 1
    for number, event in enumerate(result.arrival.events, start=1):
        parts.append((f"event {number}" if several else "event", event))
    if not parts:
        return [*lines, Text("  nothing arrives", "cyan")]
    if any(violation.effect is Effect.REFUSED for violation in result.violations):
        lines.append(Text("  refused, so that nothing of this arrives:", "red"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column("")
    table.add_column("field", no_wrap=True, style="dim")
    table.add_column("value", overflow="fold")
    for title, fields in parts:
        for place, (name, value) in enumerate(_flat(fields)):
            table.add_row(f"  {title}" if place == 0 else "", name, value)
    return [*lines, Ragged(table)]


def _flat(fields: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, str]]:
    """Nested fields as dotted names and texts."""
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{outer}{name}.")
        else:
            is_plain = isinstance(value, str) and value != ""
            yield f"{outer}{name}", value if is_plain else json.dumps(value, ensure_ascii=False)
