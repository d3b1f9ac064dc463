"""The page of a run, to open from disk: its table, its chapters with their pictures, the explorer over it."""

import base64
import html
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from studylib.disk.files import read_json, write_files
from studylib.experiments import explorer, published, time_left
from studylib.experiments.frontier_marks import MARKS
from studylib.plots import captions
from studylib.plots import explorer as chart
from studylib.results import claims, tables
from studylib.tree import names, table
from studylib.tree.published import FILE

INDEX, EXPLORER, RENDERED = "index.html", "explorer.html", "notebook.html"
TEMPLATE = Path(captions.__file__).with_name("run_page.html")
OF_NODE = (names.METRICS, names.CODED, names.LOGITS)  # a node that has them all is there
LINE = 200  # characters of a log's last line, at most
FOLDED = """{% extends "basic/index.html.j2" %}
{% block input_group %}<details class="code"><summary>Code</summary>{{ super() }}</details>{% endblock %}"""


class OfRun(published.Figures):
    """A run as if it were published, for :func:`studylib.experiments.explorer.rows`; it has no named files."""

    def __init__(self, run: Path, nodes: pd.DataFrame, about: dict):
        self.folder, self.studies, self.models, self._nodes = run, {run.name: about}, {}, nodes
        self.with_files = [("frontier", "frontier")]

    def nodes(self, study: str, seeds: slice = slice(None)) -> pd.DataFrame:
        """A row per node and seed of the run."""
        return self._nodes

    def chapter(self, study: str, key: str) -> dict:
        """The file of a chapter, such as ``svd``; without rows where it was not run to its end."""
        file = next(self.folder.glob(f"chapters/[0-9][0-9]_{key}/{FILE}"), None)
        return read_json(file) if file else published.NOTHING


def attempt(run: Path, study: Mapping, profile: Mapping, notebooks: Sequence[Path], again: str, whole: bool) -> str:
    """:func:`write`; a sentence on the page, or on why there is none. Nothing that may be wrong with it is raised."""
    page = f"runs/{run.name}/{INDEX}"
    try:
        write(run, study, profile, notebooks, again, whole)
    except Exception as error:  # whatever a chapter has left there: the study is no worse for it
        return f"{page} was not written: {type(error).__name__}: {' '.join(str(error).split())}"
    return f"{page}: the table, chapters and pictures as one page; open it in a browser"


def write(run: Path, study: Mapping, profile: Mapping, notebooks: Sequence[Path], again: str, whole: bool) -> None:
    """Writes :data:`INDEX` into the folder ``run``; beside it the explorer and each chapter, which it links.

    Args:
        study: the ``seeds`` and ``stages`` that the last command was asked for.
        profile: those that its profile has.
        notebooks: of the chapters that belong to it.
        again: the command that makes all of the profile, for people.
        whole: whether the last command did all of its work.

    Raises:
        studylib.disk.files.CheckpointError, OSError, ValueError: a file of the run is damaged or cannot be read.
    """
    wanted = names.nodes(study["stages"])
    lacking = {seed: [node for node in wanted if not _there(run, seed, node)] for seed in study["seeds"]}
    rows, made = _rows(run, wanted, study["seeds"], lacking)
    about = _about(run, rows)
    written, chapters = {}, [_chapter(run, notebook) for notebook in notebooks]
    for chapter in chapters:
        if chapter["link"]:
            body = rendered(run / chapter["folder"] / "notebook.ipynb")
            page = filled(title=f"{chapter['title']}, run {run.name}", notebook=body, chapter=chapter)
            written[run / chapter["link"]] = page
    part = _part(run, study, profile)
    shown, why = _explorer(run, rows, about, made, again)
    written |= {run / EXPLORER: shown} if shown else {}
    values = {
        "title": f"Run {run.name}{', a part' if part else ''}",
        "where": tables.where_from(about),
        "part": part,
        "missing": [*_missing(run, lacking, wanted, made, chapters), *([] if whole else [_unfinished()])],
        "again": again,
        "took": _took(run),
        "table": _table(rows),
        "seeds": explorer.spans(rows["seed"].tolist()) if rows["seed"].nunique() > 1 else "",
        "pictures": list(_pictures(run, _cells(run / "sweep.ipynb"), "sweep")) if made else [],
        "explorer": EXPLORER if shown else "",
        "why": why,
        "chapters": chapters,
    }
    written[run / INDEX] = filled(**values)
    write_files({path: page.encode() for path, page in written.items()})
    if not shown:
        (run / EXPLORER).unlink(missing_ok=True)  # of another table


