"""Publishes a run: its rows into figures/results.csv, its figures into figures/<profile>/, its table into README.md.

Nothing is trained. Without a run of the profile, the figures are redrawn from the rows that are published already.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from engine import parameters
from engine.evaluate import LIST
from engine.parameters import ROOT
from studylib import factorial, plots, report, store, sweep

RESULTS = ROOT / "figures" / "results.csv"
FRONTIER_TABLE = "frontier.csv"
MODEL_BYTES = 200_000  # the most that a file in figures/models/ may have
README_TABLES = ("digits", "cifar10")  # profiles whose table the README has, between markers of that name


def main(profile: str) -> None:
    results = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["profile", *sweep.COLUMNS])
    run = ROOT / "runs" / profile
    about_file = ROOT / "figures" / profile / "about.json"
    if (run / "sweep.csv").exists():
        rows = pd.read_csv(run / "sweep.csv")
        about = provenance(run, rows, profile)
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
    own = {"tree": plots.draw_tree, "front": plots.draw_front}
    for name, draw in own.items():
        report.save_figure(draw(summary), ROOT / "figures" / profile / name, summary, about)
    for drawn in sorted((run / "chapters").glob("*/figures/*.json")):  # what the chapters drew when they ran
        if drawn.stem in own:
            continue
        target, content = ROOT / "figures" / profile / drawn.name, store.read_json(drawn)
        store.write_json(target, {**content, "about": {"profile": profile, **content["about"]}})
        for suffix in (".png", ".pdf"):
            if drawn.with_suffix(suffix).exists():  # a table has none
                store.write_bytes(target.with_suffix(suffix), drawn.with_suffix(suffix).read_bytes())
    plain = results[results["profile"] == profile.partition("-")[0]]
    if "-" in profile and not plain.empty:
        report.save_table(ROOT / "figures" / profile / "beside", sweep.compare(plain, rows), about)
    print(f"figures/{profile}/ redrawn from {source.relative_to(ROOT)}")
    if profile in README_TABLES:
        write_readme_table(summary, about)
    write_between("marks", marks_table(ROOT / "figures"))
    write_between("what was run", runs_table(ROOT / "figures"))


def publish_models(run: Path, rows: pd.DataFrame, profile: str) -> None:
    """Copies the coded files on the front that are small enough, of the first seed, to figures/models/."""
    folder, summary, seed = ROOT / "figures" / "models", sweep.summary(rows), rows["seed"].min()
    known = store.read_json(folder / LIST) if (folder / LIST).exists() else {}
    for name in [name for name, about in known.items() if about["profile"] == profile]:
        (folder / name).unlink(missing_ok=True)
        del known[name]
    for node in summary.loc[factorial.pareto(summary, "bytes_file", "test_accuracy"), "node"]:
        _publish(run / f"seed{seed}" / node, f"{profile}-{node}.slnc", {"profile": profile, "node": node}, known)
    points = run / "chapters" / parameters.notebooks()[parameters.FRONTIER].stem
    if (points / FRONTIER_TABLE).exists():
        made = pd.read_csv(points / FRONTIER_TABLE)
        for name in made.loc[factorial.pareto(made, "bytes", "test_accuracy"), "name"]:
            _publish(points / "points" / name, f"{profile}-{name}.slnc", {"profile": profile, "node": name}, known)
    store.write_json(folder / LIST, dict(sorted(known.items())))


def _publish(made: Path, name: str, about: dict, known: dict) -> None:
    """Copies one coded file, unless it is too large, and notes in ``known`` what it is."""
    metrics = store.read_json(made / sweep.METRICS)
    if metrics["bytes_file"] > MODEL_BYTES:
        return
    store.write_bytes(ROOT / "figures" / "models" / name, (made / sweep.CODED).read_bytes())
    about |= {"seed": metrics["seed"], "dataset": metrics["data"]["name"], "bytes": metrics["bytes_file"]}
    known[name] = about | {"sha256": metrics["file_sha256"], "test_accuracy": metrics["test_accuracy"]}


def provenance(run: Path, rows: pd.DataFrame, profile: str) -> dict:
    """Where the rows come from: profile, seeds, data, and what every node says of commit, versions, hardware."""
    files = [run / f"seed{row.seed}" / row.node / "metrics.json" for row in rows.itertuples()]
    metrics = [json.loads(path.read_text()) for path in files]
    said = [m["provenance"] for m in metrics]
    latency = store.read_json(run / "latency.json")
    return {
        "profile": profile,
        "seeds": sorted(int(seed) for seed in rows["seed"].unique()),
        "data": {key: value for key, value in metrics[0]["data"].items() if key != "seed"},
        "git_commit": sorted({s["git_commit"] for s in said}),
        "date": max(s["date"] for s in said),
        "hardware": sorted({s["hardware"] for s in said}),
        "python": sorted({s["python"] for s in said}),
        "packages": said[0]["packages"],
        "nodes": sweep.order(rows),
        "chapters": sorted(path.parent.name for path in (run / "chapters").glob("*/notebook.ipynb") if _done(path)),
        "latency": {key: latency[key] for key in ("batch", "compiled", "threads", "seed", "device")},
    }


def write_readme_table(summary: pd.DataFrame, about: dict) -> None:
    """Replaces what stands between the README's two markers."""
    columns = ["node", "test accuracy %", "file kB", "saved %", "entropy kB", "zstd kB", "sparse kB"]
    columns += ["nonzeros × width kB", "latency ms"]
    data, latency = about["data"], about["latency"]
    caption = (
        f"Profile `{about['profile']}`: {data['name']}, {data['train']} training, {data['validation']} validation and "
        f"{data['test']} test images; {_of_seeds(about['seeds'])}. Commit {', '.join(about['git_commit'])}, "
        f"{about['date'][:10]}, torch {about['packages']['torch']}, {'; '.join(about['hardware'])}. kB are "
        f"1,000 bytes; latency: one batch of {latency['batch']}, {'compiled' if latency['compiled'] else 'eager'}, "
        f"{latency['threads']} threads."
    )
    table = report.markdown_table(summary, columns)
    write_between(f"results of {about['profile']}", f"{table}\n\n{caption}")


