"""The book of make book: its pages are whole and ask for nothing outside, whatever stands in the chapters."""

import ast
import html
import importlib.util
import json
import re
from pathlib import Path

import plain
import pytest
from projects import ROOT

from book import check
from book.text import CAPTIONS, PAGES, TABLE, pictures
from studylib.experiments import cited
from studylib.experiments.published import Figures
from studylib.tree.published import Published

LACKS = not all(map(importlib.util.find_spec, ("sphinx", "myst_nb", "furo", "latex2mathml")))
with_extra = pytest.mark.skipif(LACKS, reason="the extra book is not installed: make book installs it into .venv")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def outputs(notebook: Path, kind: str) -> list[str]:
    """What cells of a notebook have put out of a kind, such as ``image/png``."""
    found = [output.get("data", {}) for cell in cells(notebook) for output in cell.get("outputs", [])]
    return ["".join(data[kind]) for data in found if kind in data]


# --- whether pages are whole ----------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path):
    """A folder of two pages that are whole."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "style.css").write_text("p { color: red }")
    (tmp_path / "one.html").write_text(
        '<link href="style.css"><h1 id="top">1</h1><a href="folder/two.html#second place">2</a><img src="a.png">'
        '<a href="https://example.org/paper">a paper</a><a href="#top">up</a><img src="data:image/png;base64,AA">'
    )
    (tmp_path / "folder" / "two.html").write_text('<p id="second place"></p><a href="../one.html">1</a>')
    return tmp_path


def test_whole_pages_are_whole_and_may_link_to_papers(pages):
    assert check.wrong(pages) == []


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ('<img src="b.png">', "folder/two.html: b.png leads to no file of the book"),
        ('<img src="%62.png">', "folder/two.html: %62.png leads to no file of the book"),
        ('<a href="../one.html#nowhere">1</a>', "folder/two.html: ../one.html#nowhere leads to no place of that page"),
        ('<a href="#nowhere">1</a>', "folder/two.html: #nowhere leads to no place of that page"),
        ('<a href="../../other.html">1</a>', "folder/two.html: ../../other.html leads to no file of the book"),
        ('<a href="..">1</a>', "folder/two.html: .. leads to no file of the book"),
        *(
            (tag.format(address), f"folder/two.html: asks for {address}, which is outside")
            for address in ("https://example.org/x", "http://example.org/x", "//example.org/x")
            for tag in ('<script src="{}"></script>', '<link href="{}">', '<img src="{}">', '<iframe src="{}">')
        ),
        ('<img srcset="https://example.org/x 2x">', "folder/two.html: asks for https://example.org/x 2x"),
    ],
)
def test_a_link_that_leads_nowhere_and_a_request_outside_are_named(pages, tag, said):
    page = pages / "folder" / "two.html"
    page.write_text(page.read_text() + tag)
    (found,) = check.wrong(pages)
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("@import 'x.css'", "x.css leads to no file of the book"),
        ("@import 'https://x.org/y.css'", "asks for https://x.org/y.css, which is outside"),
        ("p { background: url(https://x.org/a.png) }", "asks for https://x.org/a.png, which is outside"),
        ("p { background: url( '//x.org/a') }", "asks for //x.org/a, which is outside"),
        ("p { background: url(b.png?1) }", "b.png?1 leads to no file of the book"),
        ("p { background: url(a.png); content: url(data:image/svg+xml,a) }", None),
    ],
)
def test_what_a_style_asks_for_is_in_the_folder(pages, rule, said):
    (pages / "style.css").write_text(rule)
    assert check.wrong(pages) == ([f"style.css: {said}"] if said else [])


# --- what is written for sphinx -------------------------------------------------------------------------------


def test_the_first_page_is_plain():
    text = re.sub(
        r"^(```|:::)\{.*?^\1$", "", (ROOT / "book" / "index.md").read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert plain.long_sentences(text) == [] and plain.nested_sentences(text) == []


def test_every_source_that_is_named_is_in_the_bibliography():
    from book.stage import Cited

    cited, used = Cited(), set()
    texts = ["".join(cell["source"]) for path in NOTEBOOKS for cell in cells(path) if cell["cell_type"] == "markdown"]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md") if path.stem != "sources"]
    for path in (ROOT / "studylib").rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts += [ast.get_docstring(node) or "" for node in tree if isinstance(node, kinds)]
    for text in texts:
        used |= {key for _, key in cited.find(text)}
    assert {"huang2017", "candes2008", "eckart1936", "frankle2019", "hinton2015"} <= used
    sources = plain.without_generated((ROOT / "docs" / "sources.md").read_text(encoding="utf-8"))
    for name in ("Mountain", "Varam", "Sinha", "Alpaydin", "LeCun", "Raschka", "Xiao", "Krizhevsky", "Netzer"):
        assert name in sources and name in (ROOT / "book" / "references.bib").read_text(encoding="utf-8")


def test_a_source_that_the_bibliography_lacks_stops_the_book():
    from book.stage import Cited

    with pytest.raises(ValueError, match=r"'Nobody et al\. 1999': expected a source of .*references.bib"):
        list(Cited().find("It is known (Nobody et al. 1999)."))


def test_sources_and_chapters_become_links_in_running_text_alone():
    from book.stage import Cited, linked

    text = (
        "# By Smith 2018 in chapter 3\n\n"
        "Hinton et al. (2015) and (after Candès, Wakin and Boyd 2008; Renda et\nal. 2020)\n"
        "in chapter 7, not 99. Chapter 99. `chapter 3` $Smith 2018$ [chapter 2](x.md)\n\n"
        "```\nSmith 2018 in chapter 4\n```\n"
    )
    assert linked(text, Cited()) == (
        "# By Smith 2018 in chapter 3\n\n"
        "{cite:t}`hinton2015` and (after {cite:alp}`candes2008`; {cite:alp}`renda2020`)\n"
        "in [chapter 7](#chapter-7), not 99. Chapter 99. `chapter 3` $Smith 2018$ [chapter 2](x.md)\n\n"
        "```\nSmith 2018 in chapter 4\n```\n"
    )


def test_every_table_of_a_chapter_has_a_caption_and_every_caption_a_table():
    tables = [table for path in NOTEBOOKS for text in outputs(path, "text/markdown") for table in TABLE.findall(text)]
    results = [table for page in PAGES for table in TABLE.findall((ROOT / page).read_text(encoding="utf-8"))]
    heads, of_results = ({table.partition("\n")[0] for table in found} for found in (tables, results))
    assert heads <= set(CAPTIONS) <= heads | of_results


# --- the book -------------------------------------------------------------------------------------------------


def page(book, notebook: Path) -> str:
    return (book[0] / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")


def bodies(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}\b.*?</{tag}>", text, flags=re.S)


@with_extra
@pytest.mark.long
def test_the_book_is_built_within_two_minutes_and_is_whole(book):
    folder, seconds = book
    assert seconds < 120 and check.wrong(folder) == []
    docs = {f"docs/{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.html")}
    assert there >= docs | {f"notebooks/{path.stem}.html" for path in NOTEBOOKS} | {"index.html", "search.html"}
    assert ("explorer.html" in there) == bool(importlib.util.find_spec("studylib.experiments.explorer"))


@with_extra
@pytest.mark.long
@every_chapter
def test_every_picture_of_a_chapter_is_a_numbered_figure_with_its_rows(book, notebook):
    figures = bodies(page(book, notebook), "figure")
    assert len(figures) == len(outputs(notebook, "image/png"))
    numbers = [html.unescape(re.search(r'class="caption-number">([^<]*)', figure)[1]) for figure in figures]
    assert numbers == [f"Figure {int(notebook.stem[:2])}.{count} " for count in range(1, len(figures) + 1)]
    assert all(re.search(r'<img alt="[^"]{20,}"', figure) for figure in figures)
    for figure in figures:
        for link in re.findall(r'href="(\.\./_downloads/[^"]*)"', figure):
            path = book[0] / "notebooks" / link
            if path.name != "nodes.csv":
                study, chapter, name = re.fullmatch(r"(.*)-(\d\d_\w+)-(\w+)\.csv", path.name).groups()
                rows = Published(f"figures/{study}", chapter).rows(name)
                assert path.read_text(encoding="utf-8") == rows.to_csv(index=False)
    assert sum("_downloads" in figure for figure in figures) >= len(figures) - 1  # one picture of all studies


@with_extra
@pytest.mark.long
@every_chapter
def test_every_table_of_a_chapter_has_a_number(book, notebook):
    tables = [table for text in outputs(notebook, "text/markdown") for table in TABLE.findall(text)]
    captions = re.findall(r'<caption>.*?class="caption-number">Table ([\d.]+) ', page(book, notebook), flags=re.S)
    assert captions == [f"{int(notebook.stem[:2])}.{count}" for count in range(1, len(tables) + 1)]


@with_extra
@pytest.mark.long
@every_chapter
def test_cells_that_draw_are_folded_and_formulas_are_drawn_by_the_browser(book, notebook):
    text = page(book, notebook)
    drawing = [cell for cell in cells(notebook) if "figure" in cell["metadata"].get("tags", [])]
    assert len(bodies(text, "details")) >= len(drawing) > 0
    source = "\n".join("".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "markdown")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", source, flags=re.S)
    assert len(bodies(text, "math")) >= len(formulas) and not re.search(
        r"\\\(|\$\$|<script[^>]*mathjax", text, flags=re.I
    )


@with_extra
@pytest.mark.long
@every_chapter
def test_all_rows_of_a_chapter_can_be_downloaded(book, notebook):
    links = re.findall(r'href="(\.\./_downloads/[^"]*\.json)"', page(book, notebook))
    assert (ROOT / "figures" / "digits" / f"{notebook.stem}.json").read_bytes() in [
        (book[0] / "notebooks" / link).read_bytes() for link in links
    ]


@with_extra
@pytest.mark.long
def test_every_picture_of_the_results_has_the_rows_that_it_draws(book):
    folder, there = book[0] / "docs", Figures(ROOT / "figures")
    text, found = (folder / "results.html").read_text(encoding="utf-8"), {}
    for link in re.findall(r'href="(\.\./_downloads/[^"]*/cited-[^"]*\.csv)"', text):
        found[Path(link).stem.removeprefix("cited-")] = (folder / link).read_text(encoding="utf-8")
    shown = [each.name for each in pictures(ROOT) if f"{each.name}.png" in text]
    drawn = {f"{name}-{table}": rows for name in shown for table, rows in cited.rows(there, name).items()}
    assert len(shown) > 4 and found == {name: rows.to_csv(index=False) for name, rows in drawn.items()}


@with_extra
@pytest.mark.long
def test_the_search_finds_a_word_of_chapter_6(book):
    index = json.loads((book[0] / "searchindex.js").read_text(encoding="utf-8")[len("Search.setIndex(") : -1])
    places = [index[part].get("hypervolum", []) for part in ("terms", "titleterms")]  # its stem
    found = {number for place in places for number in ([place] if isinstance(place, int) else place)}
    assert "notebooks/06_moo" in {index["docnames"][number] for number in found}
