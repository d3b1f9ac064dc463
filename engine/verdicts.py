"""What the paper says beside what published CIFAR-10 profiles measured, by chapters, their figures, or nodes."""

import math
import re
import statistics
from pathlib import Path

import pandas as pd

from engine import naming, parameters
from engine.parameters import ROOT
from studylib import claims, comparison, report, store, sweep

CLAIMS_FILE, RESULTS_FILE = "claims.json", "results.csv"  # in figures/<profile>/ and in figures/
NORMAL = statistics.NormalDist().inv_cdf(0.975)  # half-width of an interval of 95 %, in standard deviations
ABSOLUTE = {  # what is said of the paper's own network, whatever the technique; ours are others
    claims.statement(claims.CLAIMS[key])
    for key in ("teacher_accuracy", "teacher_bytes", "kd_alone", "kd_taught", "best_bytes", "best_accuracy")
}


def claims_table(folder: Path) -> str:
    """Paper says, we measured, verdict: every claim that a published CIFAR-10 profile answers, by chapter and profile.

    Chapters 6 and 8 are answered by their published rows, the first against both weighted sums.  What a chapter would
    say that a profile has not run, its published nodes say where they can; they also put an interval behind a
    difference that a chapter has printed without.
    """
    said, chapters = [], parameters.notebooks()
    for path in sorted(folder.glob("*/about.json")):
        profile, about = path.parent.name, store.read_json(path)
        if about["data"]["name"] != claims.PAPER_DATA:
            continue
        known = path.with_name(CLAIMS_FILE)
        rows = said_by_chapters(known)
        answered = {row["chapter"] for row in rows}
        told = [told for of in (of_ways, _of_files) for told in of(path.parent)]
        again = {row["paper says"] for row in told} | {row["instead of"] for row in told}
        rows = [*(row for row in rows if row["paper says"] not in again), *told]
        if naming.teacher_kind(profile) != naming.RESTORED:  # whose teacher is another profile's file
            nodes = sweep.read_table(folder / RESULTS_FILE).query("profile == @profile and seed == @about['seeds'][0]")
            for stage, measured in of_nodes(nodes.set_index("node"), about["data"]["test"]).items():
                number = chapters[stage].name[:2]
                table = claims.rows(claims.table(stage, measured, claims.PAPER_DATA))
                known = [row for row in table if row["we measured"] != "–"]
                if number not in answered:
                    rows += [{"chapter": f"{number}, by its nodes", **row} for row in known]
                rows = [_with_interval(row, known) for row in rows]
        if other := naming.another_network(profile):
            rows = [row | {"verdict": other} if row["paper says"] in ABSOLUTE else row for row in rows]
        said += [{**row, "profile": profile} for row in rows]
    if not said:
        return "No chapter on CIFAR-10 is published."
    columns = ["chapter", "paper says", "where", "we measured", "verdict", "profile"]
    table = pd.DataFrame(said)[columns].sort_values(["chapter", "profile"], kind="stable")
    alike = table.groupby(columns[:-1], sort=False)["profile"].agg(", ".join)  # what several found, in one row
    return report.markdown_rows(alike.reset_index())


def of_ways(folder: Path) -> list[dict]:
    """What chapter 6's published rows say of common descent, against each of the two weighted sums."""
    if not (file := folder / "hypervolume.json").exists():
        return []
    rows = pd.DataFrame(store.read_json(file)["rows"]).query("way == @comparison.METHOD")
    found = []
    for key, stage in zip(("moo_one_shot", "moo_tuned"), comparison.STAGES, strict=True):
        for row in rows[rows["stage"] == stage].itertuples():
            gained = claims.Measured(100 * row.gain, 100 * row.low, 100 * row.high, n=int(row.seeds))
            found.append(_told("06", "moo", key, gained, f" (against the {row.rival})"))
    return found


def _of_files(folder: Path) -> list[dict]:
    """What chapter 8's published points say of the paper's smallest file: the least that holds its accuracy."""
    if not (file := folder / "frontier.json").exists():
        return []
    rows = pd.DataFrame(store.read_json(file)["rows"])
    enough = rows[100 * rows["val_accuracy"] >= claims.CLAIMS["best_accuracy"].value - 1e-9]["bytes"]
    least = float(enough.min()) if len(enough) else math.inf
    return [_told("08", "frontier", "small_bytes", claims.Measured(least))]


