"""The pictures that pages cite: figures/cited/, each drawn from the published rows in its index."""

import pandas as pd

from engine.publish.published import Figures
from engine.settings import chapters
from studylib.disk.files import write_json
from studylib.experiments.cited import PICTURES, draw_files
from studylib.experiments.frontier_published import network_name
from studylib.results import style

INDEX = "index.json"
FILES = "files_beside_others"  # of every study on CIFAR-10


def draw(there: Figures) -> None:
    """Draws anew each picture whose rows are published; the index names the rows and their commit."""
    index = {}
    style.style()
    for name, (study, draw_rows, key, *tables) in PICTURES.items():
        rows = [there.rows(study, key, each) if key else there.nodes(study) for each in tables]
        if all(map(len, rows)):
            _save(there, name, draw_rows(*rows))
            index[name] = [_source(there, study, key, *tables)]
    of_files = {key: each.files for key, each in chapters.declared().items() if each.files}
    studies = [(s, key) for s in there.on_papers_data for key in of_files if len(there.rows(s, key, of_files[key]))]
    if studies:
        points = there.files.dropna(subset="network").astype({"bits": int})
        pairs = zip(points["study"], points["network"], strict=True)
        points["network"] = [network_name(study, there.studies[study], network) for study, network in pairs]
        _save(there, FILES, draw_files(points))
        index[FILES] = [_source(there, study, key, of_files[key]) for study, key in studies]
    write_json(there.folder / "cited" / INDEX, index)


def _source(there: Figures, study: str, key: str, *tables: str) -> dict:
    about = there.chapter(study, key)["about"] if key else there.studies[study]
    made = about.get("provenance", about)
    where = {"study": study, "chapter": chapters.declared()[key].name if key else "", "tables": tables}
    return where | {each: made.get(each, "") for each in ("git_commit", "date")}


def _save(there: Figures, name: str, figure: style.Figure) -> None:
    style.save_figure(figure, there.folder / "cited" / name, pd.DataFrame())
    (there.folder / "cited" / f"{name}.json").unlink()  # its rows are published already
    style.plt.close(figure)
