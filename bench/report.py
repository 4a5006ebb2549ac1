"""The page of the bench, its chart, and the lines of the README: all of it from the results."""

import re
from collections.abc import Iterator

from bench.chart import TITLES, chart
from bench.engine_results import load as load_engines
from bench.engine_results import section as section_of_engines
from bench.peer import PEERS, SLOW_SECONDS, Measured, Peer
from bench.peers.task import DELTA, FIRST, NOTHING
from bench.results import Setting
from bench.venvs import ROOT

PAGE, CHART, README = ROOT / "docs/benchmarks.md", ROOT / "docs/benchmarks.svg", ROOT / "README.md"
MARKED = re.compile(r"(<!-- benchmarks: .*? -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
WAREHOUSES = {"duckdb": "DuckDB", "postgres": "Postgres"}
CHART_ROWS = 1_000_000
"""The chart shows this size, or the nearest smaller one."""

HEAD = """\
# Benchmarks

`make bench` wrote this page, in half an hour; `make bench-10m` adds ten million users. A network is needed to
install the others, each in an environment of its own, and for nothing else.

![Seconds for each step and each way to do it](benchmarks.svg)

- **first run**: every user is new, and each makes an identify call. **nothing changed**: the same again.
  **2 % changed**: 1 % of the users changed, 0.5 % are new, 0.5 % are gone; a call for each.
- The users have 11 columns: text, DECIMAL, DOUBLE, TIMESTAMPTZ, BOOLEAN, JSON; a call has some 450 bytes.
- Each step is a process of its own: *s* is from launch to exit, *CPU s* includes its children, *peak MB* is
  the most memory that they held. *times retl* compares seconds. *keeps MB* is on disk for the next run.
- All ways take turns. A figure is the median of three runs, or of one where all steps of a way take more than
  {slow} s together, and with ten million users.
- The calls go to a sink on 127.0.0.1 that counts them and keeps nothing, without a limit of calls per second.
  It has to see exactly the expected calls, each message id once; where it did not, a line under the table
  says so.
- Warehouse, sink and what is measured share the machine. Compare the rows of one table; another machine has
  other seconds.
"""


def write_all(settings: list[Setting]) -> None:
    """Write page, chart and README."""
    PAGE.write_text(page(settings), encoding="utf-8")
    if shown := charted(settings):
        CHART.write_text(chart(shown), encoding="utf-8")
    before = README.read_text(encoding="utf-8")
    README.write_text(MARKED.sub(rf"\1{readme_lines(settings)}\2", before), encoding="utf-8")


def charted(settings: list[Setting]) -> Setting | None:
    """The setting of the chart: a million users, or the most below; from Postgres, if it is there."""
    fit = [one for one in settings if not one.latency_ms and one.rows <= CHART_ROWS]
    return max(fit, key=lambda one: (one.rows, one.warehouse == "postgres"), default=None)


def page(settings: list[Setting]) -> str:
    """The whole page."""
    parts = [HEAD.format(slow=SLOW_SECONDS)]
    for setting in sorted(settings, key=lambda one: (-one.rows, one.warehouse)):
        if not setting.latency_ms:
            late = [one for one in settings if one.latency_ms and one.key[:2] == setting.key[:2]]
            parts.append("\n".join(section(setting, late)) + "\n")
    if engines := load_engines():
        parts.append("\n".join(section_of_engines(engines)))
    ways = [f"| {peer.title} | {peer.about} |\n" for peer in PEERS]
    parts.append("## The ways\n\n| | |\n|---|---|\n" + "".join(ways))
    parts.append("Their files are in [`bench/peers`](../bench/peers).\n")
    return "\n".join(parts)


def section(setting: Setting, late: list[Setting]) -> Iterator[str]:
    """One size of one warehouse: a table for each step, what went wrong, and what it was measured on."""
    yield f"## {setting.rows:,} users in {WAREHOUSES[setting.warehouse]}\n"
    for step in TITLES:
        yield from table(setting, step, late if step == FIRST else [])
        yield ""
    yield f"As Parquet (zstd) these users take {setting.parquet_mb:,.1f} MB.\n"
    for sentence in dict.fromkeys(sentence for one in (setting, *late) for sentence in problems(one)):
        yield f"- {sentence}\n"
    yield (
        f"{setting.date}, {setting.machine}, load {setting.load:.1f} before it; sink in {setting.sink}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(setting.versions.items()))
        + "."
    )


def table(setting: Setting, step: str, late: list[Setting]) -> Iterator[str]:
    """A step: a line for each peer; the same step behind latencies beside it."""
    cpu = "CPU s + Postgres's" if setting.warehouse == "postgres" else "CPU s"
    heads = [TITLES[step], "s", "times retl", cpu, "peak MB", "keeps MB", "calls/s", "requests", "sink CPU s"]
    heads += [f"s, answers take {one.latency_ms} ms" for one in late]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'--:|' * (len(heads) - 1)}"
    mine = figures(setting, "retl", step)
    for peer in PEERS:
        # To read all rows is a limit for each step.
        own = FIRST if peer.name == "bare-read" else step
        if got := figures(setting, peer.name, own):
            cells = common_cells(got, mine) + (sending_cells(got, step) if peer.sends else ["-"] * 3)
            behind = [figures(one, peer.name, step) for one in late]
            yield row(peer, [*cells, *(seconds(one.wall_s) if one else "" for one in behind)])
        elif setting.of(peer.name, own):
            yield row(peer, ["see below"])
        elif not peer.bare and figures(setting, peer.name, FIRST):
            yield row(peer, ["the first run again"])