def _with_interval(row: dict, known: list[dict]) -> dict:
    """``row``, its text and verdict those of the one of ``known`` that has an interval about the same value, if any."""
    for other in known:
        if other["paper says"] == row["paper says"] and other["we measured"].startswith(row["we measured"] + " ("):
            return row | other | {"chapter": f"{row['chapter']}, interval by its nodes"}
    return row


def said_by_chapters(file: Path) -> list[dict]:
    """The rows of a published ``claims.json``, judged by the rules of today; none if it is not there."""
    rows = store.read_json(file)["rows"] if file.exists() else []
    return [claims.judged_again(row, len(row.get("seeds", [0])), row["dataset"]) for row in rows]


def _told(chapter: str, stage: str, key: str, measured: claims.Measured, more: str = "") -> dict:
    """A row of the table; ``more`` goes behind what is said, which it takes the place of."""
    says = claims.statement(claims.CLAIMS[key])
    table = claims.rows(claims.table(stage, {key: measured}, claims.PAPER_DATA))
    row = next(row for row in table if row["paper says"] == says)
    return {"chapter": chapter, **row, "paper says": says + more, "instead of": says}


def of_nodes(nodes: pd.DataFrame, images: int) -> dict[str, dict[str, claims.Measured]]:
    """Stage → claims that the nodes of one seed can answer, all of test accuracies and parameters' bytes.

    Intervals (95 %, normal) are for another draw of the test images, not for another training. Which images a node had
    right is not published: what separates the teacher from a node can only lie in images on which they disagree, whose
    share is; other differences are taken as if each node had images of its own. Both are wide, if anything.

    Args:
        nodes: rows of results.csv, indexed by node; a claim about nodes that are not there is left out.
        images: of the test set.
    """
    t, k, q, p, s = (sweep.ROOT + end for end in ("", "-kd", "-int8", "-imp", "-svd"))
    pq, ps, kps = f"{p}-int8", f"{p}-svd", f"{k}-imp-svd"
    percent, nodes_there = 100 * nodes["test_accuracy"], set(nodes.index)

    def sums(weights: dict[str, int]) -> claims.Measured | None:
        if not set(weights) <= nodes_there:
            return None
        value = sum(weight * percent[node] for node, weight in weights.items())
        spread = sum(weight**2 * percent[node] * (100 - percent[node]) for node, weight in weights.items())
        if len(weights) == 2 and weights.get(t) == 1:  # and −1 for the other
            apart = 100 * (1 - min(nodes.loc[node, "agreement"] for node in weights))
            spread = max(0, 100 * apart - value**2)
        half = NORMAL * math.sqrt(spread / images)
        return claims.Measured(value, value - half, value + half)

    def saved(node: str, column: str) -> claims.Measured | None:
        if not {t, node} <= nodes_there:
            return None
        return claims.Measured(100 * (1 - nodes.loc[node, column] / nodes.loc[t, "bytes_dense"]))

    def taken(node: str, column: str) -> claims.Measured | None:
        return claims.Measured(float(nodes.loc[node, column])) if node in nodes_there else None

    return {
        "teacher": {"teacher_accuracy": sums({t: 1}), "teacher_bytes": taken(t, "bytes_dense")},
        "kd": {"kd_taught": sums({k: 1})},
        "imp": {"imp_saved": saved(p, "bytes_nonzero"), "imp_cost": sums({t: 1, p: -1})},
        "int8": {
            "int8_saved": saved(q, "bytes_dense"),
            "static_saved": saved(q, "bytes_dense"),
            "int8_cost": sums({t: 1, q: -1}),
        },
        "sweep": {
            "best_bytes": taken(pq, "bytes_nonzero"),
            "best_saved": saved(pq, "bytes_nonzero"),
            "best_accuracy": sums({pq: 1}),
            "best_cost": sums({t: 1, pq: -1}),
            "svd_worst": sums({t: -1, s: 1, p: 1, ps: -1}),
            "int8_mends": sums({f"{ps}-int8": 1, ps: -1}),
            "int8_mends_kd": sums({f"{kps}-int8": 1, kps: -1}),
            "pruning_helps_int8": sums({t: 1, q: -1, p: -1, pq: 1}),
        },
    }


def drawn_by(chapter: str, folder: Path) -> list[Path]:
    """The JSON in ``folder`` of figures and tables that the notebook ``chapter`` names, tree and front aside."""
    own = {"tree", "front"}  # make figures draws them from the nodes
    code = (ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8")
    names = set(re.findall(r"figures(?:/|\\\" / \\\")([a-z_0-9]+)", code)) - own
    return [path for name in sorted(names) if (path := folder / f"{name}.json").exists()]
