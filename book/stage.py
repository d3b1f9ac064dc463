"""Writes the sources of the book: chapters, docs and reference as sphinx reads them, pictures and rows beside them."""

import base64
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from pybtex.database import parse_file

import studylib
from book.text import CAPTIONS, HEADING, PICTURE, TABLE, of_results
from studylib.experiments import cited
from studylib.experiments.published import Figures
from studylib.plots.captions import CALL, drawn, first_sentence
from studylib.results import tables
from studylib.tree.published import Published

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NUMBERS = "|".join(str(int(path.stem[:2])) for path in CHAPTERS)
COPIED = ("README.md", "CHANGES.md", "CITATION.cff", "LICENSE", "figures")  # beside pages, for links and pictures
WIDE = 750  # pixels from which on a phone shows a part of a picture, to be moved sideways, as letters are too small
BESIDE = re.compile(r"(\w+) = Beside\(\"figures/([\w-]+)\", \"(\w+)\"\)")
KEPT = re.compile(  # what is no running text: code, formulas, links, headings, comments
    r"^```.*?^```|^:::.*?^:::|``.*?``|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\[[^\]]*\]\([^)]*\)|^#.*?$|<!--.*?-->",
    flags=re.M | re.S,
)
NAMED = re.compile(  # a source in a text: Smith 2018, Eckart and Young 1936, Hinton et al. (2015
    r"[A-ZÀ-Þ][\w'-]+(?:(?:, [A-ZÀ-Þ][\w'-]+)* and [A-ZÀ-Þ][\w'-]+|\s+et\s+al\.)?\s+\(?(?:19|20)\d\d\b"
)
MYST, RST = "{{{}}}`{}`", ":{}:`{}`"
EXPLORER = """
Every published network, to filter: <a href="explorer.html">the explorer on a page of its own</a>.

<iframe class="explorer" title="The explorer" src="explorer.html" loading="lazy"></iframe>
"""
SCORES = ("validation", "val"), ("test", "test")
SMALLEST = """# Explore: smallest files
{explorer}
Files of CIFAR-10 networks that no smaller file beats on the *validation* images. The test images had no say.
For an accuracy, take the first row that reaches it.

:::{{table}} The Pareto front of bytes and validation accuracy, CIFAR-10.
:name: tab-smallest
:align: left

{table}
:::

Files named without a slash are in `figures/models/`. `make evaluate MODEL=figures/models/<file>.slnc` decodes one and
measures it. A name with a slash is a node: study, then what was done to its teacher.
"""


class Cited:
    """The sources of references.bib, by the words that name them in a text: ``Huang et al. 2017``."""

    def __init__(self, path: Path = BOOK / "references.bib"):
        self.keys = {}
        for key, entry in parse_file(str(path), bib_format="bibtex").entries.items():
            names = [" ".join(p.prelast_names + p.last_names) for p in entry.persons.get("author", ())]
            names = [name.translate(str.maketrans("", "", "{}")) for name in names]
            if names and "year" in entry.fields:
                few = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
                for named in {few, f"{names[0]} et al."} if len(names) > 2 else {few}:
                    self.keys[f"{named} {entry.fields['year']}"] = key

    def find(self, text: str) -> Iterator[tuple[str, str]]:
        """The words in ``text`` that name a source with its year, and its key: ValueError where there is none."""
        for words in NAMED.findall(text):
            plain = " ".join(words.replace("(", "").split())
            if plain not in self.keys:
                raise ValueError(f"{words!r}: expected a source of {BOOK / 'references.bib'}")
            yield words, self.keys[plain]

    def link(self, text: str, role: str) -> str:
        """``text`` with a citation for each; ``role`` is how a role is written, of MyST or of docstrings."""
        for words, key in dict(self.find(text)).items():
            kind = "cite:t" if "(" in words else "cite:alp"
            text = text.replace(words + (")" if "(" in words else ""), role.format(kind, key))
        return text


