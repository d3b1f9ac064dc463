"""Builds the book, one folder of pages: make book. Nothing is run or trained; a warning is an error."""

import shutil
import sys
import time
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK.parent))

from sphinx.cmd.build import main as sphinx

from book.stage import stage

PARTS = "sources", "doctrees", "jupyter_execute", "html"  # html is the book; the others are on the way to it


def build(target: Path) -> int:
    """Writes the book as ``html`` below the folder ``target``; 0 where nothing is wrong with it."""
    for name in PARTS:
        shutil.rmtree(target / name, ignore_errors=True)
    sources, doctrees, _, pages = (target / name for name in PARTS)
    sources.mkdir(parents=True)
    stage(sources)
    settings = ["--conf-dir", BOOK, "--doctree-dir", doctrees, "--fail-on-warning", "--quiet", "--builder", "html"]
    explorer = sources / "explorer.html"
    settings += ["-D", f"html_extra_path={explorer}"] if explorer.exists() else []
    return sphinx([*map(str, settings), str(sources), str(pages)])


if __name__ == "__main__":
    start, folder = time.monotonic(), Path(sys.argv[1]) if len(sys.argv) > 1 else BOOK.parent / "build" / "book"
    if failed := build(folder.resolve()):
        sys.exit(failed)
    print(f"{folder / 'html' / 'index.html'}: the book, in {time.monotonic() - start:.0f} s; open it in a browser")
