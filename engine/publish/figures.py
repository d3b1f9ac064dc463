"""Publishes a run into figures/: nodes, chapters, small files; draws what pages cite, and writes their tables.

Nothing is trained. Without a run of the study, pictures and tables are made anew of what is published.

python engine/publish/figures.py STUDY [--force] [--chapters "9"]
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd

from engine.publish import pages
from engine.run.machine import refusals
from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER, ROOT, ParameterError
from studylib.disk.files import CheckpointError, read_json, write_bytes, write_json
from studylib.experiments import agreement
from studylib.experiments.frontier_published import another_network
from studylib.experiments.published import NODES, STUDIES, Figures, chapters_done, provenance, put_files
from studylib.results import statistics
from studylib.tree import names, table
from studylib.tree.published import FILE, Published


def main(study: str, force: bool = False, chosen: str = "") -> None:
    run, there = ROOT / "runs" / study, Figures(ROOT / "figures")
    for each in there.studies:  # a damaged table is named before anything is written
        there.nodes(each)
    if chosen:
        publish_chapters(run, there, chosen)
    elif (run / "sweep.csv").exists():
        publish(run, there, force)
    elif study not in there.studies:
        profile, _, variant = study.partition("-")
        parameters.load(profile, variant=variant)  # says which name is misspelt
        sys.exit(f"{study}: neither run here nor published in figures/; {parameters.command(study)}")
    pages.write(ROOT, Figures(ROOT / "figures"))


def publish(run: Path, there: Figures, force: bool = False) -> None:
    """Puts a run in the place of what is published of its study, after all refusals."""
    study, folder = run.name, there.folder
    rows = table.read_table(run / "sweep.csv", *table.COLUMNS)
    about, before = provenance(run, rows), there.studies.get(study, {})
    if lost := [] if force else _lost(run, there, about):
        sys.exit(
            f"runs/{study} lacks {'; '.join(lost)}, which figures/{study}/ has: expected a run with all "
            "that is published; make figures with ARGS=--force publishes it all the same"
        )
    if not before and not force:
        sys.exit(f"figures/ has no study {study} yet; make figures with ARGS=--force publishes it as a new one")
    done = [Published(each, Path(FILE).stem).content for each in chapters_done(run)]  # whole, before one is written
    if loose := [commit for commit in about["git_commit"] if commit.endswith("+")]:
        print(f"note: made with changes that no commit has: {', '.join(loose)}", file=sys.stderr)
    if about["teacher"]["restored"]:  # its latency is published where it is from
        rows.loc[rows["node"] == names.TEACHER, "latency_ms"] = float("nan")
    points = [*_on_front(run, rows, about), *_points(run, chapters.declared())]
    put_files(there, study, points, [name for name in there.models if not _named_by(name)])
    write_bytes(folder / study / NODES, rows[table.COLUMNS].to_csv(index=False).encode())
    about |= {"formerly": before["formerly"]} if "formerly" in before else {}
    write_json(folder / STUDIES, dict(sorted((there.studies | {study: about}).items())))
    for chapter in done:
        _put(chapter, about, folder)
    print(f"figures/{study}/ made from runs/{study}/")


def _put(chapter: dict, about: dict, folder: Path) -> None:
    """Writes what is published of a chapter; where its rows are from stays as its run has said it."""
    own = {"profile": about["profile"], "other_network": another_network(about)}
    write_json(folder / about["profile"] / f"{chapter['chapter']}.json", chapter | {"about": own | chapter["about"]})


def publish_chapters(run: Path, there: Figures, chosen: str) -> None:
    """Adds the rows of the ``chosen`` chapters of a run to its published study, of which nothing else changes.

    Chapters that read nodes have to be of nodes with the settings and the data of those that are published.
    """
    study, told, (profile, _, variant) = run.name, run / "study.json", run.name.partition("-")
    keys, about = parameters.chapters(parameters.load(profile, variant=variant), chosen), there.studies.get(study)
    made = [run / "chapters" / chapters.declared()[key].name for key in keys]
    refused = [f"figures/ has no study {study} yet: expected one to add chapters to"] if about is None else []
    refused += [f"runs/{study} lacks {each.name}: make chapters runs it" for each in made if not (each / FILE).exists()]
    tables = [(there.chapter(study, key)["rows"], chapters.declared()[key].files) for key in keys]
    nodes = {row["name"] for rows, files in tables for row in rows.get(files, [])}
    before = [name for name, of in there.models.items() if of.get("profile") == study and of["node"] in nodes]
    refused += [f"profiles go on from {each}: it needs the whole run" for each in before if _named_by(each)]
    if any(each.reads or each.role != "chapter" for each in map(chapters.declared().get, keys)):  # others stand alone
        refused += agreement.differences(read_json(told) if told.exists() else {}, about or {})
    if refused:
        sys.exit(f"{refused[0]}; nothing was published")
    for chapter in [Published(each, Path(FILE).stem).content for each in made]:  # all are whole before one is written
        _put(chapter, about, there.folder)
    put_files(there, study, _points(run, keys), before)
    added = {"chapters": sorted({*about["chapters"], *(each.name for each in made)})}
    write_json(there.folder / STUDIES, there.studies | {study: about | added})
    print(f"figures/{study}/: chapters {', '.join(each.name for each in made)} made from runs/{study}/")


def _lost(run: Path, there: Figures, about: dict) -> list[str]:
    """What is published and not in a run, in words; of its files those that profiles go on from."""
    before, kinds = there.studies.get(run.name, {}), ("nodes", "seeds", "chapters")
    lost = {kind: [each for each in before.get(kind, []) if each not in about[kind]] for kind in kinds}
    metrics = [*run.glob(f"seed*/*/{names.METRICS}"), *run.glob(f"chapters/*/points/**/{names.METRICS}")]
    has = {read_json(path).get("file_sha256") for path in metrics}
    gone = [name for name, of in there.models.items() if of.get("profile") == run.name and of.get("sha256") not in has]
    said = [f"{kind} {', '.join(map(str, each))}" for kind, each in lost.items() if each]
    return said + [f"figures/models/{name} that {', '.join(who)} names" for name in gone if (who := _named_by(name))]


def _named_by(name: str) -> list[str]:
    """The profiles that go on from, or are taught by, the published file ``name``."""
    return [p.stem for p in sorted(FOLDER.glob("*.yaml")) if f"figures/models/{name}" in p.read_text(encoding="utf-8")]


def _on_front(run: Path, rows: pd.DataFrame, about: dict) -> Iterator[tuple[str, Path]]:
    """Node → folder, of all on the front of accuracy and bytes of the first seed.

    A node that only holds what is another study's published file is not published once more.
    """
    own = table.summary(rows)
    own = own[~own["node"].eq(names.TEACHER) | (not about["teacher"]["restored"])]
    for node in own["node"][statistics.pareto(own, "bytes_file", "test_accuracy")]:
        yield node, run / f"seed{rows['seed'].min()}" / node


def _points(run: Path, keys: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Point → folder, of those on the front of each chapter of ``keys`` that has files."""
    for chapter in [each for key in keys if (each := chapters.declared()[key]).files]:
        if (file := run / "chapters" / chapter.name / FILE).exists():
            made = pd.DataFrame(read_json(file)["rows"][chapter.files])
            gain = "test_accuracy" if "test_accuracy" in made else "bytes"  # without accuracies all are to be published
            for node in made["name"][statistics.pareto(made, "bytes", gain)]:
                yield node, file.parent / "points" / node


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", metavar="STUDY", help="a profile, or PROFILE-VARIANT")
    parser.add_argument("--force", action="store_true", help="publish a new study, or less than is published of one")
    parser.add_argument("--chapters", default="", type=str.strip, help="only these of a published study: 09, 4 5, …")
    args = parser.parse_args()
    with refusals(ROOT / "figures", "what was written before it stays"):
        try:
            main(args.study, args.force, args.chapters)
        except (CheckpointError, ParameterError) as error:
            sys.exit(str(error))


if __name__ == "__main__":
    command()
