"""Bars that show the progress of a run in a terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text


class Bars:
    """Progress bars in a terminal; they leave no trace."""

    def __init__(self, sync: str, console: Console) -> None:
        self._sync = sync
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[sync]}[/] {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[so_far]}"),
            TimeLeft(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def _show(self, what: str, total: int | None) -> TaskID:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._bars.start()
        self._task = self._bars.add_task(what, total=total, sync=self._sync, so_far="")
        return self._task

    def _advance(self, task: TaskID, by: int, unit: str) -> None:
        self._bars.advance(task, by)
        (bar,) = self._bars.tasks
        total = f" of {bar.total:,.0f}" if bar.total else ""
        speed = f", {bar.speed:,.0f} a second" if bar.speed else ""
        self._bars.update(task, so_far=f"{bar.completed:,.0f}{total} {unit}{speed}")

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        task = self._task if self._task is not None else self._show("reading rows", None)
        self._advance(task, rows, "rows")

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known: the bar for reading goes."""
        self._bars.stop()
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        self._show("delivering calls", calls)

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        if self._task is not None:
            self._advance(self._task, calls, "calls")
            if self._bars.finished:
                self._bars.stop()

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""
        self._console.print(Text(f"{self._sync}: {reason}; again in {seconds:.1f} s", "yellow"))

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""
        self._console.print(Text(f"{self._sync}: {sentence}", "yellow"))

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()
