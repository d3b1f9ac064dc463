"""The tables of README.md and docs/results.md, between markers: every number there is from figures/."""

import functools
import re
import sys
from pathlib import Path

import jinja2
import nbformat
import pandas as pd

from engine.publish import verdicts
from engine.publish.published import Figures
from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER
from studylib.disk.files import read_json, write_bytes
from studylib.experiments import frontier_marks, sweep_narrower
from studylib.experiments.frontier_published import goals
from studylib.results import claims, statistics, tables
from studylib.results import verdicts as judged
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
    percent, kb, worst = 100 * nodes["test_accuracy"], nodes["bytes_file"] / 1000, {}
    saved, gain = 100 * (1 - kb / kb[names.TEACHER]), percent - percent[names.TEACHER]
    numbers = {"percent": percent, "kb": kb, "saved": saved, "gain": gain}
    enough = there.files[there.files["val_accuracy"] >= HELD].sort_values("bytes", kind="stable").to_dict("records")
    for chapter in chapters.declared():
        for key, found in there.measured(FIRST, chapter).items():
            least, claim = min(found, key=lambda measured: measured.value), claims.CLAIMS[key]
            rival = f"against the {least.against}: " if least.against else ""
            text, verdict = judged.text(least, claim.unit), judged.verdict(claim, least, claims.PAPER_DATA)
            worst[key] = f"{rival}{text}, {verdict}"
    numbers = {name: column.to_dict() for name, column in numbers.items()}
    try:
        return filled(template, **numbers, worst=worst, held=100 * HELD, least=next(iter(enough), None))
    except jinja2.UndefinedError as error:
        return f"Nothing yet: not all is published ({error})."


def chapters_table(there: Figures) -> str:
    """Every chapter: its title and question as its notebook has them, its minutes, a technique's key and part."""
    rows = []
    for key, chapter in chapters.declared().items():
        said = nbformat.read(chapter.notebook, as_version=4).cells[0].source
        title, question = re.search(r"^# (.*)", said), re.search(r"\*\*Question\.\*\* (.*)", said)
        technique = f" (`{key}`, in nodes `{names.part(key)}`)" if chapter.role == "technique" else ""
        row = {
            "title": title[1] if title else key,
            "question": question[1] if question else "–",
            "technique": technique,
        }
        rows.append(row | {"key": key, "name": chapter.name, "minutes": chapter.minutes})
    return filled("chapters", chapters=rows)


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
    """Which combinations beat narrower dense networks at equal bytes: by the verdicts that are published, seed by seed.

    Of one seed there are none: then by the means, and those larger than every narrower network are counted apart.
    """
    found = []
    for study in reversed(SHOWN):
        control, margins = (there.rows(study, chapters.table(), name) for name in ("control", "margins"))
        if control.empty:
            continue
        if len(margins) and (margins["verdict"] != statistics.UNKNOWN).any():
            made, how = margins.assign(verdict="“" + margins["verdict"] + "”"), "by intervals over seeds"
        else:
            made, count = sweep_narrower.by_means(control), control["growth"].nunique()
            how = f"{count} narrower network{'s' if count > 1 else ''} in floats and int8, by means"
        nodes = made["node"].map(tables.label).groupby(made["verdict"].astype(str), sort=False).apply(list)
        found.append({"study": study, "count": len(made), "how": how, "groups": nodes.to_dict()})
    return filled("margins", studies=found)


def marks_table(there: Figures) -> str:
    """What others have reported, each beside the smallest of our files that holds its accuracy.

    That is chosen by validation images; the last column has the smallest by test images, as is usual elsewhere.
    """
    every = there.files.sort_values("bytes", kind="stable")
    if every.empty:
        return NOT_MEASURED

    def luckiest(mark: float) -> str:
        enough = every[100 * every["test_accuracy"] >= mark - 1e-9].head(1).itertuples()
        return next((f"{file.bytes / 1000:.2f} kB (`{file.name}`)" for file in enough), "–")

    rows = pd.DataFrame(frontier_marks.against_marks(there.files.to_dict("records"), claims.PAPER_DATA))
    rows["if chosen by test images"] = rows["mark %"].map(luckiest)
    return tables.markdown_rows(rows.astype({"our kB": float, "our %": float}))


def goals_table(there: Figures) -> str:
    """What CIFAR-10 networks are to reach that are no files of a size, each beside the best of ours."""
    if there.files.empty:
        return NOT_MEASURED
    gains = {
        study: there.measured(study, claims.CLAIMS["kd_gain"].chapter).get("kd_gain", [])
        for study in there.on_papers_data
    }
    return tables.markdown_rows(pd.DataFrame(goals(there.files, there.studies, gains)))


def runs_table(there: Figures) -> str:
    """Of every study what is published, and what it would have beside that: nobody is to think that it was run."""
    rows, declared = [], chapters.declared()
    profiles = sorted(path.stem for path in FOLDER.glob("*.yaml") if path != chapters.FILE)
    for profile, variant in [(each, name) for each in profiles for name in ("", *parameters.variants(each))]:
        section, study = parameters.load(profile, "", "", variant)["study"], parameters.run_name(profile, variant)
        about, nodes = there.studies.get(study, {}), names.nodes(section["stages"])
        run = [key for key in section["chapters"] if declared[key].name in about.get("chapters", [])]
        parts = [key for key in section["chapters"] if key not in run and there.chapter(study, key)["rows"]]
        told = {"chapters run": run, "in part": parts}
        told["not run"] = [key for key in section["chapters"] if key not in run + parts]
        row = {"study": study, "published nodes": f"{len(about.get('nodes', []))} of {len(nodes)}"}
        row["seeds"] = ", ".join(map(str, about.get("seeds", []))) or "–"
        rows.append(
            row | {name: ", ".join(declared[key].name[:2] for key in keys) or "–" for name, keys in told.items()}
        )
    return tables.markdown_rows(pd.DataFrame(rows))


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
        "what the paper says": verdicts.claims_table,
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
