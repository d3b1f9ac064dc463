"""Builds the book, one folder of pages: make book. Nothing is run or trained; a warning is an error."""

import shutil
import sys
import time
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK.parent))

from sphinx.cmd.build import main as sphinx

from book.stage import stage


def build(target: Path) -> int:
    """Writes the book below ``target``, what was there is gone; 0 where nothing is wrong with it."""
    shutil.rmtree(target, ignore_errors=True)
    sources = target / "sources"
    sources.mkdir(parents=True)
    stage(sources)
    settings = ["--conf-dir", BOOK, "--doctree-dir", target / "doctrees"]
    explorer = sources / "explorer.html"
    settings += ["-D", f"html_extra_path={explorer}"] if explorer.exists() else []
    strict = ["--fail-on-warning", "--quiet"]
    return sphinx([*map(str, settings), *strict, "--builder", "html", str(sources), str(target / "html")])


if __name__ == "__main__":
    start, folder = time.monotonic(), Path(*sys.argv[1:]) if sys.argv[1:] else BOOK.parent / "build" / "book"
    if failed := build(folder):
        sys.exit(failed)
    print(f"{folder / 'html' / 'index.html'}: the book, in {time.monotonic() - start:.0f} s; open it in a browser")
