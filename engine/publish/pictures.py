"""The pictures that pages cite: figures/cited/, each drawn from published rows that its index names."""

from pathlib import Path

import pandas as pd

from engine.publish.published import Figures
from engine.settings import chapters
from studylib.disk.files import write_json
from studylib.experiments.frontier_published import network_name
from studylib.plots import frontier, moo, sweep
from studylib.results import marks, style
from studylib.tree import table

INDEX = "index.json"


def draw_front(nodes: pd.DataFrame) -> style.Figure:
    return sweep.draw_front(table.summary(nodes))


PICTURES = {  # name → study, what draws it, key of a chapter and its tables; without a key: the nodes
    "accuracy_against_bytes_cifar10": ("cifar10", draw_front, "", "nodes"),
    "accuracy_against_bytes_digits": ("digits", draw_front, "", "nodes"),
    "narrower_networks_cifar10": ("cifar10", sweep.draw_control, "sweep", "control"),
    "narrower_networks_digits": ("digits", sweep.draw_control, "sweep", "control"),
    "effects_digits": ("digits", sweep.draw_effects, "sweep", "effects"),
    "ways_to_train_cifar10": ("cifar10", moo.draw_ways, "moo", "moo_front", "moo_sparsity"),
}
FILES = "files_beside_others"  # of every study on CIFAR-10


def draw(there: Figures) -> None:
    """Draws anew each picture whose rows are published; the index says which rows those are, and of which commit."""
    index = {}
    style.style()
    for name, (study, draw_rows, key, *tables) in PICTURES.items():
        rows = [there.rows(study, key, each) if key else there.nodes(study) for each in tables]
        if all(map(len, rows)):
            _save(there.folder / "cited" / name, draw_rows(*rows))
            index[name] = [_source(there, study, key, *tables)]
    of_files = {key: each.files for key, each in chapters.declared().items() if each.files}
    studies = [(s, key) for s in there.on_papers_data for key in of_files if len(there.rows(s, key, of_files[key]))]
    if studies:
        points = there.files.dropna(subset="network").astype({"bits": int})
        pairs = zip(points["study"], points["network"], strict=True)
        points["network"] = [network_name(study, there.studies[study], network) for study, network in pairs]
        _save(there.folder / "cited" / FILES, frontier.draw_files(points, marks.MARKS))
        index[FILES] = [_source(there, study, key, of_files[key]) for study, key in studies]
    write_json(there.folder / "cited" / INDEX, index)


def _source(there: Figures, study: str, key: str, *tables: str) -> dict:
    about = there.chapter(study, key)["about"] if key else there.studies[study]
    made = about.get("provenance", about)
    where = {"study": study, "chapter": chapters.declared()[key].name if key else "", "tables": tables}
    return where | {each: made.get(each, "") for each in ("git_commit", "date")}


def _save(path: Path, figure: style.Figure) -> None:
    style.save_figure(figure, path, pd.DataFrame())
    path.with_name(f"{path.name}.json").unlink()  # its rows are published already
    style.plt.close(figure)