def running(text: str, change: Callable[[str], str]) -> str:
    """``text``, Markdown, its running text changed and all else kept."""
    parts, end = [], 0
    for kept in KEPT.finditer(text):
        parts += [change(text[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*parts, change(text[end:])])


def linked(text: str, cited: Cited) -> str:
    """Markdown whose chapters, as far as they are there, and sources are links."""

    def change(part: str) -> str:
        part = re.sub(rf"\b([Cc]hapter) ({NUMBERS})\b", r"[\1 \2](#chapter-\2)", part)
        return cited.link(part, MYST)

    return running(text, change)


class Shown:
    """The figures and tables of the book, in their order: (label, caption, picture or nothing)."""

    def __init__(self, cited: Cited):
        self.cited = cited
        self.all: list[tuple[str, str, str]] = []

    def figure(self, label: str, picture: str, caption: str, folder: Path, rows: dict[str, str], alt: str = "") -> str:
        """A numbered figure; ``picture`` and ``rows``, name → file, are paths from the pages' ``folder``."""
        caption = " ".join(caption.split())
        where = (folder / picture).resolve().relative_to(folder.parent.resolve()).as_posix()
        said = linked(caption, self.cited)
        self.all.append((label, said, where))
        links = ", ".join(f"{{download}}`{name} <{path}>`" for name, path in rows.items())
        said += f" Rows: {links}." if rows else ""
        alt = re.sub(r"[`*$]", "", alt or caption)
        (width,) = struct.unpack(">I", (folder / picture).read_bytes()[16:20])  # where a PNG has it
        shape = ":figclass: wide\n" if width > WIDE else ""
        return f":::{{figure}} {picture}\n:name: {label}\n:alt: {alt}\n{shape}\n{said}\n:::"

    def tables(self, text: str, label: str, caption: Callable[[str, str], str]) -> str:
        """Markdown with each table numbered; ``caption`` is given its first line and what stands before it."""

        def numbered(found: re.Match) -> str:
            name = f"{label}-{sum(each.startswith(f'{label}-') for each, *_ in self.all) + 1}"
            said = caption(found[0].partition("\n")[0], text[: found.start()])
            self.all.append((name, said, ""))
            return f":::{{table}} {said}\n:name: {name}\n:align: left\n\n{found[0].strip()}\n:::\n"

        return TABLE.sub(numbered, text)

    def page(self) -> str:
        """All of them, with small pictures."""
        lines = ["# Figures and tables", "", "A click leads to where it stands.", "", "## Figures", "", "{.gallery}"]
        for label, caption, picture in self.all:
            if picture:
                lines.append(f"- [![]({picture})](#{label}) {{numref}}`{label}`: {first_sentence(caption)}")
        lines += ["", "## Tables", ""]
        lines += [f"- {{numref}}`{label}`: {caption}" for label, caption, picture in self.all if not picture]
        return "\n".join(lines) + "\n"


def save_rows(study: str, chapter: str, name: str, target: Path) -> str:
    """The rows of a figure as a CSV file below ``target``, its path from there; those of the nodes if it has none."""
    rows = Published(f"figures/{study}", chapter)
    if name not in rows.content["rows"]:
        return f"figures/{study}/nodes.csv"
    path = target / "rows" / f"{study}-{chapter}-{name}.csv"
    path.parent.mkdir(exist_ok=True)
    rows.rows(name).to_csv(path, index=False)
    return path.relative_to(target).as_posix()


class Page:
    """A chapter's notebook as the book has it: figures and tables numbered, what only draws or tells folded."""

    def __init__(self, path: Path, target: Path, shown: Shown):
        self.path, self.target, self.shown, self.captions = path, target, shown, drawn(path.stem[3:])
        self.number, self.notebook = path.stem[:2], json.loads(path.read_text(encoding="utf-8"))
        source = "\n".join("".join(cell["source"]) for cell in self.notebook["cells"])
        (own,) = re.findall(r'^published: str = "figures/([\w-]+)"', source, flags=re.M)
        self.studies = {"chapter": (own, path.stem)}
        self.studies |= {name: (study, chapter) for name, study, chapter in BESIDE.findall(source)}
        self.heading, self.cells = "", []

    def write(self) -> None:
        for cell in self.notebook["cells"]:
            (self._text if cell["cell_type"] == "markdown" else self._code)(cell)
        self._markdown(self._downloads())
        folder = self.target / "notebooks"
        folder.mkdir(exist_ok=True)
        content = {**self.notebook, "cells": self.cells, "nbformat_minor": 5}
        (folder / self.path.name).write_text(json.dumps(content), encoding="utf-8")

    def _markdown(self, text: str) -> None:
        self.cells.append(
            {
                "id": f"cell-{len(self.cells)}",
                "cell_type": "markdown",
                "metadata": {},
                "source": linked(text, self.shown.cited),
            }
        )

    def _text(self, cell: dict) -> None:
        text = "".join(cell["source"])
        self.heading = "".join(HEADING.findall(text)[-1:]) or self.heading
        self._markdown(re.sub(r"^# \d+\. ", f"(chapter-{int(self.number)})=\n# ", text))

    def _code(self, cell: dict) -> None:
        tags = cell["metadata"].get("tags", [])
        source = re.sub(r"^# NBVAL_\w+\n", "", "".join(cell["source"]))
        shown = [out for out in cell["outputs"] if not {"text/markdown", "image/png"} & set(out.get("data", {}))]
        told = any("text/markdown" in out.get("data", {}) for out in cell["outputs"])
        sums_up = self.heading.startswith("Takeaway") and not shown
        fold = ["hide-input"] if "figure" in tags or (told and not shown) or sums_up else []
        self.cells.append(
            {
                **cell,
                "id": f"cell-{len(self.cells)}",
                "source": source,
                "outputs": shown,
                "metadata": {"tags": [*tags, *fold]},
            }
        )
        of = re.search(r"(\w+)\.verdicts\(", source)
        study = f" Study `{self.studies[of[1]][0]}`." if of else ""

        def named(head: str, _: str) -> str:
            return CAPTIONS.get(head, f"{self.heading}.") + study

        calls, outputs = CALL.findall(source), [out["data"] for out in cell["outputs"] if "data" in out]
        pictures = sum("image/png" in out for out in outputs)
        if pictures != len(calls) and pictures:
            raise ValueError(f"{self.path.name}: {pictures} pictures of {len(calls)} calls of figure in {source!r}")
        while outputs:
            data = outputs.pop(0)
            if "image/png" in data:
                beside = outputs and "".join(outputs[0].get("text/markdown", "")).startswith("*")
                said = "".join(outputs.pop(0)["text/markdown"]).strip("*") if beside else ""
                self._markdown(self._figure(*calls.pop(0), data["image/png"], said))
            elif "text/markdown" in data:
                self._markdown(self.shown.tables("".join(data["text/markdown"]), f"tab-{self.number}", named))

    def _figure(self, of: str, name: str, draw: str, png: str, said: str) -> str:
        folder = self.target / "notebooks" / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        study, chapter = self.studies.get(of, ("cited", ""))
        path = folder / f"{self.number}-{study}-{name}.png"
        path.write_bytes(base64.b64decode("".join(png)))
        caption = said or f"{self.captions.get(draw, self.heading + '.')} Study `{study}`."
        rows = {"CSV": f"../{save_rows(study, chapter, name, self.target)}"} if chapter else {}
        label = f"fig-{path.stem}".replace("_", "-")
        return self.shown.figure(label, f"pictures/{path.name}", caption, self.target / "notebooks", rows)

    def _downloads(self) -> str:
        lines = ["## Rows of this page", "", "All rows, settings and claims that this page shows, as JSON:", ""]
        for study, chapter in dict.fromkeys(self.studies.values()):
            for what, name in ((f"study `{study}`", f"{chapter}.json"), ("its nodes", "nodes.csv")):
                if (self.target / "figures" / study / name).exists():  # as far as the study is published
                    lines.append(f"- {what}: {{download}}`{study}/{name} <../figures/{study}/{name}>`")
        return "\n".join(lines)


def docs(target: Path, shown: Shown) -> None:
    """The pages of docs/; figures and tables of the results are numbered, and what a figure draws is beside it."""
    folder, there = target / "docs", Figures(ROOT / "figures")
    folder.mkdir()

    def with_rows(found: re.Match) -> str:
        alt, path, said = found.groups()
        name, rows = Path(path).stem, {}
        for table, frame in cited.rows(there, name).items():
            rows[f"CSV of {table}"] = f"../rows/cited-{name}-{table}.csv"
            frame.to_csv(folder / rows[f"CSV of {table}"], index=False)
        return shown.figure(f"fig-{name}", path, said, folder, rows, alt)

    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8").replace("](../README.md", "](../index.md")
        if path.stem == "results":
            text = PICTURE.sub(with_rows, text)
            text = shown.tables(text, "tab-results", of_results)
        (folder / path.name).write_text(linked(text, shown.cited), encoding="utf-8")


def reference(target: Path) -> None:
    """A page for each folder of the package, its modules by their docstrings."""
    folder = target / "reference"
    folder.mkdir()
    said = dict(re.findall(r"^(\w+): (.+)$", studylib.__doc__, flags=re.M))
    names = ["settings", *said]
    for name in names:
        modules = sorted((ROOT / "studylib" / name).glob("[!_]*.py")) or [ROOT / "studylib" / f"{name}.py"]
        lines = [name, "=" * len(name), "", said.get(name, "Settings as typed records, for all of them."), ""]
        for path in modules:
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            heading = dotted.removeprefix("studylib.")
            lines += [heading, "-" * len(heading), "", f".. automodule:: {dotted}", "   :members:", ""]
        (folder / f"{name}.rst").write_text("\n".join(lines), encoding="utf-8")
    head = ["The package", "===========", "", "Its folders, from its docstrings; a folder imports only those above it."]
    tree = ["", ".. toctree::", "   :maxdepth: 2", "", *(f"   {name}" for name in names), ""]
    (folder / "index.rst").write_text("\n".join([*head, *tree]), encoding="utf-8")


def stage(target: Path) -> None:
    """Writes every source of the book below the empty folder ``target``."""
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)
    shown = Shown(Cited())
    for path in CHAPTERS:
        Page(path, target, shown).write()
    docs(target, shown)
    reference(target)
    index = (BOOK / "index.md").read_text(encoding="utf-8")
    index = index.replace("CHAPTERS", "\n".join(f"notebooks/{path.stem}" for path in CHAPTERS))
    (target / "index.md").write_text(index, encoding="utf-8")
    (target / "shown.md").write_text(shown.page(), encoding="utf-8")
    bibliography = "# Bibliography\n\n```{bibliography}\n:all:\n```\n"
    (target / "bibliography.md").write_text(bibliography, encoding="utf-8")
    explore(target)


def explore(target: Path) -> None:
    """The page of the smallest file at each accuracy, and of the explorer where the study has one."""
    files = Figures(ROOT / "figures").files.sort_values("bytes")
    front = files[files["val_accuracy"] > files["val_accuracy"].cummax().shift(fill_value=0).clip(lower=0.75)]
    rows = {"kB": front["bytes"] / 1000}
    rows |= {f"{name} accuracy %": 100 * front[f"{short}_accuracy"] for name, short in SCORES}
    rows["file"] = [f"`{name}`" for name in front["name"]]
    page, shown = target / "explorer.html", ""
    if importlib.util.find_spec("studylib.experiments.explorer"):
        command = [sys.executable, "-m", "studylib.experiments.explorer", ROOT / "figures", page]
        command += ["--back", "explore.html", "the book"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        shown = EXPLORER
    table = tables.markdown_rows(pd.DataFrame(rows))
    (target / "explore.md").write_text(SMALLEST.format(explorer=shown, table=table), encoding="utf-8")
