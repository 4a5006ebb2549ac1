"""The result of a torture, as lines and as a page."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from retl.version import __version__
from torture.promises import KINDS
from torture.record import Record

PAGE = Path(__file__).parents[1] / "docs/torture.md"

HEAD = """\
# Torture

`make torture` wrote this page. It lives **lives**: in each, rows of a table come, change and go, somebody
edits the sync, and commands of `retl` meet faults. At the end runs without faults deliver what is left. Then
a reader of its own goes through all calls that arrived, and puts the versions of each row together from
them: every version has a number, and a call says from which one it leads to which. A call that is lost,
that came twice under another message id, or that is out of order leaves a gap or a fork. A run in which
nothing changed must send nothing, a model without rows must not send that all are gone, a rehearsal must
change nothing, and no table may stay in the warehouse that no state needs.

- Most lives are lived inside of one process, where each statement that writes, each request and each batch of
  rows is a step. A fault comes at a step that a seed decides: the process is **killed**, with its files
  as they are at that moment, or the **disk is full**. The threads that deliver take turns that the seed
  decides, too, so a life can be lived again: `python -m torture --replay SEED`.
- The commands are `retl run`, also with `--full` and `--limit`, `retl retry`, `retl discard --pending` and
  `retl run --sandbox --from-production`. They are killed while they make a state, and while they open one.
  Some lives begin with a state that an older retl left, of each schema so far, with calls that wait.
- In some lives the sync has **`engine: warehouse`**, in one of two schemas of a DuckDB file, and an edit
  of it may switch the engine or the schema. Each statement there is a step, too; at some of them the
  connection breaks, after the statement was executed.
- In some lives the **state is in a bucket**, on a real server of S3's protocol (moto), and the machines on
  which commands run come and go. Each write of the bucket is a step. Its answers are 403, 409, 412, 500 or
  503, get lost, or take so long that the lease cannot be counted on any more. The lease of a killed run has
  run out by the next command, or is waited for, or keeps that out.
- There, **two runners** work at a time: one stands still at any step, and wakes up after another has taken
  its lease over, found what changed, and sent it, or was killed at that. A batch that was about to leave
  when it stood still counts as sent then, as nothing can call it back.
- One life of fifty is of real **processes** that get a real `kill -9`, SIGTERM or SIGINT, are not allowed
  to let a file grow, or run two at a time.
- The local Segment **answers** as it does on a bad day; the table says how. `retl sandbox --faults` gives
  such answers to rehearse with.
- A **repeat** is a call that arrived once more under the message id that it had, as after an answer that
  got lost. Segment takes both for one; it breaks no promise. A call that arrived without an answer and was
  discarded then is made anew: nobody knows that it arrived.

`make torture` takes two minutes; `python -m torture --seconds 0 --faults 100000` goes on up to so many.
"""


def lines(record: Record) -> Iterator[str]:
    """The result for a terminal."""
    counts = record.counts
    if record.stopped_by is not None:
        yield "stopped by a signal; until then:"
    yield (
        f"{record.faults.total():,} faults in {counts['runs']:,} commands of {counts['lives']:,} lives; "
        f"{counts['calls']:,} calls arrived, {counts['repeats']:,} of them again, "
        f"{counts['unnoted']:,} of these not counted as unsure ({record.seconds:.0f} s)"
    )
    for kind, number in sorted(_by_kind(record).items()):
        yield f"  {kind}: {number:,}"
    broken = Counter(kind for _, kind, _ in record.broken)
    yield ", ".join(f"{kind} {broken[kind]}" for kind in KINDS)
    for seed, _, words in record.broken:
        yield f"life {seed} is broken: {words}"
        yield f"  live it again: python -m torture --replay {seed}"


def write_page(record: Record, seed: int) -> None:
    """Write docs/torture.md."""
    PAGE.write_text(page(record, seed), encoding="utf-8")


def page(record: Record, seed: int) -> str:
    """The page."""
    counts, broken = record.counts, Counter(kind for _, kind, _ in record.broken)
    today = datetime.now(UTC).date()
    parts = [
        HEAD,
        "\n## The last time\n\n",
        f"retl {__version__}, {today}, {record.seconds:,.0f} s, seeds from {seed} on; the sync was edited "
        f"{counts['edits']:,} times, and {counts['older']:,} lives began with an older state. "
        f"{counts['engines']:,} had a schema for `engine: warehouse`, and {counts['switches']:,} times their "
        f"engine or its schema was switched; {counts['in buckets']:,} had their state in a bucket.\n\n",
        "| lives | commands | faults | requests | calls that arrived | repeats | not counted as unsure |\n",
        "|--:|--:|--:|--:|--:|--:|--:|\n",
        f"| {counts['lives']:,} | {counts['runs']:,} | {record.faults.total():,} | {counts['requests']:,} "
        f"| {counts['calls']:,} | {counts['repeats']:,} | {counts['unnoted']:,} |\n\n",
        "| " + " | ".join(f"{kind}" for kind in KINDS) + " |\n" + "|--:" * len(KINDS) + "|\n",
        "| " + " | ".join(f"**{broken[kind]}**" for kind in KINDS) + " |\n\n",
        "## Faults\n\n| fault | where, or which | times |\n|---|---|--:|\n",
    ]
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for fault, number in sorted(record.faults.items()):
        kind, _, place = fault.partition(": ")
        places[kind].append((place, number))
    for kind, found in sorted(places.items()):
        parts += [f"| {kind} | {place} | {number:,} |\n" for place, number in found if number]
    return "".join(parts)


def _by_kind(record: Record) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for fault, number in record.faults.items():
        kinds[fault.partition(":")[0]] += number
    return kinds
