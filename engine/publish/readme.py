"""The tables of README.md, between markers, from what is published in figures/: nobody types a figure there."""

import math
import re
import sys
from pathlib import Path

import pandas as pd

from engine.publish import naming, verdicts
from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER, ROOT, read_yaml
from studylib.disk.files import read_json, write_bytes
from studylib.results import claims, marks, statistics, tables
from studylib.results import verdicts as judged
from studylib.tree import names as tree_names
from studylib.tree.published import frame
from studylib.tree.table import read_table

TABLES = ("digits", "cifar10")  # profiles whose nodes the README lists


def write(summary: pd.DataFrame, about: dict) -> None:
    """Writes every table: the nodes of one profile, and what is of all of them.

    Args:
        summary: of :func:`studylib.tree.table.summary`.
        about: where its rows come from.
    """
    folder = ROOT / "figures"
    if about["profile"] in TABLES:
        write_between(f"results of {about['profile']}", nodes_table(summary, about))
    write_between("at a glance", glance_table(folder))
    write_between("findings", findings(folder))
    write_between("margins", margins_text(folder))
    write_between("marks", marks_table(folder))
    write_between("goals", goals_table(folder))
    write_between("what the paper says", verdicts.claims_table(folder))
    write_between("what was run", runs_table(folder))


def write_between(name: str, content: str) -> None:
    """Replaces what stands between the README's two markers of that name."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: made by make figures -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"README.md: expected the markers {begin} and {end}, once each")
    new = f"{text.partition(begin)[0]}{begin}\n\n{content}\n\n{end}{text.partition(end)[2]}"
    write_bytes(readme, new.encode())
    print(f"README.md: {name} written")


def date_citation() -> None:
    """Gives CITATION.cff the day of the newest published results, nodes or chapters."""
    files = [read_json(file) for file in (ROOT / "figures").glob("*/*.json")]
    found = [about for about in (file.get("about", file) for file in files) if isinstance(about, dict)]
    newest = max(about.get("date") or about.get("provenance", {}).get("date", "") for about in found)
    path = ROOT / "CITATION.cff"
    text, count = re.subn(
        r"^date-released: .*$", f"date-released: {newest[:10]}", path.read_text(encoding="utf-8"), flags=re.M
    )
    if count != 1:
        sys.exit(f"{path}: expected one line date-released, found {count}")
    write_bytes(path, text.encode())


FIRST_SCREEN = "first_screen.yaml"  # in figures/: what README says first, its numbers left open


def glance_table(folder: Path) -> str:
    """A row each of the nodes that the first screen names, and the smallest file of its least validation accuracy."""
    screen = read_yaml(folder / FIRST_SCREEN)
    nodes, held = _means(folder, screen["profile"]), screen["held"]
    rows = [
        {"CIFAR-10": name, "file kB": nodes.loc[node, "bytes_file"] / 1000, "test accuracy %": _percent(nodes, node)}
        for node, name in screen["nodes"].items()
        if node in nodes.index
    ]
    every = files(folder)
    if len(enough := every[every["val_accuracy"] >= held]):
        least = enough.loc[enough["bytes"].idxmin()]
        name = f"smallest file with {100 * held:.0f} % on validation images"
        rows.append(
            {"CIFAR-10": name, "file kB": least["bytes"] / 1000, "test accuracy %": 100 * least["test_accuracy"]}
        )
    return tables.markdown_rows(pd.DataFrame(rows)) if rows else "Nothing on CIFAR-10 is published yet."


def findings(folder: Path) -> str:
    """The first screen's findings, a line each, every number of them from published rows and claims."""
    screen = read_yaml(folder / FIRST_SCREEN)
    nodes = _means(folder, screen["profile"])
    if nodes.empty:
        return "No findings yet: the tree on CIFAR-10 is not published."
    percent, kb = 100 * nodes["test_accuracy"], nodes["bytes_file"] / 1000
    numbers = {
        "percent": percent.to_dict(),
        "kb": kb.to_dict(),
        "saved": (100 * (1 - kb / kb[tree_names.TEACHER])).to_dict(),
        "gain": (percent - percent[tree_names.TEACHER]).to_dict(),
        "cost": (percent[tree_names.TEACHER] - percent).to_dict(),
        "worst": _worst(folder / screen["profile"]),
    }
    try:
        return "\n".join(f"- {text.format(**numbers)}" for text in screen["findings"])
    except KeyError as error:
        return f"No findings yet: {error.args[0]} is not published."


def _worst(study: Path) -> dict[str, str]:
    """Claim → the lowest of what a study measured for it, and the verdict, in words."""
    found = {}
    for measured in verdicts.measured_of(study).values():
        for key, each in measured.items():
            least = min(each, key=lambda m: m.value)
            rival = f"against the {least.against}: " if least.against else ""
            text = judged.text(least, claims.CLAIMS[key].unit)
            found[key] = f"{rival}{text}, {judged.verdict(claims.CLAIMS[key], least, claims.PAPER_DATA)}"
    return found


