"""What stands in the project's Markdown pages: its pictures and tables, with their captions."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

BOOK = Path(__file__).resolve().parent
PAGES = ("README.md", "docs/results.md")  # that show pictures and tables of results
CAPTIONS = tomllib.loads((BOOK / "tables.toml").read_text(encoding="utf-8"))
HEADING = re.compile(r"^#+ (?:\d+\. )?(.*)$", flags=re.M)
TABLE = re.compile(r"(?:^\|.*\|$\n?)+", flags=re.M)
PICTURE = re.compile(r"^!\[([^\]]*)\]\(([^)]+)\)\n\n\*(.+?)\*$", flags=re.M | re.S)
MADE = re.compile(r"<!-- ([\w ]+): made by make figures -->(.*?)<!-- end of \1 -->", flags=re.S)


def of_results(head: str, before: str) -> str:
    """The caption of a table of the results, by its first line and the heading above it."""
    return CAPTIONS.get(head, "{}.").format(HEADING.findall(before)[-1])


def pictures(root: Path) -> Iterator[tuple[str, str, str]]:
    """Name, title and text of each picture of :data:`PAGES`."""
    for page in PAGES:
        for title, path, said in PICTURE.findall((root / page).read_text(encoding="utf-8")):
            yield Path(path).stem, title, " ".join(said.split())


def tables(root: Path) -> Iterator[tuple[str, str, list[list[str]], str]]:
    """Name, caption, cells (row × column, heads first) and notes of each table that `make figures` has written.

    A name is that of its place, such as ``what_was_run``.
    """
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        for place in MADE.finditer(text):
            for found in TABLE.findall(place[2]):
                head, _, *rows = found.strip().split("\n")
                cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows)]
                around = TABLE.sub("", place[2]).strip().split("\n\n")
                notes = " ".join(" ".join(part.split()) for part in around if not part.startswith("- "))
                yield place[1].replace(" ", "_"), of_results(head, text[: place.start()]), cells, notes
