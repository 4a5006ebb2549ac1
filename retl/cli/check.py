"""`retl check`: sync files, and the calls of their rows, by the rules of receivers and tracking plans."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.check import CheckReport, check_sync, looking_job, receiver_settings
from retl.checks.static_check import Finding
from retl.checks.tracking_plan import CHECKER as PLAN
from retl.checks.tracking_plan import TrackingPlan, read_tracking_plan
from retl.cli.console import Printer, Ragged, as_json_line, console, count
from retl.cli.errors import print_failure, unless_printed
from retl.cli.log import notice
from retl.cli.options import AS_JSON, MOST, RECEIVERS, sync_files
from retl.cli.receivers import EFFECT_COLORS
from retl.config.project import check_names
from retl.errors import Interrupted
from retl.model_check import ModelCheck, check_connections, check_model
from retl.orphans import find_orphans, orphans_sentence
from retl.receivers.compiled_check import Violation
from retl.receivers.data_file import Effect, chosen_receivers
from retl.session import Session, load_session
from retl.state import new_state


@click.command("check")
@click.argument("syncs", nargs=-1, metavar="[SYNC...]")
@click.option(
    "--connect",
    is_flag=True,
    help="Also read the columns of the model, ask Segment about the write key, and try the bucket of the "
    "state and the grants of `engine: warehouse`.",
)
@RECEIVERS
@click.option(
    "--tracking-plan",
    "plan_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Check the calls by this Segment tracking plan, a JSON file.",
)
@click.option(
    "--sample",
    type=click.IntRange(0, MOST),
    help="Check the calls of this many rows; 0 checks the sync file alone. [default: all]",
)
@AS_JSON
def check_command(
    syncs: Sequence[str],
    connect: bool,
    receivers: str,
    plan_file: Path | None,
    sample: int | None,
    as_json: bool,
) -> int:
    """Check sync files, their models and their settings; without SYNC, all in syncs/.

    An embedded DuckDB is asked for the columns of the model; any other database only with --connect.

    Two options check the calls as well: --receiver by the rules of systems that get them from Segment, and
    --tracking-plan by a Segment tracking plan. Each looks at the sync file first, then at the calls that the
    rows of the model make now. Nothing is sent.

    Example: retl check syncs/orders.yml --receiver insider,miso
    """
    codes = [0]
    failures = []
    sessions = []
    names = chosen_receivers(receivers)
    plan = read_tracking_plan(plan_file) if plan_file else None
    if sample is not None and not (names or plan):
        raise click.UsageError("--sample goes with --receiver or --tracking-plan")
    paths = sync_files(syncs)
    for path in paths:
        try:
            session = load_session(path, None, rehearsal=False)
            sessions.append(session)
            looks_at_calls = bool(names or plan)
            line = _line(session, _model_check(session, connect, looks_at_calls))
            checked = _check_calls(session, names, plan, sample) if looks_at_calls else None
        except Exception as error:
            found = print_failure(Printer(as_json, several=len(paths) > 1), path.stem, error)
            failures.append(found)
            if isinstance(found, Interrupted):
                break
            continue
        codes.append(0 if checked is None or checked.is_clean else 1)
        if as_json:
            click.echo(as_json_line(checked.as_json() if checked else {"sync": session.sync.name}))
        elif checked is None:
            click.echo(f"{line}, fine")
        else:
            click.echo(line)
            console().print(check_report(checked))
    check_names([session.sync for session in sessions])
    own = {session.sync.name: session.state_path for session in sessions}
    at_hand = [session for session in sessions if connect or session.bucket is None]
    for session in {str(session.folder): session for session in at_hand}.values():
        with unless_printed(failures):
            orphans = find_orphans(session.project, session.folder, session.path.parent, own)
            if orphans:
                notice("state", orphans_sentence(orphans))
    return max([*codes, *(failure.exit_code for failure in failures)])


def _check_calls(
    session: Session, names: Sequence[str], plan: TrackingPlan | None, sample: int | None
) -> CheckReport:
    """Check a sync by the rules of receivers and of a tracking plan."""
    with new_state(session.sync.name, key=session.state_key) as state:
        return check_sync(looking_job(session, state), receiver_settings(session, names), plan, sample)


def _model_check(session: Session, connect: bool, looks_at_calls: bool) -> ModelCheck:
    """The check of the model; whoever looks at calls reads its rows, or wants the file alone."""
    if connect:
        return check_connections(session)
    if looks_at_calls:
        session.certificates()
        return ModelCheck()
    return check_model(session)


def _line(session: Session, checked: ModelCheck) -> str:
    """The line of a sync whose files are right, but for the last word."""
    line = f"{session.sync.path}: {session.sync.kind} from {session.model.where}"
    columns = "" if checked.columns is None else f", {count(checked.columns, 'column')}"
    return f"{line}{columns}" + (f", but {checked.doubt}" if checked.doubt else "")


def check_report(report: CheckReport) -> RenderableType:
    """The violations of a sync's calls, the worst first."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for column in ("", "effect", "rule"):
        table.add_column(column, no_wrap=True)
    table.add_column("sentence", overflow="fold")
    together: dict[Violation, list[Finding]] = {}
    for finding in report.findings:
        together.setdefault(finding.violation, []).append(finding)
    for violation, findings in together.items():
        color = EFFECT_COLORS[violation.effect]
        table.add_row("", Text(violation.effect, color), _rule(violation), _sentence(violation, findings))
    head = Text(f"  {_looked_at(report)}, checked by the rules of {', '.join(report.checkers)}: ")
    worst = [(effect, calls) for effect in Effect if (calls := report.outcome.get(effect, 0))]
    outcome = [(f"{count(calls, 'call')} {effect}", EFFECT_COLORS[effect]) for effect, calls in worst]
    if not outcome:
        outcome = (
            [("nothing refused or doubtful", "green")] if report.is_clean else [("not all is taken", "red")]
        )
    for place, part in enumerate(outcome):
        head.append(", " if place else "")
        head.append(*part)
    return Group(head, Ragged(table)) if together else head


def _looked_at(report: CheckReport) -> str:
    if report.rows is None or report.rows_read is None:
        return "the file alone"
    of_all = f" of {report.rows_read:,}" if report.rows < report.rows_read else ""
    noun = "row" if max(report.rows, report.rows_read) == 1 else "rows"
    return f"{report.rows:,}{of_all} {noun}, {count(report.calls, 'call')}"


def _rule(violation: Violation) -> str:
    """A rule with its receiver; the rules of a tracking plan are places, which its sentences have."""
    return "plan" if violation.receiver == PLAN else f"{violation.receiver} {violation.rule}"


def _sentence(violation: Violation, findings: Sequence[Finding], most: int = 3) -> Text:
    """The fault and its calls on one line, and the remedy on the next."""
    calls = [f"`{one.call}`{_of_rows(one)}" for one in sorted(findings, key=lambda one: -(one.rows or 0))]
    named = ", ".join(calls[:most]) + (f" and {len(calls) - most} more" if len(calls) > most else "")
    example = next((one.example for one in findings if one.example), None)
    such_as = f"; such as {example}" if example else ""
    return Text.assemble(violation.says, (f"  ({named}{such_as})", "dim"), "\n", (f"→ {violation.do}", "dim"))


def _of_rows(finding: Finding) -> str:
    return f": {count(finding.rows, 'row')}" if finding.rows else ""