def _means(folder: Path, profile: str) -> pd.DataFrame:
    """Means over seeds of the published nodes of a profile, indexed by node."""
    table = read_table(folder / verdicts.RESULTS_FILE)
    return table[table["profile"] == profile].drop(columns="profile").groupby("node").mean()


def _percent(nodes: pd.DataFrame, node: str) -> float:
    return 100 * float(nodes.loc[node, "test_accuracy"])


def nodes_table(summary: pd.DataFrame, about: dict) -> str:
    """Accuracy and sizes of every node, and below where they come from."""
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
    return f"{tables.markdown_table(summary, columns)}\n\n{caption}"


def margins_text(folder: Path) -> str:
    """Which combinations beat narrower dense networks at equal bytes: by the verdicts that are published, seed by seed.

    Of one seed there are none: then by the means, and those larger than every narrower network are counted apart.
    """
    found = []
    for profile in TABLES:
        rows = rows_of(folder / profile, chapters.table(), "control")
        if rows.empty:
            continue
        margins = rows_of(folder / profile, chapters.table(), "margins")
        if len(margins) and (margins["verdict"] != statistics.UNKNOWN).any():
            groups = margins.groupby("verdict", sort=False)["node"].apply(lambda nodes: [*map(tables.label, nodes)])
            said = [f"{len(names)} “{verdict}” ({'; '.join(names)})" for verdict, names in groups.items()]
            found.append(f"`{profile}`, {len(margins)} combinations, by intervals over seeds: {', '.join(said)}.")
            continue
        made = rows["kind"] == "combination"
        rivals = rows[~made].astype({"bytes": float, "accuracy": float})
        larger, smaller = "larger than every narrower network, beside none", "smaller than every narrower network"
        groups: dict[str, list[str]] = {"above": [], "below": [], larger: [], smaller: []}
        for row in rows[made].itertuples():
            rival = statistics.at_equal_cost(rivals, "bytes", "accuracy", row.bytes_file)
            where = "below" if row.test_accuracy < rival else "above"
            if row.bytes_file > rivals["bytes"].max():
                where = larger
            groups[smaller if math.isnan(rival) else where].append(tables.label(row.node))
        said = [f"{len(names)} {where} ({'; '.join(names)})" for where, names in groups.items() if names]
        networks = rivals["growth"].nunique()
        trained = f"{networks} narrower network{'s' if networks > 1 else ''} in floats and int8"
        found.append(f"`{profile}`, {int(made.sum())} combinations, {trained}, by means: {', '.join(said)}.")
    if not found:
        return "Beside narrower dense networks at equal bytes: not published yet."
    return "At equal bytes, beside narrower dense networks: " + " ".join(found)


def _of_seeds(seeds: list[int]) -> str:
    """What a table's figures are over: one seed, or the mean of several."""
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}): no deviation is known"
    return f"mean ± standard deviation over n = {len(seeds)} seeds ({', '.join(map(str, seeds))})"


def rows_of(study: Path, key: str, table: str) -> pd.DataFrame:
    """A table of a published chapter; an empty one where it is not published."""
    file = study / f"{chapters.declared()[key].name}.json"
    return frame(read_json(file)["rows"].get(table, []) if file.exists() else [])


def files(folder: Path) -> pd.DataFrame:
    """Every published file of a CIFAR-10 network: the first seed's nodes, and those that chapters declare.

    Args:
        folder: with results.csv and, by profile, about.json and the chapters.

    Returns:
        Rows of profile, name (as in figures/models/), node, network, bytes, val_accuracy, test_accuracy (0…1); of
        points also bits, sparsity, val_accuracy_pruned.
    """
    parts = []
    for path in sorted(folder.glob("*/about.json")):
        profile, about = path.parent.name, read_json(path)
        if about["data"]["name"] != claims.PAPER_DATA:
            continue
        nodes = read_table(folder / verdicts.RESULTS_FILE).query("profile == @profile and seed == @about['seeds'][0]")
        nodes = nodes[["node", "val_accuracy", "test_accuracy", "bytes_file"]].rename(columns={"bytes_file": "bytes"})
        parts.append(nodes.assign(profile=profile))
        for key, chapter in chapters.declared().items():
            points = rows_of(path.parent, key, chapter.files)
            if len(points):
                parts.append(points.rename(columns={"name": "node"}).assign(profile=profile))
    if not parts:
        return pd.DataFrame(columns=["profile", "name", "node", "network", "bytes", "val_accuracy", "test_accuracy"])
    every = pd.concat(parts, ignore_index=True)
    return every.assign(name=every["profile"] + "-" + every["node"])


