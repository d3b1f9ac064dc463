"""Publishes a run into figures/: nodes, chapters, small files; draws what pages cite, and writes their tables.

Nothing is trained. Without a run of the study, pictures and tables are made anew of what is published.

python engine/publish/figures.py STUDY [--replace]
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd

from engine.publish import pictures, readme
from engine.publish.published import NODES, STUDIES, Figures
from engine.run.machine import refusals
from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER, ROOT, ParameterError
from studylib.coding import restore
from studylib.disk.files import CheckpointError, read_json, write_bytes, write_json
from studylib.disk.models import SPEC
from studylib.experiments.frontier_published import another_network, file_name, teacher_of
from studylib.results import statistics
from studylib.tree import names, table
from studylib.tree.published import FILE, Published

MODEL_BYTES = 200_000  # the most that a file in figures/models/ may have
KINDS = ("nodes", "seeds", "chapters")  # of what a study has
OF_FILE = {"bytes": "bytes_file", "sha256": "file_sha256", "test_accuracy": "test_accuracy"}  # listed → in its metrics
OF_MACHINE = ("git_commit", "hardware", "python", "threads")


def main(study: str, replace: bool = False) -> None:
    run, there = ROOT / "runs" / study, Figures(ROOT / "figures")
    for each in there.studies:  # a damaged table is named before anything is written
        there.nodes(each)
    if (run / "sweep.csv").exists():
        publish(run, there, study, replace)
    elif study not in there.studies:
        profile, _, variant = study.partition("-")
        try:
            parameters.load(profile, "", "", variant)
            then = f"make study PROFILE={profile}" + (f" VARIANT={variant}" if variant else "")
        except ParameterError as error:
            then = error
        sys.exit(f"{study}: neither run here nor published in figures/; {then}")
    there = Figures(ROOT / "figures")
    pictures.draw(there)
    readme.write(ROOT, there)


def publish(run: Path, there: Figures, study: str, replace: bool) -> None:
    """Puts a run in the place of what is published of its study, after all refusals."""
    rows = table.read_table(run / "sweep.csv", *table.COLUMNS)
    about, before, folder = provenance(run, rows, study), there.studies.get(study, {}), there.folder
    if (lost := _lost(run, there, about)) and not replace:
        sys.exit(
            f"runs/{study} lacks {'; '.join(lost)}, which figures/{study}/ has: expected a run with all "
            "that is published; make figures with ARGS=--replace publishes it all the same"
        )
    done = chapters_done(run)
    for made in done:  # each is whole, before anything is written
        Published(made, Path(FILE).stem)
    if loose := [commit for commit in about["git_commit"] if commit.endswith("+")]:
        print(f"note: made with changes that no commit has: {', '.join(loose)}", file=sys.stderr)
    if about["teacher"]["restored"]:  # its latency is published where it is from
        rows.loc[rows["node"] == names.TEACHER, "latency_ms"] = float("nan")
    publish_models(run, there, rows, about)
    write_bytes(folder / study / NODES, rows[table.COLUMNS].to_csv(index=False).encode())
    about |= {"formerly": before["formerly"]} if "formerly" in before else {}
    write_json(folder / STUDIES, dict(sorted((there.studies | {study: about}).items())))
    for made in done:
        content = read_json(made / FILE)
        content["about"] = {"profile": study, "other_network": another_network(about), **content["about"]}
        write_json(folder / study / f"{content['chapter']}.json", content)
    print(f"figures/{study}/ made from runs/{study}/")


def chapters_done(run: Path) -> list[Path]:
    """The folders of the chapters that a run has from their first cell to their last."""
    return [path.parent for path in sorted((run / "chapters").glob(f"*/{FILE}"))]


def provenance(run: Path, rows: pd.DataFrame, study: str) -> dict:
    """Where the rows come from: study, seeds, data, teacher, and what nodes say of commit, versions, hardware."""
    metrics = [read_json(run / f"seed{row.seed}" / row.node / names.METRICS) for row in rows.itertuples()]
    made, latency = [each["provenance"] for each in metrics], read_json(run / names.LATENCY)
    seeds, digests = sorted(set(rows["seed"].tolist())), [each.get("data_sha256", "") for each in made]
    return {
        "settings": read_json(run / "study.json").get("settings", {}) if (run / "study.json").exists() else {},
        "profile": study,
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


def _lost(run: Path, there: Figures, about: dict) -> list[str]:
    """What is published and not in a run, in words; of its files those that profiles go on from."""
    study, before = about["profile"], there.studies.get(about["profile"], {})
    lost = {kind: [each for each in before.get(kind, []) if each not in about[kind]] for kind in KINDS}
    metrics = [*run.glob(f"seed*/*/{names.METRICS}"), *run.glob(f"chapters/*/points/*/{names.METRICS}")]
    has = {read_json(path).get("file_sha256") for path in metrics}
    gone = [name for name, of in there.models.items() if of.get("profile") == study and of.get("sha256") not in has]
    said = [f"{kind} {', '.join(map(str, each))}" for kind, each in lost.items() if each]
    return said + [f"figures/models/{name} that {', '.join(who)} names" for name in gone if (who := _named_by(name))]


def _named_by(name: str) -> list[str]:
    """The profiles that go on from, or are taught by, the published file ``name``."""
    profiles = sorted(FOLDER.glob("*.yaml"))
    return [path.stem for path in profiles if f"figures/models/{name}" in path.read_text(encoding="utf-8")]


def publish_models(run: Path, there: Figures, rows: pd.DataFrame, about: dict) -> None:
    """Copies the coded files on the front that are small enough, of the first seed, to figures/models/.

    Those that a profile names stay, on the front or not. A node that only holds what is another study's published
    file is not published once more. What was published before keeps its name.
    """
    summary, study, folder = table.summary(rows), about["profile"], there.folder / "models"
    before = {of["node"]: (name, of) for name, of in there.models.items() if of.get("profile") == study}
    gone = [name for name, _ in before.values() if not _named_by(name)]
    known = {name: of for name, of in there.models.items() if name not in gone}
    own = summary[~summary["node"].eq(names.TEACHER) | (not about["teacher"]["restored"])]
    best = own["node"][statistics.pareto(own, "bytes_file", "test_accuracy")]
    found = {node: run / f"seed{rows['seed'].min()}" / node for node in best}
    for chapter in [each for each in chapters.declared().values() if each.files]:
        if (file := run / "chapters" / chapter.name / FILE).exists():
            made = pd.DataFrame(read_json(file)["rows"][chapter.files])
            best = made["name"][statistics.pareto(made, "bytes", "test_accuracy")]
            found |= {node: file.parent / "points" / node for node in best}
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    for node, made in found.items():
        metrics = read_json(made / names.METRICS)
        if metrics["bytes_file"] > MODEL_BYTES:
            continue
        name = file_name(read_json(made / SPEC)["spec"], node, about["data"]["name"])
        name += f"-{study.partition('-')[2] or study}" if f"{name}{restore.ENDING}" in known else ""
        name, told = before.get(node, (f"{name}{restore.ENDING}", {}))
        write_bytes(folder / name, (made / names.CODED).read_bytes())
        known[name] = {"profile": study, "node": node, "seed": metrics["seed"], "dataset": metrics["data"]["name"]}
        digest = {"data_sha256": metrics.get("provenance", {}).get("data_sha256"), "formerly": told.get("formerly")}
        known[name] |= {key: metrics[measured] for key, measured in OF_FILE.items()}
        known[name] |= {key: value for key, value in digest.items() if value}
    write_json(folder / restore.LIST, dict(sorted(known.items())))


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", metavar="STUDY", help="a profile, or PROFILE-VARIANT")
    parser.add_argument("--replace", action="store_true", help="publish a run that has less than what is published")
    args = parser.parse_args()
    with refusals(ROOT / "figures", "what was written before it stays"):
        try:
            main(args.study, args.replace)
        except CheckpointError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    command()
