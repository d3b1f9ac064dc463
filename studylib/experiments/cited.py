"""The pictures that the project's pages cite, each drawn from published rows."""

from pathlib import Path

import pandas as pd

from studylib.disk.files import write_json
from studylib.experiments.frontier_marks import MARKS
from studylib.experiments.frontier_published import network_name
from studylib.experiments.published import Figures
from studylib.plots import frontier, moo, sweep
from studylib.results.style import Figure, plt, save_figure, style
from studylib.tree import table


def draw_front(nodes: pd.DataFrame) -> Figure:
    """The front of a study's nodes: rows of node, seed and :data:`studylib.tree.table.COLUMNS`."""
    return sweep.draw_front(table.summary(nodes))


def draw_files(points: pd.DataFrame) -> Figure:
    """The small files of all studies beside those of others."""
    return frontier.draw_files(points, MARKS)


PICTURES = {  # name → study, what draws it, key of a chapter and its tables; without a key: the nodes
    "accuracy_against_bytes_cifar10": ("cifar10", draw_front, "", "nodes"),
    "accuracy_against_bytes_digits": ("digits", draw_front, "", "nodes"),
    "narrower_networks_cifar10": ("cifar10", sweep.draw_control, "sweep", "control"),
    "narrower_networks_digits": ("digits", sweep.draw_control, "sweep", "control"),
    "effects_digits": ("digits", sweep.draw_effects, "sweep", "effects"),
    "ways_to_train_cifar10": ("cifar10", moo.draw_ways, "moo", "moo_front", "moo_sparsity"),
}
FILES = "files_beside_others"  # of every study on CIFAR-10, by draw_files
INDEX = "index.json"  # in figures/cited/: picture → its rows and their commit


def draw(there: Figures) -> None:
    """Draws anew each picture whose rows are published, into figures/cited/; :data:`INDEX` names the rows."""
    index, folder = {}, there.folder / "cited"
    style()
    for name, (study, draw_rows, key, *tables) in PICTURES.items():
        rows = [there.rows(study, key, each) if key else there.nodes(study) for each in tables]
        if all(map(len, rows)):
            _save(draw_rows(*rows), folder / name)
            index[name] = [_source(there, study, key, tables)]
    made = [(s, *each) for s in there.on_papers_data for each in there.with_files if len(there.rows(s, *each))]
    if made:
        rows = there.files.dropna(subset="network").astype({"bits": int})
        pairs = zip(rows["study"], rows["network"], strict=True)
        rows["network"] = [network_name(study, there.studies[study], network) for study, network in pairs]
        _save(draw_files(rows), folder / FILES)
        index[FILES] = [_source(there, study, key, [each]) for study, key, each in made]
    write_json(folder / INDEX, index)


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path)
    plt.close(figure)


def _source(there: Figures, study: str, key: str, tables: list[str]) -> dict:
    chapter = there.chapter(study, key) if key else {}
    about = chapter["about"] if key else there.studies[study]
    where = {"study": study, "chapter": chapter.get("chapter", ""), "tables": tables}
    return where | {each: about.get("provenance", about).get(each, "") for each in ("git_commit", "date")}
