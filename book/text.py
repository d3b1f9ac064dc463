"""What stands in the project's Markdown pages: its pictures and tables, with their captions."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Picture:
    """A picture of the pages: name, title and text, which is Markdown."""

    name: str
    title: str
    said: str


@dataclass(frozen=True)
class Table:
    """A table that `make figures` has written: name, title, heads, rows of cells and notes, in Markdown.

    ``right`` says of each column whether it is aligned to the right. The name is that of its place, such as
    ``what_was_run``.
    """

    name: str
    title: str
    heads: list[str]
    rows: list[list[str]]
    right: list[bool]
    notes: str


def pictures(root: Path) -> Iterator[Picture]:
    """The pictures of :data:`PAGES` below ``root``."""
    for page in PAGES:
        for title, path, said in PICTURE.findall((root / page).read_text(encoding="utf-8")):
            yield Picture(Path(path).stem, title, " ".join(said.split()))


def tables(root: Path) -> Iterator[Table]:
    """The tables of :data:`PAGES` below ``root``."""
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        for place in MADE.finditer(text):
            for found in TABLE.findall(place[2]):
                lines = found.strip().split("\n")
                heads, align, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
                around = TABLE.sub("", place[2]).strip().split("\n\n")
                notes = " ".join(" ".join(part.split()) for part in around if not part.startswith("- "))
                title = of_results(lines[0], text[: place.start()])
                yield Table(
                    place[1].replace(" ", "_"), title, heads, rows, [each.endswith(":") for each in align], notes
                )