def filled(**values) -> str:
    """The page with ``values``: of a run, or where there is a ``notebook`` of that chapter."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render({"notebook": ""} | values)


def _there(run: Path, seed: int, node: str) -> bool:
    return all((run / f"seed{seed}" / node / name).is_file() for name in OF_NODE)


def _rows(run: Path, wanted: list[str], seeds: Sequence[int], lacking: dict[int, list[str]]) -> tuple:
    """A row for each node and seed on disk, and whether they are the whole table."""
    path = run / "sweep.csv"
    if path.exists() and not any(lacking.values()):
        rows = table.read_table(path, *table.COLUMNS)
        newest = max((run / f"seed{s}" / node / names.METRICS).stat().st_mtime for s in seeds for node in wanted)
        same = set(zip(rows["seed"], rows["node"], strict=True)) == {(s, node) for s in seeds for node in wanted}
        if same and newest <= path.stat().st_mtime:
            return rows, True
    there = {seed: [node for node in wanted if node not in lacking[seed]] for seed in seeds}
    parts = [table.read(run, found, [seed]) for seed, found in there.items() if names.TEACHER in found]
    return pd.concat([pd.DataFrame(columns=table.COLUMNS), *parts]) if not parts else pd.concat(parts), False


def _about(run: Path, rows: pd.DataFrame) -> dict:
    """Where the rows come from; of a run without its table, what its first node says."""
    if rows.empty:
        return {"profile": run.name}
    if (run / names.LATENCY).exists():
        return published.provenance(run, rows)
    first = read_json(run / f"seed{rows['seed'].iloc[0]}" / rows["node"].iloc[0] / names.METRICS)
    return {"profile": run.name, "seeds": sorted(set(rows["seed"])), "data": first["data"], **first["provenance"]}


def _part(run: Path, study: Mapping, profile: Mapping) -> str:
    """Which part of the profile was asked for, as a sentence; empty where all of it was."""
    nodes = names.nodes(study["stages"])
    asked = {(seed, node) for seed in study["seeds"] for node in nodes}
    whole = {(seed, node) for seed in profile["seeds"] for node in names.nodes(profile["stages"])}
    if whole <= asked:
        return ""
    seeds = f"seed{'s' * (len(study['seeds']) > 1)} {explorer.spans(study['seeds'])}"
    there = sum(_there(run, *each) for each in whole - asked)
    said = f"{len(whole & asked)} of the profile's {len(whole)} nodes: {', '.join(nodes)}; {seeds}."
    return said + (f" {there} of the others stand in this folder, from earlier commands." if there else "")


def _missing(
    run: Path, lacking: dict[int, list[str]], wanted: list[str], made: bool, chapters: list[dict]
) -> Iterator[str]:
    """What the run lacks, as sentences in HTML."""
    groups: dict[tuple, list[int]] = {}
    for seed, nodes in lacking.items():
        groups.setdefault(tuple(nodes), []).append(seed)
    for nodes, seeds in groups.items():
        if nodes:
            which = "all nodes" if len(nodes) == len(wanted) else ", ".join(f"<code>{node}</code>" for node in nodes)
            yield f"Of seed{'s' * (len(seeds) > 1)} {explorer.spans(seeds)}: {which}."
    for seed, nodes in lacking.items():
        yield from (said for node in nodes if (said := _log(run, f"seed{seed}/{node}")))
    if not made:
        yield "The table of all nodes. What stands below is read from the nodes that are there."
    for chapter in chapters:
        if not chapter["whole"]:
            part = " Its notebook, as far as it came, is linked below." if chapter["link"] else ""
            yield f"Chapter “{html.escape(chapter['title'])}”.{part}"
            yield from filter(None, [_log(run, chapter["folder"])])


def _unfinished() -> str:
    return "The last command did not finish. What is here may be of the settings before."


def _log(run: Path, folder: str) -> str:
    """The last line of the log of a job that left one."""
    path = run / folder / "log.txt"
    said = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    found = f'<a href="{folder}/log.txt">The log of {folder}</a> ends: <code>{html.escape(last[:LINE])}</code>'
    return found if last else ""


def _took(run: Path) -> str:
    """How long the last command took, in words; empty where that is not known."""
    if not (run / time_left.FILE).exists():
        return ""
    seconds = read_json(run / time_left.FILE).get("took")
    return time_left.in_words(seconds) if isinstance(seconds, int | float) else ""


def _table(rows: pd.DataFrame) -> dict:
    """The table that the command prints, smallest file first: its columns, and each node with its name in words."""
    if rows.empty:
        return {"columns": [], "rows": []}
    summary = table.summary(rows).sort_values("bytes_file", kind="stable")
    shown = tables.display_table(summary).to_dict("split")
    lines = [{"node": node, "label": tables.label(node), "cells": cells} for node, *cells in shown["data"]]
    return {"columns": shown["columns"][1:], "rows": lines}


def _explorer(run: Path, rows: pd.DataFrame, about: dict, made: bool, again: str) -> tuple[str, str]:
    """The explorer over the run as a page, or why there is none, in HTML."""
    if not made:
        return "", "It comes with the table of all nodes."
    found = explorer.rows(OfRun(run, rows, about))
    found["command"] = found["command"].str.rpartition(" && ")[2]  # its files are there
    try:
        return chart.page(found, MARKS, claims.PAPER_DATA, f"Explorer of run {run.name}", (INDEX, "the run")), ""
    except ImportError:
        then = f"then <code>{html.escape(again)}</code> puts it here"
        return "", f"It needs the extra <code>book</code>, 100 MB: <code>make explorer</code> installs it, {then}."


def _cells(path: Path) -> list[dict]:
    """The cells of a notebook, their sources as texts; none where it is not there."""
    cells = read_json(path)["cells"] if path.is_file() else []
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def _chapter(run: Path, notebook: Path) -> dict:
    """A chapter for the page: title and question, pictures, what it found, and its cells where it was run."""
    folder = f"chapters/{notebook.stem}"
    cells = _cells(run / folder / "notebook.ipynb")
    first = (cells or _cells(notebook))[0]["source"]
    title, question = re.search(r"^# (.*)", first), re.search(r"\*\*Question\.\*\* (.*)", first)
    return {
        "title": title[1] if title else notebook.stem,
        "question": _markdown(question[1]) if question else "",
        "folder": folder,
        "whole": (run / folder / FILE).is_file(),
        "pictures": list(_pictures(run / folder, cells, notebook.stem[3:])),
        "takeaway": _takeaway(cells),
        "link": f"{folder}/{RENDERED}" if cells else "",
    }


def _pictures(folder: Path, cells: list[dict], chapter: str) -> Iterator[dict]:
    """The figures that a chapter's cells have saved in ``folder``: caption, the picture as an address, whether wide."""
    for whose, name, caption in (call for cell in cells for call in captions.of_figures(cell["source"], chapter)):
        path = folder / "figures" / f"{name}.png"
        if whose == "chapter" and path.is_file():
            png = path.read_bytes()
            width, height = struct.unpack(">II", png[16:24])  # where a PNG has them
            address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            yield {"caption": caption, "address": address, "wide": width > 1.6 * height}


