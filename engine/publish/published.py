"""What figures/ holds, for the tables and pictures that are made of it."""

import functools
from pathlib import Path

import pandas as pd

from engine.settings import chapters
from studylib.coding import restore
from studylib.disk.files import read_json
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
        self.on_papers_data = {
            s: about for s, about in self.studies.items() if about["data"]["name"] == claims.PAPER_DATA
        }
        self.models = restore.listing(folder / "models")

    def nodes(self, study: str, seeds: slice = slice(None)) -> pd.DataFrame:
        """A row for each node and seed of a study, or for some of its seeds; no rows where it is not published."""
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
        """Every file of a CIFAR-10 network: the first seed's nodes, and those that chapters declare.

        Rows of study, name (in figures/models/, or study/node of a file that is not there), node, network, bytes,
        val_accuracy, test_accuracy (0…1); of points also bits, sparsity, val_accuracy_pruned.
        """
        names = {
            (each.get("profile"), each.get("node")): name.removesuffix(restore.ENDING)
            for name, each in self.models.items()
        }
        parts = [pd.DataFrame(columns=["study", "node", "network", "bytes", "val_accuracy", "test_accuracy"])]
        for study in self.on_papers_data:
            nodes = self.nodes(study, slice(1)).rename(columns={"bytes_file": "bytes"})
            points = [self.rows(study, key, each.files) for key, each in chapters.declared().items()]
            points = [rows.rename(columns={"name": "node"}) for rows in points if len(rows)]
            own = [nodes[["node", "val_accuracy", "test_accuracy", "bytes"]], *points]
            parts += [rows.assign(study=study) for rows in own]
        every = pd.concat(parts[1:] or parts, ignore_index=True)
        pairs = zip(every["study"], every["node"], strict=True)
        return every.assign(name=[names.get(pair, "/".join(pair)) for pair in pairs])
