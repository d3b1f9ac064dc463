"""What all published studies say together: claims answered, goals reached, trees beside their variants."""

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import pandas as pd

from studylib.experiments.frontier_marks import PRUNED_GOAL, STUDENT, STUDENT_GOAL, TEACHER_GOAL, against_marks
from studylib.experiments.frontier_published import DENSENET, RESTORED, another_network, teacher_kind
from studylib.experiments.published import Figures
from studylib.results import claims, verdicts
from studylib.tree import names, table

CENT = 0.005  # of what is measured in points or %, two decimals are said


def trees(there: Figures) -> Iterator[tuple[str, str, list[dict]]]:
    """Each variant of a whole tree, the plain one, and rows of :func:`studylib.tree.table.compare` of both."""
    for study, plain in [(study, study.partition("-")[0]) for study in there.studies if "-" in study]:
        if plain in there.studies and set(there.studies[study]["nodes"]) == set(there.studies[plain]["nodes"]):
            yield study, plain, table.compare(there.nodes(plain), there.nodes(study)).to_dict("records")


def answers(there: Figures, numbers: Mapping[str, str]) -> pd.DataFrame:
    """Every claim that a published CIFAR-10 study answers: chapter, :data:`studylib.results.verdicts.COLUMNS`, study.

    Studies that found the same share a row.

    Args:
        numbers: chapter → its number; claims of other chapters are left out.
    """
    said = [row | {"study": study} for study in there.on_papers_data for row in _of_study(there, study, numbers)]
    columns = ["chapter", *verdicts.COLUMNS, "study"]
    rows = pd.DataFrame(said, columns=columns).sort_values(["chapter", "study"], kind="stable")
    return rows.groupby(columns[:-1], sort=False)["study"].agg(", ".join).reset_index()


def _of_study(there: Figures, study: str, numbers: Mapping[str, str]) -> Iterator[dict]:
    """The claims that one study answers.

    For a chapter that it has not run, its published nodes answer where they can. They also put an interval behind a
    chapter's difference without one.
    """
    about, by_nodes = there.studies[study], {}
    measured = {key: there.measured(study, key) for key in numbers}
    if teacher_kind(about) != RESTORED:  # whose teacher is another study's file
        by_nodes = of_nodes(there.nodes(study, slice(1)).set_index("node"), about["data"]["test"])
    for key, claim in claims.CLAIMS.items():
        if claim.chapter not in numbers:
            continue  # of the audit, which has the paper's figures alone
        where, node, found = numbers[claim.chapter], by_nodes.get(key), measured[claim.chapter].get(key, [])
        if node and not found:
            where, found = f"{where}, by its nodes", [node]
        elif node and len(found) == 1 and found[0].low != found[0].low and abs(found[0].value - node.value) < CENT:
            where, found = f"{where}, interval by its nodes" if node.low == node.low else where, [node]
        for each in found:
            yield {"chapter": where, **verdicts.row(claim, each, claims.PAPER_DATA, another_network(about))}


def of_nodes(nodes: pd.DataFrame, images: int) -> dict[str, claims.Measured]:
    """What the nodes of one seed say of the claims, all of test accuracies and of parameters' bytes.

    Intervals (95 %, normal) are for another draw of the test ``images``, not for another training. Which images a node
    had right is not published. It can only differ from the teacher in images on which they disagree; their share is.
    Other differences are taken as if each node had images of its own. Both are wide, if anything. ``nodes`` are rows of
    :data:`studylib.tree.table.COLUMNS`, indexed by node; a claim about others is left out.
    """
    there, found = set(nodes.index), {}
    for key, claim in claims.CLAIMS.items():
        if claim.nodes and set(claim.nodes) <= there:
            found[key] = _sum(claim.nodes, nodes, images)
        elif claim.saved and {names.TEACHER, claim.saved[0]} <= there:
            found[key] = claims.Measured(100 * (1 - nodes.loc[*claim.saved] / nodes.loc[names.TEACHER, "bytes_dense"]))
        elif claim.taken and claim.taken[0] in there:
            found[key] = claims.Measured(float(nodes.loc[*claim.taken]))
    return found