def _takeaway(cells: list[dict]) -> str:
    """What the first cell below the heading Takeaway says, as HTML."""
    at = next((i for i, cell in enumerate(cells) if cell["source"].startswith("## Takeaway")), len(cells))
    outputs = cells[at + 1].get("outputs", []) if at + 1 < len(cells) else []
    return "".join(_markdown("".join(out.get("data", {}).get("text/markdown", ""))) for out in outputs)


def _markdown(text: str) -> str:
    """Markdown as HTML; formulas as MathML where the extra ``book`` is there, else as they stand."""
    from nbconvert.filters.markdown_mistune import MarkdownWithMath

    return MarkdownWithMath(renderer=_renderer()(escape=True)).render(text)


def _renderer() -> type:
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return _formula(body, "block")

        def inline_math(self, body: str) -> str:
            return _formula(body, "inline")

    return Renderer


def _formula(body: str, display: str) -> str:
    try:
        from latex2mathml.converter import convert

        return convert(body, display=display)
    except Exception:  # the extra is not there, or it does not know that formula
        return f'<code class="formula {display}">{html.escape(body.strip())}</code>'


def rendered(path: Path) -> str:
    """A notebook as HTML without scripts: code is folded, a picture has its caption as alternative text."""
    import nbformat
    from jinja2 import DictLoader, pass_context
    from nbconvert import HTMLExporter

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source: str) -> str:
            return _markdown(source)

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        drawn = [out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        for out, (*_, caption) in zip(drawn, captions.of_figures(cell.source, path.parent.name[3:]), strict=False):
            out["metadata"] = {"image/png": {"alt": caption}}
    how = {"exclude_input_prompt": True, "exclude_output_prompt": True, "template_name": "basic"}
    loaders = {"extra_loaders": [DictLoader({"folded.html.j2": FOLDED})], "template_file": "folded.html.j2"}
    return Exporter(**how, **loaders).from_notebook_node(notebook)[0]