def marks_table(folder: Path) -> str:
    """What others have reported, each beside the smallest of our files that holds its accuracy.

    That is chosen by validation images; the last column has the smallest by test images, as is usual elsewhere.
    """
    every = files(folder)
    if every.empty:
        return "Not measured yet: no CIFAR-10 run is published."
    rows = pd.DataFrame(marks.against_marks(every.to_dict("records"), claims.PAPER_DATA))

    def luckiest(mark: float) -> str:
        enough = every[100 * every["test_accuracy"] >= mark - 1e-9].sort_values("bytes", kind="stable")
        return "–" if enough.empty else f"{enough['bytes'].iloc[0] / 1000:.2f} kB (`{enough['name'].iloc[0]}`)"

    rows = rows.assign(**{"if chosen by test images": rows["mark %"].map(luckiest)})
    return tables.markdown_rows(rows.astype({"our kB": float, "our %": float}))


def goals_table(folder: Path) -> str:
    """What CIFAR-10 networks are to reach that are no files of a size, each beside the best of ours."""
    every, rows = files(folder), []
    if every.empty:
        return "Not measured yet: no CIFAR-10 run is published."

    def row(what: str, goal: str, whose: str, ours: pd.Series, unit: str, passed) -> None:
        name = ours.idxmax() if passed(math.inf) else ours.idxmin()
        verdict = "passed" if passed(ours[name]) else "not reached"
        rows.append({"what": what, "goal": goal, "from": whose, "ours": f"{ours[name]:.2f} {unit} (`{name}`)"})
        rows[-1]["verdict"] = verdict

    named = every.set_index("name")
    kind = named["profile"].map({profile: naming.teacher_kind(profile) for profile in every["profile"].unique()})
    wanted = [
        (tree_names.TEACHER, kind == each, f"teacher, a {each}, test accuracy", marks.TEACHER_GOAL)
        for each in kind.unique()
        if each != naming.RESTORED
    ]
    wanted += [(marks.STUDENT, True, "distilled student, test accuracy", marks.STUDENT_GOAL)]
    for node, of_kind, what, (least, whose) in wanted:
        found = 100 * named.loc[(named["node"] == node) & of_kind, "test_accuracy"]
        if len(found):
            row(what, f"≥ {least:g} %", whose, found, "%", lambda value, least=least: value >= least)
    zeros, most, whose = marks.PRUNED_GOAL
    if "sparsity" in every:
        whole = every[every["node"] == tree_names.TEACHER].set_index("profile")["val_accuracy"]
        pruned = named[
            (named["network"] == tree_names.TEACHER) & (named["sparsity"] >= zeros) & (kind == naming.DENSENET)
        ]
        lost = 100 * (pruned["profile"].map(whole) - pruned["val_accuracy_pruned"])
        if len(lost):
            what = f"DenseNet with {100 * zeros:g} % zeros or more, lost on validation images before rounding"
            row(what, f"≤ {most:g} points", whose, lost, "points", lambda value: value <= most)
    claim, known = claims.CLAIMS["kd_gain"], len(rows)
    goal = {"what": "gain from distillation", "goal": f"{claim.value:+g} {claim.unit}", "from": "the paper"}
    for path in sorted(folder.glob("*/about.json")):
        found = verdicts.measured_of(path.parent)[claim.chapter].get("kd_gain", [])
        for measured in found if read_json(path)["data"]["name"] == claims.PAPER_DATA else []:
            ours = f"{judged.text(measured, claim.unit)} (`{path.parent.name}`)"
            rows.append(goal | {"ours": ours, "verdict": judged.verdict(claim, measured, claims.PAPER_DATA)})
    if len(rows) == known:
        rows.append(goal | {"ours": "–", "verdict": claims.NOT_MEASURED})
    return tables.markdown_rows(pd.DataFrame(rows))


def runs_table(folder: Path) -> str:
    """Of every profile what is published, and what it would have beside that: nobody is to think that it was run."""
    rows, named = [], []
    for profile in sorted(path.stem for path in FOLDER.glob("*.yaml") if path != chapters.FILE):
        named += [(profile, root) for root in ("", *parameters.roots(profile))]
    for profile, root in named:
        study, profile = parameters.load(profile, root=root)["study"], parameters.run_name(profile, root)
        known = folder / profile / "about.json"
        about = read_json(known) if known.exists() else {}
        declared, nodes = chapters.declared(), tree_names.nodes(study["stages"])
        wanted = [declared[chapter].name for chapter in study["chapters"]]
        seeds = ", ".join(map(str, about.get("seeds", []))) or "–"
        row = {"profile": profile, "published nodes": f"{len(about.get('nodes', []))} of {len(nodes)}", "seeds": seeds}
        run = [name[:2] for name in wanted if name in about.get("chapters", [])]
        missing = [name for name in wanted if name not in about.get("chapters", [])]
        parts = [name[:2] for name in missing if (known.parent / f"{name}.json").exists()]
        missing = [name[:2] for name in missing if name[:2] not in parts]
        row |= {"chapters run": ", ".join(run) or "–", "in part": ", ".join(parts) or "–"}
        rows.append({**row, "not run": ", ".join(missing) or "–"})
    return tables.markdown_rows(pd.DataFrame(rows))
