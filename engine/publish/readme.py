"""The tables of README.md and docs/results.md, between markers: every number there is from figures/."""

import functools
import re
import sys
from pathlib import Path

import jinja2
import nbformat
import pandas as pd

from engine.publish.published import Figures
from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER
from studylib.disk.files import read_json, write_bytes
from studylib.experiments import frontier_marks, sweep_narrower
from studylib.experiments.frontier_published import claims_of_study, goals, lowest
from studylib.results import claims, tables, verdicts
from studylib.tree import names, table

LOADER = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
TEMPLATES = jinja2.Environment(loader=LOADER, undefined=jinja2.StrictUndefined)
FIRST = "cifar10"  # the study of the first screen
HELD = 0.9  # validation accuracy that the smallest file named there has at least
SHOWN = ("cifar10", "digits")  # studies of whose nodes there is a table
COLUMNS = ["node", "test accuracy %", "file kB", "saved %", "entropy kB", "zstd kB", "sparse kB"]
COLUMNS += ["nonzeros × width kB", "latency ms"]
NOT_MEASURED = "Not measured yet: no CIFAR-10 run is published."


def filled(template: str, **values) -> str:
    """A template of this folder with ``values``; one that it lacks is an :class:`jinja2.UndefinedError`."""
    return TEMPLATES.get_template(f"{template}.md").render(values).strip()


def first_screen(template: str, there: Figures) -> str:
    """What a reader sees first: numbers of the nodes of one study, the smallest accurate file, the lowest of claims."""
    nodes = there.nodes(FIRST).groupby("node").mean()
    if nodes.empty:
        return "Nothing yet: the tree on CIFAR-10 is not published."
    percent, kb = 100 * nodes["test_accuracy"], nodes["bytes_file"] / 1000
    saved, gain = 100 * (1 - kb / kb[names.TEACHER]), percent - percent[names.TEACHER]
    enough = there.files[there.files["val_accuracy"] >= HELD].sort_values("bytes", kind="stable").to_dict("records")
    measured = [each for chapter in chapters.declared() for each in there.measured(FIRST, chapter).items()]
    worst = {key: lowest(key, found) for key, found in measured}
    numbers = pd.DataFrame({"percent": percent, "kb": kb, "saved": saved, "gain": gain}).to_dict()
    try:
        return filled(template, **numbers, worst=worst, held=100 * HELD, least=next(iter(enough), None))
    except jinja2.UndefinedError as error:
        return f"Nothing yet: not all is published ({error})."


def chapters_table(there: Figures) -> str:
    """Every chapter: its title and question as its notebook has them, its minutes, a technique's key and part."""
    found = []
    for key, chapter in chapters.declared().items():
        said = nbformat.read(chapter.notebook, as_version=4).cells[0].source
        title, question = re.search(r"^# (.*)", said), re.search(r"\*\*Question\.\*\* (.*)", said)
        part = names.part(key) if chapter.role == "technique" else ""
        found.append((chapter, title[1] if title else key, question[1] if question else "–", part))
    return filled("chapters", chapters=found)


def nodes_table(study: str, there: Figures) -> str:
    """Accuracy and sizes of every node, and below where they come from."""
    if study not in there.studies:
        return f"The study `{study}` is not published."
    made = tables.markdown_table(table.summary(there.nodes(study)), COLUMNS)
    return filled("nodes", table=made, **there.studies[study])


def compared_table(there: Figures) -> str:
    """Every variant of a whole tree beside the plain one, node by node."""
    trees, known = [], there.studies
    for study, plain in [(study, study.partition("-")[0]) for study in known if "-" in study]:
        if plain in known and set(known[study]["nodes"]) == set(known[plain]["nodes"]):
            trees.append((study, plain, table.compare(there.nodes(plain), there.nodes(study)).to_dict("records")))
    return filled("compared", trees=trees)


def margins_text(there: Figures) -> str:
    """Which combinations beat narrower dense networks at equal bytes."""
    found = []
    for study in reversed(SHOWN):
        control, margins = (there.rows(study, chapters.table(), name) for name in ("control", "margins"))
        if len(control):
            found.append({"study": study} | sweep_narrower.grouped(control, margins))
    return filled("margins", studies=found)


