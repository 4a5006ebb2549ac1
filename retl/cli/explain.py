"""`retl explain`: the past of one row or user, its next calls, and their results at receivers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.check import looking_job, receiver_settings
from retl.cli.console import SIGNS, Printer, Ragged, as_json_line, console, count
from retl.cli.options import ONE_SYNC, RECEIVERS, REHEARSAL, STATE_DIR
from retl.cli.receivers import EFFECT_COLORS, reason_meaning
from retl.clock import SystemClock
from retl.delivery.rejected import REASONS
from retl.errors import Interrupted, RetlError
from retl.explain import Ahead, Explained, ReceiverResult, explain, nothing_found
from retl.job import Job
from retl.past import PastCall, PastEvent, PastRejection, RowPast, find_past
from retl.reason import Reason
from retl.receivers.data_file import Effect, chosen_receivers, receiver
from retl.receivers.requests import ReceiverRequest
from retl.receivers.settings import Settings
from retl.session import Session, find_sessions

LONGEST = 400
"""Characters of a call, or of a row, that are shown where all of it is not asked for."""


@click.command("explain")
@ONE_SYNC
@click.argument("key")
@RECEIVERS
@click.option("--full-calls", "in_full", is_flag=True, help="Show long calls and rows in full.")
@click.option("--requests", "with_requests", is_flag=True, help="Show the requests that reach receivers.")
@click.option("--offline", is_flag=True, help="Do not read the model: tell the past alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object for each row, on its own line.")
@REHEARSAL
@STATE_DIR
def explain_command(
    sync: str,
    key: str,
    receivers: str,
    in_full: bool,
    with_requests: bool,
    offline: bool,
    as_json: bool,
    rehearsal: bool,
    state_dir: Path | None,
) -> int:
    """Show what became of one row or user, and what the next run makes of it.

    KEY is a primary key as `retl plan --json` shows it, a user id or an anonymous id. First come its calls in
    the next run, and what receivers would make of them: those of --receiver, else the sync's own. Then its
    past, the newest first: calls, rejections, and why other runs sent nothing. Nothing changes.

    Example: retl explain orders o-5001 --receiver insider
    """
    detail = Detail(in_full, with_requests)
    names, flags = chosen_receivers(receivers), Printer(rehearsal=rehearsal, state_dir=state_dir).flags
    for session in find_sessions([sync], state_dir, rehearsal):
        with session.peeked_state(SystemClock()) as state:
            past = {one.key: one for one in find_past(state, key)}
            job = looking_job(session, state)
            settings = receiver_settings(session, names or list(session.sync.receivers))
            ahead = None if offline else _ahead(job, key, settings, has_past=bool(past))
            is_elsewhere = state.metadata.snapshot_table is not None
        if not past and (ahead is None or not (ahead.calls or ahead.rejected)):
            raise nothing_found(job, key)
        if ahead is None and is_elsewhere and any(one.row is None for one in past.values()):
            note = "rows as they were last sent are in the warehouse (engine: warehouse), and not shown"
            console(stderr=True).print(Text(note, "dim"))
        for one in _by_row(key, past, ahead):
            if as_json:
                click.echo(as_json_line({"sync": session.sync.name, **one.as_json()}))
            else:
                plan = f"retl plan {session.sync.name}{flags}"
                console().print(one.report(detail, plan, _only_rehearsed(session)))
    return 0


def _only_rehearsed(session: Session) -> bool:
    """Whether a sync has a state of rehearsals, and none of real runs."""
    rehearsals = replace(session, rehearsal=True)
    return not session.has_state and rehearsals.has_state


def _ahead(job: Job, key: str, settings: Mapping[str, Settings], has_past: bool) -> Ahead | None:
    """The row in the next run; None where there is a past to tell, and the model cannot be read."""
    try:
        return explain(job, key, settings)
    except Interrupted:
        raise
    except RetlError as error:
        if not has_past:
            raise
        console(stderr=True).print(
            Text(f"the model cannot be read, so this is the past alone: {error}", "yellow")
        )
        return None


@dataclass(frozen=True)
class Detail:
    """The parts of a report that are not always asked for.

    Attributes:
        in_full: whether long calls, rows and bodies of requests are shown in full.
        requests: whether the requests that reach receivers are shown.
    """

    in_full: bool
    requests: bool


@dataclass(frozen=True)
class ToldRow:
    """A row with its past, and what is to come of it; None where the model was not read.

    Attributes:
        past: what the state knows.
        now: its values as the model has them; None where it is gone, several rows share its key, or the model
            was not read.
        calls: of the next run.
        stopped_by: names of the guards that would stop it.
        rejected: the reason for which it would be rejected before it is compared; None where it is not.
    """

    past: RowPast
    now: Mapping[str, str | None] | None
    calls: Sequence[Explained] | None
    stopped_by: Sequence[str] | None
    rejected: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `retl explain --json` prints."""
        calls = None if self.calls is None else [one.as_json() for one in self.calls]
        guards = None if self.stopped_by is None else list(self.stopped_by)
        ahead = {"now": self.now, "next": calls, "would_be_rejected": self.rejected, "stopped_by": guards}
        return {**self.past.as_json(), **ahead}

    def report(self, detail: Detail, plan: str, only_rehearsed: bool) -> RenderableType:
        """The same for people.

        Args:
            detail: how much is shown.
            plan: the command that shows all that the next run would do.
            only_rehearsed: whether all runs so far were rehearsals, which have a state of their own.
        """
        stop = ""
        if self.stopped_by:
            guard = "a guard" if len(self.stopped_by) == 1 else "guards"
            stop = f"{guard} would stop the next run ({', '.join(self.stopped_by)}): see {plan}"
        head = Text.assemble(
            (self.past.key or "(no key)", "bold"), (f"  found as a {self.past.matched}", "dim")
        )
        lines: list[RenderableType] = [head, *_row_lines(self.past.row, self.now, detail.in_full)]
        if waiting := self.past.waiting:
            ids = ", ".join(call.message_id or "no message id" for call in waiting)
            lines.append(
                Text(f"  next  the run first delivers its {_pending(len(waiting))}: {ids}", "yellow")
            )
        other = " other" if waiting else ""
        if self.rejected:
            lines += [_would_be_rejected("  next ! ", self.rejected), _step(self.rejected)]
        elif self.now is None and self.calls is not None:
            nothing = "" if self.calls else f"; the next run has no{other} call for it"
            lines.append(Text(f"  now  not in the model{nothing}", "yellow"))
        for call in self.calls or ():
            lines.append(explained_report(call, detail, stop, f"no{other} call"))
        if self.past.key is not None:
            lines += [Text("past", "bold"), *_past_lines(self.past, only_rehearsed)]
        return Group(*lines, Text())


