"""The tables of README.md and docs/results.md, between markers: every number there is from figures/."""

import functools
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import jinja2
import nbformat
import pandas as pd

from engine.settings import chapters, parameters
from studylib.disk.files import read_json, write_bytes
from studylib.experiments import across_studies, cited, findings, generative_files, sweep_narrower
from studylib.experiments.published import Figures
from studylib.results import tables
from studylib.tree import names, table

LOADER = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
TEMPLATES = jinja2.Environment(loader=LOADER, undefined=jinja2.StrictUndefined)
FIRST = "cifar10"  # the study of the first screen
SHOWN = ("cifar10", "mnist", "digits")  # studies of whose nodes there is a table
COLUMNS = ["node", "test accuracy %", "file kB", "saved %", "entropy kB", "zstd kB", "sparse kB"]
COLUMNS += ["nonzeros × width kB", "latency ms"]


def filled(template: str, **values) -> str:
    """A template of this folder with ``values``; one that it lacks is an :class:`jinja2.UndefinedError`."""
    return TEMPLATES.get_template(f"{template}.md").render(values).strip()


def first_screen(template: str, there: Figures) -> str:
    """What a reader sees first: numbers of one study's nodes, the smallest accurate files, what chapters found."""
    numbers = findings.numbers(there, FIRST)
    try:
        return filled(template, **numbers) if numbers else "Nothing yet: the tree on CIFAR-10 is not published."
    except jinja2.UndefinedError as error:
        return f"Nothing yet: not all is published ({error})."


def chapters_table(there: Figures) -> str:
    """Every chapter: its title and question as its notebook has them, its minutes, a technique's key and part."""
    found = []
    for key, path in chapters.notebooks().items():
        said = nbformat.read(path, as_version=4).cells[0].source
        title, question = re.search(r"^# (.*)", said), re.search(r"\*\*Question\.\*\* (.*)", said)
        part = names.part(key) if key in chapters.techniques() else ""
        found.append((chapters.declared()[key], title[1] if title else key, question[1] if question else "–", part))
    return filled("chapters", chapters=found)


def nodes_table(study: str, there: Figures) -> str:
    """Accuracy and sizes of every node, and below where they come from."""
    if study not in there.studies:
        return f"The study `{study}` is not published."
    made = tables.markdown_table(table.summary(there.nodes(study)), COLUMNS)
    return filled("nodes", table=made, **there.studies[study])


def compared_table(there: Figures) -> str:
    """Every variant of a whole tree beside the plain one, node by node."""
    return filled("compared", trees=list(across_studies.trees(there)))


def margins_text(there: Figures) -> str:
    """Which combinations beat narrower dense networks at equal bytes."""
    both = [
        (study, *(there.rows(study, chapters.root("table"), name) for name in ("control", "margins")))
        for study in SHOWN
    ]
    return filled("margins", studies=[{"study": s} | sweep_narrower.grouped(c, m) for s, c, m in both[::-1] if len(c)])


def claims_table(there: Figures) -> str:
    """Paper says, we measured, verdict: every claim that a published CIFAR-10 study answers, by chapter and study."""
    numbers = {key: chapter.name[:2] for key, chapter in chapters.declared().items()}
    return _rows(across_studies.answers(there, numbers))


def marks_table(there: Figures) -> str:
    """What others have reported, each beside the smallest of our files that holds its accuracy."""
    return _rows(across_studies.marks(there) if len(there.files) else [])


def goals_table(there: Figures) -> str:
    """What CIFAR-10 networks are to reach that are no files of a size, each beside the best of ours."""
    return _rows(across_studies.goals(there) if len(there.files) else [])


def generative_table(there: Figures) -> str:
    """The smallest files of networks that generate, of every study."""
    return tables.markdown_rows(pd.DataFrame(generative_files.rows(there)))


def _rows(rows: Iterable[dict] | pd.DataFrame) -> str:
    rows = pd.DataFrame(rows)
    return tables.markdown_rows(rows) if len(rows) else "Not measured yet: no CIFAR-10 run is published."


def runs_table(there: Figures) -> str:
    """What every study has published, and what it has not: nobody is to think that it was run."""
    found = []
    for profile, variant in [(p, variant) for p in parameters.profiles() for variant in ("", *parameters.variants(p))]:
        sections, study = parameters.load(profile, variant=variant), parameters.run_name(profile, variant)
        about, told = there.studies.get(study, {}), {"run": [], "in part": [], "not run": []}
        for key, each in chapters.declared().items():
            if (parts := there.chapter(study, key)["rows"]) or key in sections["study"]["chapters"]:
                how = "run" if each.name in about.get("chapters", []) else "in part" if parts else "not run"
                told[how].append(each.name[:2])
        found.append((study, about, names.nodes(sections["study"]["stages"]), told, sections["needs"]))
    return filled("runs", studies=found)


PAGES = {
    "README.md": {
        "at a glance": functools.partial(first_screen, "glance"),
        "findings": functools.partial(first_screen, "findings"),
        "chapters": chapters_table,
    },
    "docs/results.md": {
        **{f"results of {study}": functools.partial(nodes_table, study) for study in SHOWN},
        "compared": compared_table,
        "margins": margins_text,
        "marks": marks_table,
        "generative models": generative_table,
        "goals": goals_table,
        "what the paper says": claims_table,
        "what was run": runs_table,
    },
}


def write(root: Path, there: Figures) -> None:
    """Draws, writes every table of :data:`PAGES`, and into CITATION.cff the day of the newest published results."""
    cited.draw(there)
    for page, made in PAGES.items():
        for name, content in made.items():
            begin, end = f"<!-- {name}: made by make figures -->", f"<!-- end of {name} -->"
            put(root / page, f"{begin}\n.*?{end}", f"{begin}\n\n{content(there)}\n\n{end}")
        print(f"{page}: {', '.join(made)}")
    abouts = [read_json(file)["about"].get("provenance", {}) for file in there.folder.glob("*/[0-9]*.json")]
    newest = max(about.get("date", "") for about in [*abouts, *there.studies.values()])
    put(root / "CITATION.cff", r"^date-released: [^\n]*$", f"date-released: {newest[:10]}")


def put(path: Path, pattern: str, content: str) -> None:
    """Replaces the one place of a page that has the form ``pattern``."""
    text, count = re.subn(pattern, lambda _: content, path.read_text(encoding="utf-8"), flags=re.M | re.S)
    if count != 1:
        sys.exit(f"{path.name}: expected {pattern!r} once, found it {count} times")
    write_bytes(path, text.encode())
