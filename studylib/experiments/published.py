"""What figures/ holds: nodes and chapters of every study, small files, and where all of it is from."""

import functools
from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from studylib.coding import restore
from studylib.disk.files import read_json, write_bytes, write_json
from studylib.disk.models import SPEC
from studylib.experiments.frontier_published import file_name, files, teacher_of
from studylib.results import claims, verdicts
from studylib.tree import names, table
from studylib.tree.published import FILE, frame

STUDIES = "studies.json"  # in figures/: study → data, seeds, teacher, commit, hardware, date, its nodes and chapters
NODES = "nodes.csv"  # in figures/<study>/: a row for each node and seed
OF_MACHINE = ("git_commit", "hardware", "python", "threads")  # of a node's provenance
NOTHING = {"about": {}, "rows": {}, "claims": []}  # of a chapter that is not published
MODEL_BYTES = 200_000  # the most that a classifier in figures/models/ may have; of what generates a chapter has one


class Figures:
    """The published studies in ``folder``; damaged tables of nodes are refused when they are first asked for.

    Args:
        with_files: key of a chapter, and the name of its table with a row for each coded file.
    """

    def __init__(self, folder: Path, with_files: Iterable[tuple[str, str]] = (("frontier", "frontier"),)):
        path, self.folder, self.with_files = folder / STUDIES, folder, list(with_files)
        self.studies: dict[str, dict] = read_json(path) if path.exists() else {}
        by_data = {study: about["data"]["name"] for study, about in self.studies.items()}
        self.on_papers_data = [study for study, data in by_data.items() if data == claims.PAPER_DATA]
        self.models = restore.listing(folder / "models")

    def nodes(self, study: str, seeds: slice = slice(None)) -> pd.DataFrame:
        """A row per node and seed of a study, or of some of its seeds; none if not published."""
        path = self.folder / study / NODES
        found = table.read_table(path, "node", "seed") if path.exists() else pd.DataFrame(columns=["node", "seed"])
        return found[found["seed"].isin(self.studies.get(study, {}).get("seeds", [])[seeds])]

    def chapter(self, study: str, key: str) -> dict:
        """The file of a chapter, such as ``svd``, or :data:`NOTHING`."""
        file = next((self.folder / study).glob(f"[0-9][0-9]_{key}.json"), None)
        return read_json(file) if file else NOTHING

    def rows(self, study: str, key: str, name: str) -> pd.DataFrame:
        """A table of a chapter; no rows where it is not published."""
        return frame(self.chapter(study, key)["rows"].get(name, []))

    def measured(self, study: str, key: str) -> verdicts.Found:
        """Claim → what that chapter of a study measured."""
        return verdicts.from_json(self.chapter(study, key)["claims"])

    @functools.cached_property
    def files(self) -> pd.DataFrame:
        """Every file of a CIFAR-10 network: see :func:`studylib.experiments.frontier_published.files`."""
        points = {s: [self.rows(s, key, name) for key, name in self.with_files] for s in self.on_papers_data}
        return files({s: self.nodes(s, slice(1)) for s in points}, points, self.models)


def chapters_done(run: Path) -> list[Path]:
    """The folders of the chapters that a run has from their first cell to their last."""
    return [path.parent for path in sorted((run / "chapters").glob(f"*/{FILE}"))]


def provenance(run: Path, rows: pd.DataFrame) -> dict:
    """Where the rows come from: study, seeds, data, teacher, and what nodes say of commit, versions, hardware."""
    metrics = [read_json(run / f"seed{row.seed}" / row.node / names.METRICS) for row in rows.itertuples()]
    made, latency = [each["provenance"] for each in metrics], read_json(run / names.LATENCY)
    seeds, digests = sorted(set(rows["seed"].tolist())), [each.get("data_sha256", "") for each in made]
    return {
        "settings": read_json(run / "study.json").get("settings", {}) if (run / "study.json").exists() else {},
        "profile": run.name,
        "teacher": teacher_of(read_json(run / f"seed{seeds[0]}" / names.TEACHER / SPEC)["spec"]),
        "seeds": seeds,
        "data": {key: value for key, value in metrics[0]["data"].items() if key != "seed"},
        "data_sha256": dict(zip(rows["seed"].astype(str), digests, strict=True)),
        "date": max(each["date"] for each in made),
        **{key: sorted({each[key] for each in made}) for key in OF_MACHINE},
        "packages": made[0]["packages"],
        "nodes": table.order(rows),
        "chapters": [folder.name for folder in chapters_done(run)],
        "latency": {key: latency[key] for key in ("batch", "compiled", "threads", "seed", "device")},
    }


def put_files(there: Figures, study: str, points: Iterable[tuple[str, Path]], gone: Collection[str]) -> None:
    """Copies the coded files of ``points`` to figures/models/, of classifiers the small ones, and takes others away.

    Args:
        study: that made them.
        points: nodes, or points of a chapter, with their folders. What was published before keeps its name.
        gone: published files of the study that go, if ``points`` do not have them again.
    """
    folder = there.folder / "models"
    own = {name: of for name, of in there.models.items() if of.get("profile") == study}
    before = {of["node"]: (name, of) for name, of in own.items()}
    known = {name: of for name, of in there.models.items() if name not in own or name not in gone}
    for node, made in points:
        metrics = read_json(made / names.METRICS)
        score = next(key for key in metrics if key.startswith("test_"))  # its task's, such as test_accuracy
        if score == "test_accuracy" and metrics["bytes_file"] > MODEL_BYTES:
            continue
        name = file_name(read_json(made / SPEC)["spec"], node, metrics["data"]["name"])
        name += f"-{study.partition('-')[2] or study}" if f"{name}{restore.ENDING}" in known else ""
        name, told = before.get(node, (f"{name}{restore.ENDING}", {}))
        write_bytes(folder / name, (made / names.CODED).read_bytes())
        known[name] = {"profile": study, "node": node, "seed": metrics["seed"], "dataset": metrics["data"]["name"]}
        digest = {"data_sha256": metrics.get("provenance", {}).get("data_sha256"), "formerly": told.get("formerly")}
        known[name] |= {"bytes": metrics["bytes_file"], "sha256": metrics["file_sha256"], score: metrics[score]}
        known[name] |= {key: value for key, value in digest.items() if value}
    write_json(folder / restore.LIST, dict(sorted(known.items())))
    for name in there.models.keys() - known.keys():
        (folder / name).unlink(missing_ok=True)