def _pending(calls: int) -> str:
    return "pending call" if calls == 1 else f"{calls:,} pending calls"


def _by_row(asked: str, past: Mapping[str | None, RowPast], ahead: Ahead | None) -> Iterator[ToldRow]:
    """The rows with all that is known of them."""
    calls: dict[str, list[Explained]] = {}
    for call in ahead.calls if ahead else ():
        calls.setdefault(call.key, []).append(call)
    rejected = ahead.rejected if ahead else {}
    for key in dict.fromkeys([*past, *calls, *rejected]):
        known = past.get(key) or RowPast(key, "key" if key == asked else "user", None, (), ())
        if ahead is None:
            yield ToldRow(known, None, None, None)
            continue
        if key is not None and known.row is None:  # it may be in the warehouse alone
            known = replace(known, row=ahead.known.get(key))
        now, own = (ahead.rows.get(key), calls.get(key, [])) if key is not None else (None, [])
        yield ToldRow(known, now, own, ahead.stopped_by, rejected.get(key))


def _row_lines(
    was: Mapping[str, str | None] | None, now: Mapping[str, str | None] | None, in_full: bool
) -> Iterator[RenderableType]:
    """The row as it was last sent, or is remembered; and the values that the model has otherwise now."""
    if was is not None:
        yield Text(_folded(f"  row  {_values(was)}", in_full, "row"), "dim")
    if was is None and now is not None:
        yield Text(_folded(f"  row  {_values(now)}", in_full, "row"), "dim")
    if was is not None and now is not None:
        for column, value in now.items():
            if column in was and was[column] != value:
                differs = f"  now  {column}: {_value(was[column])} → {_value(value)}"
                yield Text(_folded(differs, in_full, "row"), "yellow")


def _values(row: Mapping[str, str | None]) -> str:
    return ", ".join(f"{column}: {_value(value)}" for column, value in row.items())


def _value(value: str | None) -> str:
    return "null" if value is None else value


def _folded(text: str, in_full: bool, what: str) -> str:
    """A text, or its beginning where it is long."""
    if in_full or len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters of the {what}: --full-calls)"


def _past_lines(past: RowPast, only_rehearsed: bool) -> Iterator[RenderableType]:
    """The events of a row, the newest first, and its rejections."""
    for one in past.rejections:
        color = "yellow" if one.how is None else "dim"
        yield Text(f"  {_rejection(one)}", color)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for event in past.events:
        what = Text(event.call.event or event.call.change) if event.call else Text(event.kind, "dim")
        table.add_row(f"  {event.at:%Y-%m-%d %H:%M}" if event.at else "", what, _said(event))
    if past.events:
        yield Ragged(table)
    else:
        elsewhere = " (rehearsals: --sandbox)" if only_rehearsed else ""
        yield Text(f"  no run has sent anything of it yet{elsewhere}", "dim")


_WHY = {
    "unchanged": "nothing to send: the row was as before, or not in the model",
    "gone": "nothing to send: the row left the model",
    "rejected": "the row was rejected",
    "baseline": "a silent baseline: rows were remembered, and nothing was sent",
    "guarded": "stopped by a guard",
    "undelivered": "failed while it delivered",
    "failed": "failed before calls were made",
}


