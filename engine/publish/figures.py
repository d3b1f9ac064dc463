"""Publishes a run: nodes into figures/results.csv, chapters into figures/<profile>/, tables into README.md.

Nothing is trained. Without a run of the profile, its chapters are shown once more from their published rows, and
their pictures drawn anew. A run that has less than what is published is refused, unless it is to take its place.

python engine/publish/figures.py PROFILE [--replace]
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd

from engine.publish import naming, readme, verdicts
from engine.run.machine import refusals
from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER, ROOT, ParameterError
from studylib.coding import restore
from studylib.disk.files import CheckpointError, read_json, write_bytes, write_json
from studylib.plots import frontier as files_plot
from studylib.plots import sweep as sweep_plots
from studylib.results import marks, statistics, style, tables
from studylib.tree import names, table
from studylib.tree.published import FILE, Published

RESULTS = ROOT / "figures" / verdicts.RESULTS_FILE
MODEL_BYTES = 200_000  # the most that a file in figures/models/ may have


def main(profile: str, replace: bool = False) -> None:
    results = table.read_table(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["profile", *table.COLUMNS])
    run, target = ROOT / "runs" / profile, ROOT / "figures" / profile
    about_file = target / "about.json"
    if (run / "sweep.csv").exists():
        rows = table.read_table(run / "sweep.csv", *table.COLUMNS)
        if naming.teacher_kind(profile) == naming.RESTORED:  # its latency is published where it is from
            rows.loc[rows["node"] == names.TEACHER, "latency_ms"] = float("nan")
        about = provenance(run, rows, profile)
        lost = [_lost(read_json(about_file), about)] if about_file.exists() else []
        lost = "; ".join(filter(None, [*lost, *_gone_on_from(run, profile)]))
        if lost and not replace:
            sys.exit(
                f"runs/{profile} lacks {lost}, which figures/{profile}/ has: expected a run with all that is "
                f"published; make figures PROFILE={profile} ARGS=--replace publishes it all the same"
            )
        for folder in chapters_done(run):  # each is whole, before anything is written
            Published(folder, Path(FILE).stem)
        if loose := [commit for commit in about["git_commit"] if commit.endswith("+")]:
            print(f"note: made with changes that no commit has: {', '.join(loose)}", file=sys.stderr)
        results = pd.concat([results[results["profile"] != profile], rows.assign(profile=profile)])
        results = results[["profile", *table.COLUMNS]].sort_values("profile", kind="stable")
        write_bytes(RESULTS, results.to_csv(index=False).encode())
        write_json(about_file, about)
        publish_models(run, rows, profile)
        publish_pictures(run, target)
        for folder in chapters_done(run):
            publish_chapter(folder, target, profile)
        source = run / "sweep.csv"
    else:
        rows, source = results[results["profile"] == profile].drop(columns="profile"), RESULTS
        if rows.empty:
            base, _, root = profile.partition("-")
            try:
                parameters.load(base, root=root)
            except ParameterError as error:
                sys.exit(f"{profile}: neither run here nor published in figures/results.csv; {error}")
            command = f"make study PROFILE={base}" + (f" ROOT={root}" if root else "")
            sys.exit(f"{profile}: neither run here nor published in figures/results.csv; {command}")
        about = read_json(about_file)
        draw_nodes(table.summary(rows), target, about)
        for key in chapters.declared():
            redraw(key, target)
    summary = table.summary(rows)
    draw_files(ROOT / "figures")
    plain = results[results["profile"] == profile.partition("-")[0]]
    if "-" in profile and not plain.empty:
        tables.save_table(target / "beside", table.compare(plain, rows), about)
    print(f"figures/{profile}/ made from {source.relative_to(ROOT)}")
    readme.write(summary, about)
    readme.date_citation()


def chapters_done(run: Path) -> list[Path]:
    """The folders of the chapters that a run has from their first cell to their last."""
    return [path.parent for path in sorted((run / "chapters").glob(f"*/{FILE}"))]


def publish_chapter(folder: Path, target: Path, profile: str) -> None:
    """Rows, claims and settings of a chapter as one file, and the pictures that it has drawn of them."""
    content = read_json(folder / FILE)
    content["about"] = {"profile": profile, "other_network": naming.another_network(profile), **content["about"]}
    write_json(target / f"{content['chapter']}.json", content)
    publish_pictures(folder, target)


def publish_pictures(folder: Path, target: Path) -> None:
    for picture in sorted([*folder.glob("figures/*.png"), *folder.glob("figures/*.pdf")]):
        write_bytes(target / picture.name, picture.read_bytes())


def draw_nodes(summary: pd.DataFrame, target: Path, about: dict) -> None:
    """The tree and the front of a study's nodes, which are published whether its chapters are or not."""
    style.style()
    with tempfile.TemporaryDirectory() as folder:
        own = {"tree": sweep_plots.draw_tree, "front": sweep_plots.draw_front}
        for name, draw in own.items() if len(summary) > 1 else ():  # one node is neither
            style.save_figure(draw(summary), Path(folder) / "figures" / name, summary, about)
        publish_pictures(Path(folder), target)


