"""Publishes a run: its rows into figures/results.csv, its figures into figures/<profile>/, its table into README.md.

Nothing is trained. Without a run of the profile, the figures are redrawn from the rows that are published already.
A run that has less than what is published (nodes, seeds, chapters) is refused, unless it is to take its place.

python engine/figures.py PROFILE [--replace]
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from engine import naming, parameters, readme, verdicts
from engine.machine import refusals
from engine.parameters import ROOT
from studylib import claims, comparison, factorial, fronts, marks, plots, report, restore, store, sweep

RESULTS = ROOT / "figures" / verdicts.RESULTS_FILE
FRONTIER_TABLE = "frontier.csv"
MODEL_BYTES = 200_000  # the most that a file in figures/models/ may have


def main(profile: str, replace: bool = False) -> None:
    results = sweep.read_table(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["profile", *sweep.COLUMNS])
    run = ROOT / "runs" / profile
    about_file = ROOT / "figures" / profile / "about.json"
    if (run / "sweep.csv").exists():
        rows = sweep.read_table(run / "sweep.csv")
        if naming.teacher_kind(profile) == naming.RESTORED:  # its latency is published where it is from
            rows.loc[rows["node"] == sweep.ROOT, "latency_ms"] = float("nan")
        about = provenance(run, rows, profile)
        lost = [_lost(store.read_json(about_file), about)] if about_file.exists() else []
        lost = "; ".join(filter(None, [*lost, *_gone_on_from(run, profile)]))
        if lost and not replace:
            sys.exit(
                f"runs/{profile} lacks {lost}, which figures/{profile}/ has: expected a run with all that is "
                f"published; make figures PROFILE={profile} ARGS=--replace publishes it all the same"
            )
        if loose := [commit for commit in about["git_commit"] if commit.endswith("+")]:
            print(f"note: made with changes that no commit has: {', '.join(loose)}", file=sys.stderr)
        results = pd.concat([results[results["profile"] != profile], rows.assign(profile=profile)])
        results = results[["profile", *sweep.COLUMNS]].sort_values("profile", kind="stable")
        store.write_bytes(RESULTS, results.to_csv(index=False).encode())
        store.write_json(about_file, about)
        publish_models(run, rows, profile)
        source = run / "sweep.csv"
    else:
        rows, source = results[results["profile"] == profile].drop(columns="profile"), RESULTS
        if rows.empty:
            try:
                base, _, root = profile.partition("-")
                parameters.load(base, root=root)
            except parameters.ParameterError as error:
                sys.exit(f"{profile}: neither run here nor published in figures/results.csv; {error}")
            command = f"make study PROFILE={base}" + (f" ROOT={root}" if root else "")
            sys.exit(f"{profile}: neither run here nor published in figures/results.csv; {command}")
        about = store.read_json(about_file)
    report.style()
    summary = sweep.summary(rows)
    own = {"tree": plots.draw_tree, "front": fronts.draw_front}
    for name, draw in own.items() if len(summary) > 1 else ():  # one node is neither
        report.save_figure(draw(summary), ROOT / "figures" / profile / name, summary, about)
    done = [path.parent for path in sorted((run / "chapters").glob("*/notebook.ipynb")) if _done(path)]
    for drawn in [path for chapter in done for path in sorted(chapter.glob("figures/*.json"))]:
        if drawn.stem in own:
            continue
        target, content = ROOT / "figures" / profile / drawn.name, store.read_json(drawn)
        store.write_json(target, {**content, "about": {"profile": profile, **content["about"]}})
        for suffix in (".png", ".pdf"):
            if drawn.with_suffix(suffix).exists():  # a table has none
                store.write_bytes(target.with_suffix(suffix), drawn.with_suffix(suffix).read_bytes())
    draw_frontier(ROOT / "figures" / profile)
    draw_students(ROOT / "figures" / profile)
    draw_pruning(ROOT / "figures" / profile)
    draw_ways(ROOT / "figures" / profile)
    draw_comparisons(ROOT / "figures" / profile)
    if claimed := [row for chapter in done for row in claims_of(chapter, about["data"]["name"])]:
        store.write_json(ROOT / "figures" / profile / verdicts.CLAIMS_FILE, {"about": about, "rows": claimed})
    for path in (ROOT / "figures" / profile).glob("*.json"):
        name_seeds(path)
    name_chapters(ROOT / "figures" / profile)
    draw_files(ROOT / "figures")
    plain = results[results["profile"] == profile.partition("-")[0]]
    if "-" in profile and not plain.empty:
        report.save_table(ROOT / "figures" / profile / "beside", sweep.compare(plain, rows), about)
    print(f"figures/{profile}/ redrawn from {source.relative_to(ROOT)}")
    readme.write(summary, about)
    readme.date_citation()


def _lost(published: dict, about: dict) -> str:
    """What is published and not in a run, in words; empty: nothing."""
    kinds = ("nodes", "seeds", "chapters")
    lost = {kind: [str(each) for each in published[kind] if each not in about[kind]] for kind in kinds}
    return "; ".join(f"{kind} {', '.join(each)}" for kind, each in lost.items() if each)


def _named_by(name: str) -> list[str]:
    """The profiles that go on from, or are taught by, the published file ``name``."""
    return [
        path.stem
        for path in sorted(parameters.FOLDER.glob("*.yaml"))
        if f"figures/models/{name}" in path.read_text(encoding="utf-8")
    ]


def _gone_on_from(run: Path, profile: str) -> list[str]:
    """The published files of ``profile`` that others go on from and that ``run`` has not, in words."""
    known = restore.listing(ROOT / "figures" / "models")
    of_it = {name: about for name, about in known.items() if about.get("profile") == profile}
    metrics = [*run.glob(f"seed*/*/{sweep.METRICS}"), *run.glob(f"chapters/*/points/*/{sweep.METRICS}")]
    there = {store.read_json(path).get("file_sha256") for path in metrics}
    lost = {name: _named_by(name) for name, about in of_it.items() if about.get("sha256") not in there}
    return [f"figures/models/{name} that {', '.join(who)} names" for name, who in lost.items() if who]


def name_seeds(path: Path) -> None:
    """Says in a figure's or table's JSON which seeds its rows are of, where it does not: theirs, or the split's and on.

    A row that is of several says how many: ``seeds``; then it is said anew.
    """
    content = store.read_json(path)
    about = content.get("about", {})
    if "seed" not in about.get("data", {}):
        return
    counts = [row["seeds"] for row in content["rows"] if isinstance(row.get("seeds"), int | float)]
    first, many = about["data"]["seed"], int(max([1, *counts]))
    seeds = sorted({int(row["seed"]) for row in content["rows"] if "seed" in row}) or list(range(first, first + many))
    if about.get("seeds", []) == seeds or ("seeds" in about and many == 1):
        return
    store.write_json(path, {**content, "about": {**about, "seeds": seeds}})


def name_chapters(folder: Path) -> None:
    """Says of each published claim what the figures of the chapter that answers it say: commits, newest date, seeds."""
    if not (path := folder / verdicts.CLAIMS_FILE).exists():
        return
    content, newest, seeds = store.read_json(path), {}, set()
    for row in content["rows"]:
        number = row["chapter"]
        chapter = next(file.stem for file in parameters.notebooks().values() if file.stem.startswith(number))
        abouts = [store.read_json(file)["about"] for file in verdicts.drawn_by(chapter, folder)]
        abouts = [about for about in abouts if "provenance" in about]
        if not abouts:
            continue
        newest = max([*filter(None, [newest]), *abouts], key=lambda about: about["provenance"]["date"])
        last = max(abouts, key=lambda about: about["provenance"]["date"])["provenance"]
        of = sorted({seed for about in abouts for seed in about["seeds"]})
        commits = sorted({about["provenance"]["git_commit"] for about in abouts})
        row |= {"git_commit": commits, "date": last["date"], "seeds": of}
        seeds |= set(of)
    if newest:
        content["about"] = {**newest, "seeds": sorted(seeds)}
    store.write_json(path, content)


def publish_models(run: Path, rows: pd.DataFrame, profile: str) -> None:
    """Copies the coded files on the front that are small enough, of the first seed, to figures/models/.

    Those that a profile names stay, on the front or not. A node that only holds what is another profile's published
    file is not published once more.
    """
    folder, summary, seed = ROOT / "figures" / "models", sweep.summary(rows), rows["seed"].min()
    known = restore.listing(folder)
    mine = [name for name, about in known.items() if about.get("profile") == profile]
    for name in [name for name in mine if not _named_by(name)]:
        (folder / name).unlink(missing_ok=True)
        del known[name]
    own = summary[~summary["node"].eq(sweep.ROOT) | (naming.teacher_kind(profile) != naming.RESTORED)]
    for node in own.loc[factorial.pareto(own, "bytes_file", "test_accuracy"), "node"]:
        _publish(run / f"seed{seed}" / node, f"{profile}-{node}.slnc", {"profile": profile, "node": node}, known)
    points = run / "chapters" / parameters.notebooks()[parameters.FRONTIER].stem
    if (points / FRONTIER_TABLE).exists():
        made = sweep.read_table(points / FRONTIER_TABLE)
        for name in made.loc[factorial.pareto(made, "bytes", "test_accuracy"), "name"]:
            _publish(points / "points" / name, f"{profile}-{name}.slnc", {"profile": profile, "node": name}, known)
    store.write_json(folder / restore.LIST, dict(sorted(known.items())))


def _publish(made: Path, name: str, about: dict, known: dict) -> None:
    """Copies one coded file, unless it is too large, and notes in ``known`` what it is."""
    metrics = store.read_json(made / sweep.METRICS)
    if metrics["bytes_file"] > MODEL_BYTES:
        return
    store.write_bytes(ROOT / "figures" / "models" / name, (made / sweep.CODED).read_bytes())
    about |= {"seed": metrics["seed"], "dataset": metrics["data"]["name"], "bytes": metrics["bytes_file"]}
    known[name] = about | {"sha256": metrics["file_sha256"], "test_accuracy": metrics["test_accuracy"]}
    if digest := metrics.get("provenance", {}).get("data_sha256"):
        known[name]["data_sha256"] = digest


def provenance(run: Path, rows: pd.DataFrame, profile: str) -> dict:
    """Where the rows come from: profile, seeds, data, and what every node says of commit, versions, hardware."""
    files = [run / f"seed{row.seed}" / row.node / "metrics.json" for row in rows.itertuples()]
    metrics = [store.read_json(path) for path in files]
    made = [m["provenance"] for m in metrics]
    latency = store.read_json(run / "latency.json")
    told = store.read_json(run / "study.json") if (run / "study.json").exists() else {}
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
        "nodes": sweep.order(rows),
        "chapters": sorted(path.parent.name for path in (run / "chapters").glob("*/notebook.ipynb") if _done(path)),
        "latency": {key: latency[key] for key in ("batch", "compiled", "threads", "seed", "device")},
    }


def claims_of(chapter: Path, dataset: str) -> list[dict]:
    """The last table of an executed chapter: rows of chapter, paper says, where, we measured, verdict, dataset."""
    cells = store.read_json(chapter / "notebook.ipynb")["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    return [{"chapter": chapter.name[:2], **row, "dataset": dataset} for text in texts for row in claims.rows(text)]


def draw_frontier(folder: Path) -> None:
    """The figure of chapter 8, and its table of marks, from its published rows, if there are any."""
    if not (file := folder / "frontier.json").exists():
        return
    content = store.read_json(file)
    points, about = pd.DataFrame(content["rows"]), content["about"]
    stars = marks.MARKS if about["data"]["name"] == claims.PAPER_DATA else ()
    report.save_figure(fronts.draw_frontier(points, stars)[0], file.with_suffix(""), points, about)
    if beside := marks.against_marks(points.to_dict("records"), about["data"]["name"]):
        report.save_table(folder / "marks", pd.DataFrame(beside), about)


def draw_students(folder: Path) -> None:
    """The figure of chapter 2 along the trainings, from its published rows."""
    if not (file := folder / "with_and_without_teacher.json").exists():
        return
    content = store.read_json(file)
    curves = pd.DataFrame(content["rows"])
    report.save_figure(plots.draw_students(curves), file.with_suffix(""), curves, content["about"])


def draw_pruning(folder: Path) -> None:
    """The figure of chapter 3 against the weights that remain, from its published rows."""
    file, rounds = folder / "accuracy_against_sparsity.json", folder / "accuracy_by_round.json"
    if not (file.exists() and rounds.exists()):
        return
    content = store.read_json(file)
    parent = store.read_json(rounds)["rows"][0]["after"]
    rows = pd.DataFrame(content["rows"])
    report.save_figure(plots.draw_pruning(rows, parent), file.with_suffix(""), rows, content["about"])


def draw_ways(folder: Path) -> None:
    """The figures of chapter 6 against the weights that remain and against bytes, from the rows of the former."""
    if not (file := folder / "moo_sparsity.json").exists():
        return
    content = store.read_json(file)
    rows = pd.DataFrame(content["rows"])
    ways = list(rows["way"].unique())
    figure = fronts.draw_ways_by_sparsity(rows, ways, comparison.STAGES)
    report.save_figure(figure, file.with_suffix(""), rows, content["about"])
    figure, small = fronts.draw_ways(rows[rows["stage"] == comparison.STAGES[1]], ways)
    report.save_figure(figure, folder / "moo_front", small, content["about"])


def draw_comparisons(folder: Path) -> None:
    """The figures of chapter 7 from their published rows: beside narrower dense networks, and effects."""
    if (file := folder / "control.json").exists():
        content = store.read_json(file)
        rows = _with_numbers(content["rows"], {"node", "kind"})
        made = rows["kind"] == "combination"
        figure, _ = fronts.draw_control(rows[made], rows[~made])
        report.save_figure(figure, file.with_suffix(""), rows, content["about"])
    if (file := folder / "effects.json").exists():
        content = store.read_json(file)
        effects = _with_numbers(content["rows"], {"effect", "measure", "verdict"})
        report.save_figure(plots.draw_effects(effects), file.with_suffix(""), effects, content["about"])


def _with_numbers(rows: list[dict], words: set[str]) -> pd.DataFrame:
    """Rows from JSON, in which NaN is null; every column but ``words`` is of floats."""
    found = pd.DataFrame(rows)
    return found.astype({name: float for name in found if name not in words})


def draw_files(folder: Path) -> None:
    """The points of chapter 8 of all published CIFAR-10 profiles beside what others have reported, in one figure."""
    every = readme.files(folder)
    if "bits" not in every:  # chapter 8 is published of none
        return
    points = every.dropna(subset="network").astype({"bits": int})
    if points["profile"].nunique() > 1:
        named = [naming.network_name(*pair) for pair in zip(points["profile"], points["network"], strict=True)]
        points = points.assign(network=named)
    about = {name: store.read_json(folder / name / "frontier.json")["about"] for name in points["profile"].unique()}
    report.save_figure(fronts.draw_frontier(points, marks.MARKS)[0], folder / "files", points, about)


def _done(executed: Path) -> bool:
    """Whether every code cell of an executed notebook ran, none with an error."""
    cells = [cell for cell in store.read_json(executed)["cells"] if cell["cell_type"] == "code"]
    return all(
        cell["execution_count"] and not any(output["output_type"] == "error" for output in cell["outputs"])
        for cell in cells
    )


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--replace", action="store_true", help="publish a run that has less than what is published")
    args = parser.parse_args()
    with refusals(ROOT / "figures", "what was written before it stays"):
        try:
            main(args.profile, args.replace)
        except store.CheckpointError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    command()
