"""retl: writes its project; the bench runs `retl run users --json` itself, as its users do."""

from pathlib import Path

from bench.peers.task import PREPARE, read_task
from bench.shop import sync_file


def main() -> None:
    """Write the project."""
    task = read_task()
    assert task.step == PREPARE
    folder = Path("syncs")
    folder.mkdir()
    (folder / "users.yml").write_text(sync_file(task.url, task.endpoint), encoding="utf-8")


if __name__ == "__main__":
    main()