def redraw(key: str, target: Path) -> None:
    """Shows a published chapter once more; what pictures it draws take the place of those that were there.

    Where its rows are not all there, the pictures of those that are there are drawn, and that is said.
    """
    from engine.run import execute

    chapter = chapters.declared()[key]
    if not (target / f"{chapter.name}.json").exists():
        return
    made = Published(target, chapter.name)
    with tempfile.TemporaryDirectory() as folder:
        given = made_with(key, made, target.name) | {"published": str(target), "out": folder}
        executed = Path(folder) / "notebook.ipynb"
        with contextlib.suppress(execute.PapermillExecutionError):
            execute.execute(chapter.notebook, executed, given, go_on=True)
        if wrong := execute.failed(executed):
            drawn = ", ".join(sorted(path.stem for path in Path(folder).glob("figures/*.png"))) or "nothing"
            print(f"{chapter.name}: drawn in part ({drawn}): {wrong[0]}")
        publish_pictures(Path(folder), target)


def made_with(key: str, made: Published, profile: str) -> dict:
    """The parameters of a published chapter: as its file has them or, where it does not say, as the profile has now."""
    known, (base, _, root) = parameters.types_of(chapters.declared()[key].notebook), profile.partition("-")
    given = {"profile": profile, "seeds": made.about.get("seeds", [])}
    if "name" in (data := made.about.get("data", {})):
        given["study"] = {"dataset": data["name"], "seed": data.get("seed", 0)}
    with contextlib.suppress(ParameterError):  # no profile any more
        sections = parameters.load(base, root=root)
        given |= parameters.complete(key, sections) | {"stages": sections["study"]["stages"]}
    for name, record in made.content["settings"].items():  # of no such parameter: several, as one record
        given |= {name: record} if name in known else record
    return {name: value for name, value in given.items() if name in known}


def _lost(published: dict, about: dict) -> str:
    """What is published and not in a run, in words; empty: nothing."""
    kinds = ("nodes", "seeds", "chapters")
    lost = {kind: [str(each) for each in published[kind] if each not in about[kind]] for kind in kinds}
    return "; ".join(f"{kind} {', '.join(each)}" for kind, each in lost.items() if each)


def _named_by(name: str) -> list[str]:
    """The profiles that go on from, or are taught by, the published file ``name``."""
    return [
        path.stem
        for path in sorted(FOLDER.glob("*.yaml"))
        if f"figures/models/{name}" in path.read_text(encoding="utf-8")
    ]


def _gone_on_from(run: Path, profile: str) -> list[str]:
    """The published files of ``profile`` that others go on from and that ``run`` has not, in words."""
    known = restore.listing(ROOT / "figures" / "models")
    of_it = {name: about for name, about in known.items() if about.get("profile") == profile}
    metrics = [*run.glob(f"seed*/*/{names.METRICS}"), *run.glob(f"chapters/*/points/*/{names.METRICS}")]
    there = {read_json(path).get("file_sha256") for path in metrics}
    lost = {name: _named_by(name) for name, about in of_it.items() if about.get("sha256") not in there}
    return [f"figures/models/{name} that {', '.join(who)} names" for name, who in lost.items() if who]