def _of_seeds(seeds: list[int]) -> str:
    """What a table's figures are over: one seed, or the mean of several."""
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}): no deviation is known"
    return f"mean ± standard deviation over n = {len(seeds)} seeds ({', '.join(map(str, seeds))})"


def write_between(name: str, content: str) -> None:
    """Replaces what stands between the README's two markers of that name."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    begin, end = f"<!-- {name}: made by make figures -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"README.md: expected the markers {begin} and {end}, once each")
    new = f"{text.partition(begin)[0]}{begin}\n\n{content}\n\n{end}{text.partition(end)[2]}"
    store.write_bytes(readme, new.encode())
    print(f"README.md: {name} written")


def marks_table(folder: Path) -> str:
    """What others have reported beside ours, of every published profile that has it; below, whose ours is."""
    parts = []
    for path in sorted(folder.glob("*/marks.json")):
        content = store.read_json(path)
        if content["rows"]:
            said = content["about"]["provenance"]
            rows = report.markdown_rows(pd.DataFrame(content["rows"]).astype({"our kB": float, "our %": float}))
            parts.append(f"{rows}\n\nProfile `{path.parent.name}`, commit {said['git_commit']}, {said['date'][:10]}.")
    return "\n\n".join(parts) or "Not measured yet: no CIFAR-10 run of chapter 8 is published."


def runs_table(folder: Path) -> str:
    """Of every profile what is published, and what it would have beside that: nobody is to think that it was run."""
    rows = []
    for profile in sorted(path.stem for path in parameters.FOLDER.glob("*.yaml") if path != parameters.STAGES_FILE):
        study, known = parameters.load(profile)["study"], folder / profile / "about.json"
        about = store.read_json(known) if known.exists() else {}
        files, nodes = parameters.notebooks(), sweep.nodes(study["stages"])
        wanted = [files[chapter].stem for chapter in study["chapters"]]
        seeds = ", ".join(map(str, about.get("seeds", []))) or "–"
        row = {"profile": profile, "published nodes": f"{len(about.get('nodes', []))} of {len(nodes)}", "seeds": seeds}
        run = [name[:2] for name in wanted if name in about.get("chapters", [])]
        missing = [name[:2] for name in wanted if name not in about.get("chapters", [])]
        rows.append({**row, "chapters run": ", ".join(run) or "–", "not run": ", ".join(missing) or "–"})
    return report.markdown_rows(pd.DataFrame(rows))


def _done(executed: Path) -> bool:
    """Whether every code cell of an executed notebook ran, none with an error."""
    cells = [cell for cell in json.loads(executed.read_text())["cells"] if cell["cell_type"] == "code"]
    return all(
        cell["execution_count"] and not any(output["output_type"] == "error" for output in cell["outputs"])
        for cell in cells
    )


if __name__ == "__main__":
    main(sys.argv[1])
