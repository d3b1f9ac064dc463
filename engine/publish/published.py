"""What figures/ holds, for the tables and pictures that are made of it."""

import functools
from pathlib import Path

import pandas as pd

from engine.settings import chapters
from studylib.coding import restore
from studylib.disk.files import read_json
from studylib.experiments.frontier_published import files
from studylib.results import claims, verdicts
from studylib.tree.published import frame
from studylib.tree.table import read_table

STUDIES = "studies.json"  # in figures/: study → data, seeds, teacher, commit, hardware, date, its nodes and chapters
NODES = "nodes.csv"  # in figures/<study>/: a row for each node and seed
NOTHING = {"about": {}, "rows": {}, "claims": []}  # of a chapter that is not published


class Figures:
    """The published studies in ``folder``; damaged tables of nodes are refused when they are first asked for."""

    def __init__(self, folder: Path):
        path, self.folder = folder / STUDIES, folder
        self.studies: dict[str, dict] = read_json(path) if path.exists() else {}
        by_data = {study: about["data"]["name"] for study, about in self.studies.items()}
        self.on_papers_data = [study for study, data in by_data.items() if data == claims.PAPER_DATA]
        self.models = restore.listing(folder / "models")

    def nodes(self, study: str, seeds: slice = slice(None)) -> pd.DataFrame:
        """A row per node and seed of a study, or of some of its seeds; none if not published."""
        path = self.folder / study / NODES
        found = read_table(path, "node", "seed") if path.exists() else pd.DataFrame(columns=["node", "seed"])
        return found[found["seed"].isin(self.studies.get(study, {}).get("seeds", [])[seeds])]

    def chapter(self, study: str, key: str) -> dict:
        """The file of a chapter, or :data:`NOTHING`."""
        file = self.folder / study / f"{chapters.declared()[key].name}.json"
        return read_json(file) if file.exists() else NOTHING

    def rows(self, study: str, key: str, table: str) -> pd.DataFrame:
        """A table of a chapter; no rows where it is not published."""
        return frame(self.chapter(study, key)["rows"].get(table, []))

    def measured(self, study: str, key: str) -> verdicts.Found:
        """Claim → what that chapter of a study measured."""
        return verdicts.from_json(self.chapter(study, key)["claims"])

    @functools.cached_property
    def files(self) -> pd.DataFrame:
        """Every file of a CIFAR-10 network: see :func:`studylib.experiments.frontier_published.files`."""
        tables = {key: chapter.files for key, chapter in chapters.declared().items() if chapter.files}
        points = {s: [self.rows(s, key, tables[key]) for key in tables] for s in self.on_papers_data}
        return files({s: self.nodes(s, slice(1)) for s in points}, points, self.models)