def publish_models(run: Path, rows: pd.DataFrame, profile: str) -> None:
    """Copies the coded files on the front that are small enough, of the first seed, to figures/models/.

    Those that a profile names stay, on the front or not. A node that only holds what is another profile's published
    file is not published once more.
    """
    folder, summary, seed = ROOT / "figures" / "models", table.summary(rows), rows["seed"].min()
    known = restore.listing(folder)
    mine = [name for name, about in known.items() if about.get("profile") == profile]
    for name in [name for name in mine if not _named_by(name)]:
        (folder / name).unlink(missing_ok=True)
        del known[name]
    own = summary[~summary["node"].eq(names.TEACHER) | (naming.teacher_kind(profile) != naming.RESTORED)]
    for node in own.loc[statistics.pareto(own, "bytes_file", "test_accuracy"), "node"]:
        _publish(run / f"seed{seed}" / node, f"{profile}-{node}.slnc", {"profile": profile, "node": node}, known)
    for chapter in chapters.declared().values():
        points = run / "chapters" / chapter.name
        if chapter.files and (points / FILE).exists():
            made = pd.DataFrame(read_json(points / FILE)["rows"][chapter.files])
            for name in made.loc[statistics.pareto(made, "bytes", "test_accuracy"), "name"]:
                _publish(points / "points" / name, f"{profile}-{name}.slnc", {"profile": profile, "node": name}, known)
    write_json(folder / restore.LIST, dict(sorted(known.items())))


def _publish(made: Path, name: str, about: dict, known: dict) -> None:
    """Copies one coded file, unless it is too large, and notes in ``known`` what it is."""
    metrics = read_json(made / names.METRICS)
    if metrics["bytes_file"] > MODEL_BYTES:
        return
    write_bytes(ROOT / "figures" / "models" / name, (made / names.CODED).read_bytes())
    about |= {"seed": metrics["seed"], "dataset": metrics["data"]["name"], "bytes": metrics["bytes_file"]}
    known[name] = about | {"sha256": metrics["file_sha256"], "test_accuracy": metrics["test_accuracy"]}
    if digest := metrics.get("provenance", {}).get("data_sha256"):
        known[name]["data_sha256"] = digest


def provenance(run: Path, rows: pd.DataFrame, profile: str) -> dict:
    """Where the rows come from: profile, seeds, data, and what every node says of commit, versions, hardware."""
    files = [run / f"seed{row.seed}" / row.node / "metrics.json" for row in rows.itertuples()]
    metrics = [read_json(path) for path in files]
    made = [m["provenance"] for m in metrics]
    latency = read_json(run / "latency.json")
    told = read_json(run / "study.json") if (run / "study.json").exists() else {}
    return {
        "settings": told.get("settings", {}),
        "profile": profile,
        "seeds": sorted(int(seed) for seed in rows["seed"].unique()),
        "data": {key: value for key, value in metrics[0]["data"].items() if key != "seed"},
        "data_sha256": {
            str(seed): m["provenance"].get("data_sha256", "") for seed, m in zip(rows["seed"], metrics, strict=True)
        },
        "git_commit": sorted({s["git_commit"] for s in made}),
        "date": max(s["date"] for s in made),
        "hardware": sorted({s["hardware"] for s in made}),
        "python": sorted({s["python"] for s in made}),
        "threads": sorted({s["threads"] for s in made}),
        "packages": made[0]["packages"],
        "nodes": table.order(rows),
        "chapters": [folder.name for folder in chapters_done(run)],
        "latency": {key: latency[key] for key in ("batch", "compiled", "threads", "seed", "device")},
    }


def draw_files(folder: Path) -> None:
    """The files of chapters of all published CIFAR-10 studies beside what others have reported, in one figure."""
    every = readme.files(folder)
    if "bits" not in every:  # no such chapter is published of any
        return
    points = every.dropna(subset="network").astype({"bits": int})
    if points["profile"].nunique() > 1:
        named = [naming.network_name(*pair) for pair in zip(points["profile"], points["network"], strict=True)]
        points = points.assign(network=named)
    style.style()
    made = [chapter.name for chapter in chapters.declared().values() if chapter.files]
    about = {
        name: Published(folder / name, chapter).about
        for name in points["profile"].unique()
        for chapter in made
        if (folder / name / f"{chapter}.json").exists()
    }
    style.save_figure(files_plot.draw_files(points, marks.MARKS), folder / "files", points, about)


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--replace", action="store_true", help="publish a run that has less than what is published")
    args = parser.parse_args()
    with refusals(ROOT / "figures", "what was written before it stays"):
        try:
            main(args.profile, args.replace)
        except CheckpointError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    command()