def claims_table(there: Figures) -> str:
    """Paper says, we measured, verdict: every claim that a published CIFAR-10 study answers, by chapter and study."""
    numbers, said = {key: chapter.name[:2] for key, chapter in chapters.declared().items()}, []
    for study in there.on_papers_data:
        found, nodes = {key: there.measured(study, key) for key in numbers}, there.nodes(study, slice(1))
        said += [row | {"study": study} for row in claims_of_study(there.studies[study], nodes, found, numbers)]
    if not said:
        return "No chapter on CIFAR-10 is published."
    columns = ["chapter", *verdicts.COLUMNS, "study"]
    rows = pd.DataFrame(said)[columns].sort_values(["chapter", "study"], kind="stable")
    alike = rows.groupby(columns[:-1], sort=False)["study"].agg(", ".join)  # what several found, in one row
    return tables.markdown_rows(alike.reset_index())


def marks_table(there: Figures) -> str:
    """What others have reported, each beside the smallest of our files that holds its accuracy.

    That is chosen by validation images; the last column has the smallest by test images, as is usual elsewhere.
    """
    every = there.files.sort_values("bytes", kind="stable")
    if every.empty:
        return NOT_MEASURED
    rows = pd.DataFrame(frontier_marks.against_marks(there.files.to_dict("records"), claims.PAPER_DATA))
    luckiest = [every[100 * every["test_accuracy"] >= mark - 1e-9].head(1) for mark in rows["mark %"]]
    rows["if chosen by test images"] = [
        f"{file['bytes'].item() / 1000:.2f} kB (`{file['name'].item()}`)" if len(file) else "–" for file in luckiest
    ]
    return tables.markdown_rows(rows.astype({"our kB": float, "our %": float}))


def goals_table(there: Figures) -> str:
    """What CIFAR-10 networks are to reach that are no files of a size, each beside the best of ours."""
    if there.files.empty:
        return NOT_MEASURED
    taught = claims.CLAIMS["kd_gain"].chapter
    gains = {study: there.measured(study, taught).get("kd_gain", []) for study in there.on_papers_data}
    return tables.markdown_rows(pd.DataFrame(goals(there.files, there.studies, gains)))


def runs_table(there: Figures) -> str:
    """What every study has published, and what it has not: nobody is to think that it was run."""
    found, declared = [], chapters.declared()
    profiles = sorted(path.stem for path in FOLDER.glob("*.yaml") if path != chapters.FILE)
    for profile, variant in [(each, name) for each in profiles for name in ("", *parameters.variants(each))]:
        section, study = parameters.load(profile, variant=variant)["study"], parameters.run_name(profile, variant)
        about, asked = there.studies.get(study, {}), [declared[key] for key in section["chapters"]]
        run = [each for each in asked if each.name in about.get("chapters", [])]
        parts = [each for each in asked if each not in run and there.chapter(study, each.key)["rows"]]
        rest = [each for each in asked if each not in run + parts]
        found.append((study, about, names.nodes(section["stages"]), (run, parts, rest)))
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
        "goals": goals_table,
        "what the paper says": claims_table,
        "what was run": runs_table,
    },
}


def write(root: Path, there: Figures) -> None:
    """Writes every table of :data:`PAGES`, and into CITATION.cff the day of the newest published results."""
    for page, made in PAGES.items():
        for name, content in made.items():
            write_between(root / page, name, content(there))
        print(f"{page}: {', '.join(made)}")
    abouts = [read_json(file)["about"].get("provenance", {}) for file in there.folder.glob("*/[0-9]*.json")]
    newest = max(about.get("date", "") for about in [*abouts, *there.studies.values()])
    path = root / "CITATION.cff"
    text, count = re.subn(r"(?m)^date-released: .*$", f"date-released: {newest[:10]}", path.read_text(encoding="utf-8"))
    if count != 1:
        sys.exit(f"{path}: expected one line date-released, found {count}")
    write_bytes(path, text.encode())


def write_between(path: Path, name: str, content: str) -> None:
    """Replaces what stands between the two markers of that name in a page."""
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: made by make figures -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"{path.name}: expected the markers {begin} and {end}, once each")
    new = f"{text.partition(begin)[0]}{begin}\n\n{content}\n\n{end}{text.partition(end)[2]}"
    write_bytes(path, new.encode())