def _said(event: PastEvent) -> str:
    """An event in words."""
    if event.call is not None:
        return _call(event.call)
    runs = ""
    if event.runs > 1 and event.since is not None:
        runs = f"{event.runs:,} runs since {event.since:%Y-%m-%d %H:%M}: "
    message = f": {event.message}" if event.message else ""
    if event.reason:
        message = f": {reason_meaning(event.reason)} ({event.reason})"
        if event.reason in REASONS:
            message += f"; {Reason[event.reason.upper()].next_step}"
    return f"{runs}{_WHY[event.kind]}{message}"


def _call(call: PastCall) -> str:
    """The result of a call, in words."""
    answered = f" at {call.answered_at:%Y-%m-%d %H:%M:%S}" if call.answered_at else ""
    parts = [f"{call.state}{answered}"]
    if call.status:
        parts.append(f"answer {call.status}")
    if call.reason:
        parts.append(f"{call.reason}: {call.answer or reason_meaning(call.reason)}")
    parts.append(f"row {call.change}")
    parts.append(f"user {call.user_id}")
    later = call.answered_in if call.answered_in not in (None, call.run_id) else None
    parts.append(f"run {call.run_id}" + (f", sent by {later}" if later else ""))
    return "; ".join([*parts, call.message_id or "no message id"])


def _rejection(one: PastRejection) -> str:
    """A rejection in a sentence."""
    what = "row" if one.change is None else "call"
    value = "" if one.at_fault is None else f", {one.at_fault}: {_value(one.value)}"
    since = f"since {one.first_seen:%Y-%m-%d %H:%M}, by {count(one.times, 'run')}"
    if one.ended_at is None:
        return f"{what} rejected {since}: {reason_meaning(one.reason)} ({one.reason}{value})"
    until = f"until {one.ended_at:%Y-%m-%d %H:%M}, then {one.how}"
    return f"{what} was rejected {since}, {until}: {reason_meaning(one.reason)} ({one.reason}{value})"


def explained_report(explained: Explained, detail: Detail, stop: str, no_call: str) -> RenderableType:
    """A call of the next run, and its result at each receiver.

    Args:
        explained: the call.
        detail: how much of it is shown.
        stop: the sentence on the guards that would stop the run; empty where none would.
        no_call: the words for a row that the run has no call for: "no other call" beside those that wait.
    """
    sign, color = SIGNS[explained.change]
    head = Text.assemble("  next ", (f"{sign} {explained.change}", color))
    if explained.what_if is not None:
        head.append(f"; the next run has {no_call} for it, but {_WHAT_IF[explained.what_if]} this one:")
    elif stop:
        head.append(f"; {stop}", "red")
    elif explained.reason is None:
        head.append("; the next run sends:")
    lines: list[RenderableType] = [head]
    if stop and explained.what_if is None and explained.reason is None:
        lines.append(Text("  if it is let go on, it sends:"))
    lines.append(Text(f"  {_folded(explained.body, detail.in_full, 'call')}"))
    if explained.reason:
        lines.append(_would_be_rejected("  ", explained.reason))
    for result in explained.results:
        lines += _result_lines(result)
        for request in result.requests if detail.requests else ():
            lines += _request_lines(request, detail.in_full)
    return Group(*lines)


def _would_be_rejected(before: str, reason: str) -> Text:
    return Text(f"{before}would be rejected: {reason_meaning(reason)} ({reason})", "yellow")


def _step(reason: str) -> Text:
    """The line on how rows with a reason of retl's own can be sent after all."""
    return Text(f"    → {Reason[reason.upper()].next_step}", "yellow")


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
        why = f": {result.why_nothing}" if result.why_nothing and not lines[1:] else ""
        return [*lines, Text(f"  nothing arrives{why}", "cyan")]
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


def _request_lines(request: ReceiverRequest, in_full: bool) -> Iterator[Text]:
    """A request as HTTP has it, and what is not documented of it."""
    yield Text(f"  request from {request.by} to {request.to}", "dim")
    yield Text(f"    {request.method} {request.url}")
    for name, value in request.headers.items():
        yield Text.assemble(f"    {name}: ", (value, "dim"))
    yield Text(f"    {_folded(json.dumps(request.body, ensure_ascii=False), in_full, 'body')}")
    if request.note:
        yield Text(f"    → {request.note}", "dim")
    if request.answer:
        answer = json.dumps(request.answer.body, ensure_ascii=False)
        yield Text(
            f"    {request.to} answers {request.answer.status} {_folded(answer, in_full, 'answer')}", "dim"
        )


def _flat(fields: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, str]]:
    """Nested fields as dotted names and texts."""
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{outer}{name}.")
        else:
            is_plain = isinstance(value, str) and value != ""
            yield f"{outer}{name}", value if is_plain else json.dumps(value, ensure_ascii=False)
