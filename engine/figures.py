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
MODEL_BYTES = 200_000  # the most that a file in figures/models/ may have
README_PROFILE = "digits"  # whose table and figure the README shows


def main(profile: str) -> None:
    results = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["profile", *sweep.COLUMNS])
    run = ROOT / "runs" / profile
    about_file = ROOT / "figures" / profile / "about.json"
    if (run / "sweep.csv").exists():
        rows = pd.read_csv(run / "sweep.csv")
        about = provenance(run, rows, profile)
        results = pd.concat([results[results["profile"] != profile], rows.assign(profile=profile)])
        results = results[["profile", *sweep.COLUMNS]]
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
    if profile == README_PROFILE:
        write_readme_table(summary, about)


def publish_models(run: Path, rows: pd.DataFrame, profile: str) -> None:
    """Copies the coded files on the front that are small enough, of the first seed, to figures/models/."""
    folder, summary, seed = ROOT / "figures" / "models", sweep.summary(rows), rows["seed"].min()
    known = store.read_json(folder / LIST) if (folder / LIST).exists() else {}
    for name in [name for name, about in known.items() if about["profile"] == profile]:
        (folder / name).unlink(missing_ok=True)
        del known[name]
    for node in summary.loc[factorial.pareto(summary, "bytes_file", "test_accuracy"), "node"]:
        metrics = store.read_json(run / f"seed{seed}" / node / sweep.METRICS)
        if metrics["bytes_file"] > MODEL_BYTES:
            continue
        name = f"{profile}-{node}.slnc"
        store.write_bytes(folder / name, (run / f"seed{seed}" / node / sweep.CODED).read_bytes())
        about = {"profile": profile, "node": node, "seed": int(seed), "dataset": metrics["data"]["name"]}
        about |= {"bytes": metrics["bytes_file"], "sha256": metrics["file_sha256"]}
        known[name] = about | {"test_accuracy": metrics["test_accuracy"]}
    store.write_json(folder / LIST, known)


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
        "latency": {key: latency[key] for key in ("batch", "compiled", "threads", "seed", "device")},
    }


def write_readme_table(summary: pd.DataFrame, about: dict) -> None:
    """Replaces what stands between the README's two markers."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    begin, end = "<!-- results: made by make figures -->", "<!-- end of results -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"README.md: expected the markers {begin} and {end}, once each")
    columns = ["node", "test accuracy %", "file kB", "saved %", "entropy kB", "zstd kB", "sparse kB"]
    columns += ["nonzeros × width kB", "latency ms"]
    data, latency = about["data"], about["latency"]
    caption = (
        f"Profile `{about['profile']}`: {data['name']}, {data['train']} training, {data['validation']} validation and "
        f"{data['test']} test images; mean ± standard deviation over n = {len(about['seeds'])} seeds "
        f"({', '.join(map(str, about['seeds']))}). Commit {', '.join(about['git_commit'])}, {about['date'][:10]}, "
        f"torch {about['packages']['torch']}, {'; '.join(about['hardware'])}. kB are 1,000 bytes; latency: one batch "
        f"of {latency['batch']}, {'compiled' if latency['compiled'] else 'eager'}, {latency['threads']} threads."
    )
    table = report.markdown_table(summary, columns)
    new = f"{text.partition(begin)[0]}{begin}\n\n{table}\n\n{caption}\n\n{end}{text.partition(end)[2]}"
    store.write_bytes(readme, new.encode())
    print("README.md: results table written")


if __name__ == "__main__":
    main(sys.argv[1])
