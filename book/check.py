"""Whether the pages of a folder are whole: every link inside leads somewhere, and no page asks for anything outside."""

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ADDRESS = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])([^'\")]+)")  # in a style
ASKS = {"src", "srcset", "data", "poster", "action"}  # attributes by which a browser asks for more


class Reader(HTMLParser):
    """What a page links to, what it asks for, and its anchors."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.asked, self.anchors = [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value)
            elif name in ASKS or (name == "href" and tag != "a"):
                self.asked.append(value or "")
            elif name == "href":
                self.links.append(value or "")


@functools.cache
def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def wrong(folder: Path) -> list[str]:
    """A sentence for each link of a page below ``folder`` that leads nowhere, and for each request outside."""
    folder, found = Path(folder).resolve(), []
    read.cache_clear()
    for page in sorted(folder.rglob("*.html")):
        name, said = page.relative_to(folder), read(page)
        for link in dict.fromkeys([*said.asked, *said.links]):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in said.asked and parts.scheme != "data":
                    found.append(f"{name}: asks for {link}, which is outside")
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if not target.is_file() or not target.is_relative_to(folder):
                found.append(f"{name}: {link} leads to no file of the book")
            elif anchor and target.suffix == ".html" and anchor not in read(target).anchors:
                found.append(f"{name}: {link} leads to no place of that page")
    for style in sorted(folder.rglob("*.css")):
        for link in ADDRESS.findall(style.read_text(encoding="utf-8")):
            parts = urlsplit(link)
            if parts.scheme == "data" or not parts.path:
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{style.relative_to(folder)}: asks for {link}, which is outside")
            elif not (style.parent / unquote(parts.path)).is_file():
                found.append(f"{style.relative_to(folder)}: {link} leads to no file of the book")
    return found
