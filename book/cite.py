"""Writes what a thesis needs to cite a picture or a table of the pages: make cite FIGURE=front TABLE=sweep.

Each has a folder of its own: LaTeX with caption, label and provenance, and the study as BibTeX. A picture is there as
PDF and PNG, and the rows that it draws as CSV.
"""

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from book import latex, text
from studylib.disk.files import CheckpointError, write_files
from studylib.disk.provenance import provenance
from studylib.experiments import cited
from studylib.experiments.published import Figures

KEY = "studylib"  # of the BibTeX entry
SHORT = {"front": "accuracy_against_bytes_cifar10", "sweep": "results_of_cifar10"}  # what is cited most
NO_RESULTS = {"chapters"}  # tables of the pages without any
NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*")  # of a study or a file
HEAD = """% {title}
% Made by make cite {asked}. Needs \\usepackage{{{needs}}}, and {key}.bib for \\cite.
"""


class CiteError(ValueError):
    """What cannot be cited, and why, in a sentence."""


def entry(citation: dict, commit: str) -> str:
    """The study as BibTeX, of what CITATION.cff says; ``commit`` is left out where it is "unknown"."""
    people = [author.get("name") or [author["family-names"], author["given-names"]] for author in citation["authors"]]
    names = [f"{{{latex.escaped(who)}}}" if isinstance(who, str) else latex.escaped(", ".join(who)) for who in people]
    fields = {
        "author": " and ".join(names),
        "title": f"{{{latex.escaped(citation['title'])}}}",
        "howpublished": "Software",
        "note": f"Version {citation['version']}" + (f", commit {commit}" if commit != "unknown" else ""),
        "year": str(citation["date-released"])[:4],
        "url": citation.get("repository-code") or citation.get("url"),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{KEY},", *lines, "}", ""])


def origin(there: Figures, sources: list[cited.Source], said: str = "") -> str:
    """Where rows are from, as LaTeX: studies, seeds, commits, versions; only those where ``said`` has the rest."""
    rows, versions, commits = [], {}, []
    for study, key, _ in sources:
        chapter = there.chapter(study, key) if key else {"about": there.studies[study]}
        about = chapter["about"]
        made = about.get("provenance", about)
        seeds, at, python = map(_listed, (about["seeds"], made["git_commit"], made["python"]))
        where = f"study `{study}`" + (f", chapter `{chapter['chapter']}`" if key else "")
        rows.append(f"{where} (seed {', '.join(seeds)}; commit {', '.join(at)}; {made['date'][:10]})")
        numbers = {"Python": ", ".join(python)} | made["packages"]
        versions[", ".join(f"{name} {number}" for name, number in numbers.items())] = None
        commits += at
    found = [] if all(commit in said for commit in commits) else [f"Rows: {'; '.join(rows)}."]
    found.append(f"Made with {'; or '.join(versions)}.")
    return f"{latex.inline(' '.join(found))} From~\\cite{{{KEY}}}."


def studies_of(table: text.Table, there: Figures) -> list[str]:
    """The studies that a table names, themselves or by a file; all on CIFAR-10 where it names none."""
    known = {name.rpartition(".")[0]: about["profile"] for name, about in there.models.items()}
    known |= {study: study for study in there.studies}
    cells = [*table.heads, *(cell for row in table.rows for cell in row), table.notes]
    named = {known.get(word) for cell in cells for word in NAME.findall(cell)}
    return [study for study in there.studies if study in named] or there.on_papers_data


def of_picture(root: Path, there: Figures, picture: text.Picture) -> dict[str, bytes]:
    """File → content, of a picture: as it is published, the rows that it draws, LaTeX."""
    drawn, name = cited.rows(there, picture.name), picture.name
    files = {f"{name}.{ending}": root / "figures" / "cited" / f"{name}.{ending}" for ending in ("pdf", "png")}
    lacks = [path.name for path in files.values() if not path.is_file()] + ([] if drawn else ["its rows"])
    if lacks:
        raise CiteError(f"FIGURE={name}: {', '.join(lacks)} not there: expected what make figures publishes and draws")
    found = {file: path.read_bytes() for file, path in files.items()}
    found |= {f"{name}-{each}.csv": rows.to_csv(index=False).encode() for each, rows in drawn.items()}
    made = latex.figure(picture, origin(there, cited.sources(there, name)))
    return found | {f"{name}.tex": _with_head(made, picture.title, f"FIGURE={name}")}


def of_table(there: Figures, table: text.Table) -> dict[str, bytes]:
    """File → content, of a table: LaTeX."""
    sources = [(study, "", []) for study in studies_of(table, there)]
    made = latex.table(table, origin(there, sources, table.notes))
    return {f"{table.name}.tex": _with_head(made, table.title, f"TABLE={table.name}")}


def main(root: Path, target: Path, figures: str = "", tables: str = "") -> list[Path]:
    """Writes each picture and table that is named into a folder of its own below ``target``; returns the folders.

    Args:
        root: of the study: figures/, CITATION.cff and the pages.
        figures, tables: names with spaces between, or ``all``.

    Raises:
        CiteError: none is named, or one that is not there; nothing is written then.
    """
    there, found = Figures(root / "figures"), {}
    pictures = {each.name: each for each in text.pictures(root)}
    shown = {each.name: each for each in text.tables(root) if each.name not in NO_RESULTS}
    if not figures.split() and not tables.split():
        raise CiteError(f"nothing to cite: expected {_known('FIGURE', pictures)}, or {_known('TABLE', shown)}")
    for name in _chosen("FIGURE", figures, pictures):
        found[name] = of_picture(root, there, pictures[name])
    for name in _chosen("TABLE", tables, shown):
        found[name] = of_table(there, shown[name])
    citation = YAML(typ="safe").load((root / "CITATION.cff").read_text(encoding="utf-8"))
    study = entry(citation, provenance()["git_commit"]).encode()
    whole = {name: files | {f"{KEY}.bib": study} for name, files in found.items()}
    write_files({target / name / file: content for name, files in whole.items() for file, content in files.items()})
    return [target / name for name in found]


def _known(kind: str, there: Collection[str]) -> str:
    short = [each for each, name in SHORT.items() if name in there]
    return f"{kind}= all or names of {', '.join([*short, *there])}"


def _chosen(kind: str, asked: str, there: Collection[str]) -> list[str]:
    names = {each: SHORT.get(each, each) for each in asked.split()}
    if asked.split() == ["all"]:
        return list(there)
    if unknown := [each for each, name in names.items() if name not in there]:
        raise CiteError(f"{kind}={' '.join(unknown)}: no such name; expected {_known(kind, there)}")
    return list(names.values())


def _listed(value) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _with_head(made: str, title: str, asked: str) -> bytes:
    return (HEAD.format(title=title, asked=asked, needs=latex.NEEDS, key=KEY) + made).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("figure", "table"):
        parser.add_argument(f"--{option}", default="", help="names with spaces between, or all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "cite", help="the folder that they are written to")
    args = parser.parse_args()
    try:
        for folder in main(ROOT, args.out, args.figure, args.table):
            print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    except (CiteError, CheckpointError) as error:
        sys.exit(str(error))
