"""Chapter 8 over all published studies: what networks and files are called, and what the networks are to reach."""

import inspect
import re
from collections.abc import Iterator

import pandas as pd

from studylib.coding import restore
from studylib.experiments.frontier_marks import PRUNED_GOAL, STUDENT, STUDENT_GOAL, TEACHER_GOAL
from studylib.networks import resnet
from studylib.networks.spec import ARCHITECTURES
from studylib.results import claims, verdicts
from studylib.techniques.teacher import Network
from studylib.tree import names

DENSENET = "DenseNet"  # of networks, the one that the paper's goals are about
KINDS = {"densenet": DENSENET, "vgg": "VGG", "whitened": "whitened VGG", "convnet": "ConvNet", "resnet": "ResNet"}
TRAINED_ON = ", trained on"
RESTORED = "restored network"  # one that a study takes from a published file and does not train
CENT = 0.005  # of what is measured in points or %, two decimals are said
UNKNOWN = {"name": "densenet", "args": {}, "restored": False}  # teacher of a study that does not say


def teacher_of(spec: dict) -> dict:
    """What is published of a study's teacher, by the spec of its model."""
    restored = any(change["technique"] == "restored" for change in spec["changes"])
    return {"name": spec["name"], "args": spec["args"], "restored": restored}


def teacher_kind(about: dict) -> str:
    """What network the teacher of a published study is."""
    teacher = about.get("teacher", UNKNOWN)
    return RESTORED if teacher["restored"] else KINDS[teacher["name"]]


def teacher_name(about: dict) -> str:
    """The teacher of a published study: kind, and depth or width."""
    teacher = about.get("teacher", UNKNOWN)
    args = teacher["args"]
    size = f"-{args['depth']}" if "depth" in args else f" of width {args['width']}" if "width" in args else ""
    return f"{KINDS[teacher['name']]}{size}"


def another_network(about: dict) -> str:
    """The study's networks in words, if its teacher is known and not the paper's own; else empty."""
    ours, papers = teacher_name(about), f"{DENSENET}-{claims.PAPER_DEPTH}"
    return f"{ours} and its student" if "teacher" in about and ours != papers else ""


def network_name(study: str, about: dict, network: str) -> str:
    """A network of chapter 8 in words, for a figure of several studies: stored names are relative to the study.

    Those that go on from a published file share a name, whatever the study: their points lie on one another.
    """
    kind, _, number = network.partition(" ")
    if kind == names.TEACHER and teacher_kind(about) == RESTORED:
        return f"{teacher_name(about)}{TRAINED_ON}"
    own = {names.TEACHER: teacher_name(about), "student": "its student"}
    own |= {"growth": f"{DENSENET}, {number} channels a layer", "width": f"ConvNet of width {number}"}
    return f"{own.get(kind) or f'{KINDS[kind]} {number}'} ({study})"


def file_name(spec: dict, node: str, dataset: str) -> str:
    """A published file by its network, zeros in percent and bits: ``densenet22-z80-4bit``.

    Args:
        spec: of its model.
        node: that it holds; the name of a point ends in its bits.
        dataset: stands first, if it is another than the paper's.
    """
    usual = {name: given.default for name, given in inspect.signature(ARCHITECTURES[spec["name"]]).parameters.items()}
    args, made = usual | spec["args"], [change["technique"] for change in spec["changes"]]
    size = args.get("depth") or args.get("width") or args["widths"][0]
    growth, zeros = args.get("growth", Network.growth), max(change.get("sparsity", 0) for change in spec["changes"])
    width = args["width"] if {"width", "depth"} <= args.keys() else resnet.WIDTH  # else it is the size, if there is any
    parts = {
        dataset: dataset != claims.PAPER_DATA,
        "student" if "kd" in made else f"{spec['name']}{size}": True,
        f"growth{growth}": growth != Network.growth,
        f"width{width}": width != resnet.WIDTH,
        f"z{round(100 * zeros, 1):g}": zeros > 0,
        "svd": "svd" in made,
    }
    bits = re.search(r"(\d+)bit$", node)
    whole = f"{bits[1] if bits else 8 if 'int8' in made else 32}bit"
    return "-".join([*(part for part, there in parts.items() if there), whole])


def files(
    nodes: dict[str, pd.DataFrame], points: dict[str, list[pd.DataFrame]], models: dict[str, dict]
) -> pd.DataFrame:
    """Every file of the networks of some studies.

    Args:
        nodes: study → a row for each node of its first seed.
        points: study → tables of its chapters with a row for each coded file.
        models: published file → what :data:`studylib.coding.restore.LIST` says of it.

    Returns:
        Rows of study, name, node, network, bytes, val_accuracy, test_accuracy (0…1). The name is that of the published
        file, else study/node. Points also have bits, sparsity, val_accuracy_pruned.
    """
    known = {(of.get("profile"), of.get("node")): name.removesuffix(restore.ENDING) for name, of in models.items()}
    parts = [pd.DataFrame(columns=["study", "node", "network", "bytes", "val_accuracy", "test_accuracy"])]
    for study, rows in nodes.items():
        own = rows.rename(columns={"bytes_file": "bytes"})[["node", "val_accuracy", "test_accuracy", "bytes"]]
        made = [table.rename(columns={"name": "node"}) for table in points[study] if len(table)]
        parts += [table.assign(study=study) for table in (own, *made)]
    every = pd.concat(parts[1:] or parts, ignore_index=True)
    pairs = zip(every["study"], every["node"], strict=True)
    return every.assign(name=[known.get(pair, "/".join(pair)) for pair in pairs])


def claims_of_study(
    about: dict, nodes: pd.DataFrame, measured: dict[str, verdicts.Found], numbers: dict[str, str]
) -> Iterator[dict]:
    """Every claim that a published study answers: rows of chapter and :data:`studylib.results.verdicts.COLUMNS`.

    For a chapter that the study has not run, its published nodes answer where they can. They also put an interval
    behind a chapter's difference without one.

    Args:
        about: what the study says of itself.
        nodes: a row for each node of its first seed.
        measured: chapter → claim → what was measured.
        numbers: chapter → its number; claims of other chapters are left out.
    """
    by_nodes = {}
    if teacher_kind(about) != RESTORED:  # whose teacher is another study's file
        by_nodes = verdicts.of_nodes(nodes.set_index("node"), about["data"]["test"])
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


def lowest(key: str, measured: list[claims.Measured]) -> str:
    """The lowest of what was measured of a claim on CIFAR-10, in words: its rival, value and verdict."""
    least, claim = min(measured, key=lambda each: each.value), claims.CLAIMS[key]
    rival = f"against the {least.against}: " if least.against else ""
    return f"{rival}{verdicts.text(least, claim.unit)}, {verdicts.verdict(claim, least, claims.PAPER_DATA)}"


def goals(files: pd.DataFrame, studies: dict[str, dict], gains: dict[str, list[claims.Measured]]) -> Iterator[dict]:
    """What CIFAR-10 networks are to reach that are no files of a size, each beside the best of ours.

    Args:
        files: rows of study, name, node, network, val_accuracy, test_accuracy (0…1); of points also sparsity and
            val_accuracy_pruned.
        studies: study → what it says of itself.
        gains: study → what its distilled students gained.

    Returns:
        Rows of what, goal, from (whose it is), ours, verdict.
    """
    every = files.set_index("name")
    node, kind = every["node"], every["study"].map({study: teacher_kind(about) for study, about in studies.items()})
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
