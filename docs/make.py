"""`make docs`: writes the pages of docs/ that are made from the program."""

from pathlib import Path

from receivers_page import receivers_markdown
from sync_file_page import sync_file_markdown

PAGES = {"sync-file.md": sync_file_markdown, "receivers.md": receivers_markdown}
"""Each generated page, and the function that makes its text."""

if __name__ == "__main__":
    for name, text in PAGES.items():
        Path(__file__).with_name(name).write_text(text(), encoding="utf-8")