def _sum(weights: Mapping[str, int], nodes: pd.DataFrame, images: int) -> claims.Measured:
    percent = 100 * nodes["test_accuracy"]
    value = sum(weight * percent[node] for node, weight in weights.items())
    spread = sum(weight**2 * percent[node] * (100 - percent[node]) for node, weight in weights.items())
    if len(weights) == 2 and weights.get(names.TEACHER) == 1:  # and −1 for the other
        apart = 100 * (1 - min(nodes.loc[node, "agreement"] for node in weights))
        spread = max(0, 100 * apart - value**2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(spread / images)
    return claims.Measured(value, value - half, value + half)


def marks(there: Figures) -> pd.DataFrame:
    """Rows of :func:`studylib.experiments.frontier_marks.against_marks`, and the smallest file by test images.

    The former's are chosen by validation images. Those of the last column are not; that is usual elsewhere.
    """
    rows = pd.DataFrame(against_marks(there.files.to_dict("records"), claims.PAPER_DATA))
    every = there.files.sort_values("bytes", kind="stable")
    luckiest = [every[100 * every["test_accuracy"] >= mark - 1e-9].head(1) for mark in rows["mark %"]]
    said = [f"{f['bytes'].item() / 1000:.2f} kB (`{f['name'].item()}`)" if len(f) else "–" for f in luckiest]
    return rows.astype({"our kB": float, "our %": float}).assign(**{"if chosen by test images": said})


def goals(there: Figures) -> Iterator[dict]:
    """What CIFAR-10 networks are to reach that are no files of a size, each beside the best of ours.

    Rows of what, goal, from (whose it is), ours, verdict.
    """
    every = there.files.set_index("name")
    node, kind = (
        every["node"],
        every["study"].map({study: teacher_kind(about) for study, about in there.studies.items()}),
    )
    for each in [each for each in kind.unique() if each != RESTORED]:
        ours = every["test_accuracy"][(node == names.TEACHER) & (kind == each)]
        yield from _goal(f"teacher, a {each}, test accuracy", *TEACHER_GOAL, ours)
    ours = every["test_accuracy"][node == STUDENT]
    yield from _goal("distilled student, test accuracy", *STUDENT_GOAL, ours)
    if "sparsity" in every:
        zeros, most, whose = PRUNED_GOAL
        whole = every[node == names.TEACHER].set_index("study")["val_accuracy"]
        sparse = (every["network"] == names.TEACHER) & (every["sparsity"] >= zeros) & (kind == DENSENET)
        lost = (every["study"].map(whole) - every["val_accuracy_pruned"])[sparse]
        what = f"DenseNet with {100 * zeros:g} % zeros or more, lost on validation images before rounding"
        yield from _goal(what, most, whose, lost, least=False)
    claim = claims.CLAIMS["kd_gain"]
    gains = {study: there.measured(study, claim.chapter).get("kd_gain", []) for study in there.on_papers_data}
    goal = {"what": "gain from distillation", "goal": f"{claim.value:+g} {claim.unit}", "from": "the paper"}
    for study, measured in [(study, each) for study, found in gains.items() for each in found]:
        verdict = verdicts.verdict(claim, measured, claims.PAPER_DATA)
        yield goal | {"ours": f"{verdicts.text(measured, claim.unit)} (`{study}`)", "verdict": verdict}
    if not any(gains.values()):
        yield goal | {"ours": "–", "verdict": claims.NOT_MEASURED}


def _goal(what: str, bound: float, whose: str, ours: pd.Series, least: bool = True) -> Iterator[dict]:
    """The best of ``ours`` (0…1) beside a bound in % or points, the least or the most allowed; none of none."""
    if len(ours):
        name, sign, unit = (ours.idxmax(), "≥", "%") if least else (ours.idxmin(), "≤", "points")
        value = 100 * ours[name]
        verdict = "passed" if (value >= bound if least else value <= bound) else "not reached"
        row = {"what": what, "goal": f"{sign} {bound:g} {unit}", "from": whose}
        yield row | {"ours": f"{value:.2f} {unit} (`{name}`)", "verdict": verdict}
