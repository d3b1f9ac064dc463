"""The pictures that the project's pages cite, each drawn from published rows."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from studylib.disk.files import write_json
from studylib.experiments import gpt_told, survey_told, vae_told
from studylib.experiments.frontier_marks import MARKS, Mark
from studylib.experiments.frontier_published import network_name
from studylib.experiments.published import Figures
from studylib.plots import controller, frontier, gpt, moo, screening, survey, sweep, vae
from studylib.results.style import Figure, plt, save_figure, style
from studylib.tree import table

PICTURES = {  # name → study, what draws it, key of a chapter and its tables; without a key: the nodes
    "accuracy_against_bytes_cifar10": ("cifar10", sweep.draw_front, "", "nodes"),
    "accuracy_against_bytes_digits": ("digits", sweep.draw_front, "", "nodes"),
    "narrower_networks_cifar10": ("cifar10", sweep.draw_control, "sweep", "control"),
    "narrower_networks_digits": ("digits", sweep.draw_control, "sweep", "control"),
    "effects_digits": ("digits", sweep.draw_effects, "sweep", "effects"),
    "ways_to_train_cifar10": ("cifar10", moo.draw_ways, "moo", "moo_front", "moo_sparsity"),
    "techniques_digits": ("digits", survey_told.drawn_by(survey.draw_techniques), "survey", "techniques"),
    "techniques_cifar10": ("cifar10-survey", survey_told.drawn_by(survey.draw_techniques), "survey", "techniques"),
    "text_digits": ("digits", gpt_told.drawn_by(gpt.draw_bits), "gpt", "combinations", "narrower", "ways"),
    "text_shakespeare": ("cifar10", gpt_told.drawn_by(gpt.draw_bits), "gpt", "combinations", "narrower", "ways"),
    "images_digits": ("digits", vae_told.drawn_by(vae.draw_bits), "vae", "combinations", "narrower"),
    "images_mnist": ("mnist", vae_told.drawn_by(vae.draw_bits), "vae", "combinations", "narrower"),
    "screening_growth_digits": ("digits", screening.draw_growth, "screening", "growth"),
    "structural_pruning_digits": ("digits", controller.draw_front, "controller", "networks"),
}
FILES = "files_beside_others"  # of every study on CIFAR-10, with the marks of others
INDEX = "index.json"  # in figures/cited/: picture → its rows and their commit
Source = tuple[str, str, list[str]]


def sources(there: Figures, name: str) -> list[Source]:
    """Where the rows of the picture ``name`` are published: study, key of a chapter ("" for its nodes), tables."""
    if name != FILES:
        study, _, key, *tables = PICTURES[name]
        return [(study, key, tables)]
    made = ((study, *each) for study in there.on_papers_data for each in there.with_files)
    return [(study, key, [each]) for study, key, each in made if len(there.rows(study, key, each))]


def rows(there: Figures, name: str) -> dict[str, pd.DataFrame]:
    """Table → the rows that the picture ``name`` draws, or nothing where not all of them are published.

    Of nodes they are the means over seeds (:func:`studylib.tree.table.summary`). The picture of small files also
    draws the table ``marks``: files that others have reported.
    """
    if name == FILES:
        if not sources(there, name):
            return {}
        files = there.files.dropna(subset="network").astype({"bits": int})
        pairs = zip(files["study"], files["network"], strict=True)
        files["network"] = [network_name(study, there.studies[study], network) for study, network in pairs]
        return {"files": files, "marks": pd.DataFrame(map(asdict, MARKS))}
    ((study, key, tables),) = sources(there, name)
    found = {each: there.rows(study, key, each) if key else there.nodes(study) for each in tables}
    if not all(map(len, found.values())):
        return {}
    return found if key else {each: table.summary(nodes) for each, nodes in found.items()}


def figure(name: str, drawn: dict[str, pd.DataFrame]) -> Figure:
    """The picture ``name`` of what :func:`rows` gives."""
    if name == FILES:
        return frontier.draw_files(drawn["files"], [Mark(**mark) for mark in drawn["marks"].to_dict("records")])
    return PICTURES[name][1](*drawn.values())


def draw(there: Figures) -> None:
    """Draws anew each picture whose rows are published, into figures/cited/; :data:`INDEX` names the rows."""
    index, folder = {}, there.folder / "cited"
    style()
    for name in (*PICTURES, FILES):
        if drawn := rows(there, name):
            _save(figure(name, drawn), folder / name)
            index[name] = [_source(there, *source) for source in sources(there, name)]
    write_json(folder / INDEX, index)


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path)
    plt.close(figure)


def _source(there: Figures, study: str, key: str, tables: list[str]) -> dict:
    chapter = there.chapter(study, key) if key else {}
    about = chapter["about"] if key else there.studies[study]
    where = {"study": study, "chapter": chapter.get("chapter", ""), "tables": tables}
    return where | {each: about.get("provenance", about).get(each, "") for each in ("git_commit", "date")}