def common_cells(got: Measured, mine: Measured | None) -> list[str]:
    """Time and room; `mine` is what retl took."""
    ratio = got.wall_s / mine.wall_s if mine else None
    server = f" + {got.warehouse_cpu_s:.1f}" if got.warehouse_cpu_s is not None else ""
    return [
        seconds(got.wall_s),
        number(ratio, 2 if ratio and ratio < 0.95 else 1),
        f"{got.cpu_s:.1f}{server}",
        number(got.peak_mb, 0),
        number(got.state_mb, 1),
    ]


def sending_cells(got: Measured, step: str) -> list[str]:
    """What arrived at the sink; a speed only where most of the work is to send."""
    speed = number(got.expected / got.wall_s if step == FIRST else None, 0)
    return [speed, number(got.requests, 0), number(got.sink_cpu_s, 2)]


def problems(setting: Setting) -> Iterator[str]:
    """A sentence for each peer that did not install, and each step that went wrong."""
    behind = f", answers take {setting.latency_ms} ms" if setting.latency_ms else ""
    titles = {peer.name: peer.title for peer in PEERS}
    for one in setting.found:
        if one.problem:
            where = f", {one.step}{behind}" if one.runs else ""
            yield f"**{titles.get(one.peer, one.peer)}**{where}: {one.problem}"


def figures(setting: Setting, peer: str, step: str) -> Measured | None:
    """The figures of a step of a peer, if there are any; those of a run that went wrong count for nothing."""
    found = setting.of(peer, step)
    return found.figures if found and not found.problem else None


def row(peer: Peer, cells: list[str]) -> str:
    """A line of a table; retl's stands out."""
    words = [peer.title, *cells]
    return f"| {' | '.join(f'**{word}**' if peer.name == 'retl' and word else word for word in words)} |"


def seconds(value: float) -> str:
    """Seconds with as many digits as mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def number(value: float | None, digits: int) -> str:
    """A figure that may be missing."""
    return "-" if value is None else f"{value:,.{digits}f}"


def readme_lines(settings: list[Setting]) -> str:
    """Three lines and the chart, for the README."""
    setting = charted(settings)
    first = setting and figures(setting, "retl", FIRST)
    if not setting or not first:
        return ""
    where, lines = WAREHOUSES[setting.warehouse], []
    lines.append(
        f"- A first run of {setting.rows:,} users from {where}: **{seconds(first.wall_s)} s**, "
        f"{setting.rows / first.wall_s:,.0f} calls/s, {first.peak_mb:,.0f} MB. {others(setting, FIRST)}"
    )
    nothing, delta = figures(setting, "retl", NOTHING), figures(setting, "retl", DELTA)
    if nothing and delta:
        lines.append(
            f"- Nothing changed: **{seconds(nothing.wall_s)} s**; 2 % changed: "
            f"**{seconds(delta.wall_s)} s**. {others(setting, DELTA)}"
        )
    largest = max((one for one in settings if not one.latency_ms), key=lambda one: one.key)
    if (big := figures(largest, "retl", FIRST)) and largest.rows > setting.rows:
        lines.append(
            f"- {largest.rows:,} users from {WAREHOUSES[largest.warehouse]}: {seconds(big.wall_s)} s, "
            f"{big.peak_mb:,.0f} MB. [All figures, and how they were taken](docs/benchmarks.md)"
        )
    else:
        lines.append("- [All figures, and how they were taken](docs/benchmarks.md): `make bench`.")
    chart_line = "![Seconds of retl and of other ways, side by side](docs/benchmarks.svg)"
    return "\n".join([*lines, "", chart_line]) + "\n"


def others(setting: Setting, step: str) -> str:
    """The best of each other way, and the bare read, as sentences."""
    names = {"drt-core": ("drt", "drt-diff"), "dlt": ("dlt", "dlt-scd2")}
    names["a script with pandas and Segment's client"] = ("script-tuned", "script-safe")
    parts = []
    for title, peers in names.items():
        walls = [got.wall_s for name in peers if (got := figures(setting, name, step))]
        if walls:
            parts.append(f"{title} {seconds(min(walls))} s")
    said = f"By others: {', '.join(parts)}." if parts else ""
    if step == FIRST and (read := figures(setting, "bare-read", FIRST)):
        said += f" Only to read the rows takes {seconds(read.wall_s)} s."
    return said
