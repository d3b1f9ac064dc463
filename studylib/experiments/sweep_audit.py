"""Chapter 7: the paper's smallest figure beside what its others imply, and what could have produced it."""

import dataclasses
import warnings
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from studylib.coding import codec, size
from studylib.data import datasets, scoring
from studylib.disk import models
from studylib.experiments.sweep import Tree, folder_of
from studylib.networks import blocks, cost, layers, spec
from studylib.results import claims, tables
from studylib.techniques import prune
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import once

PAIR = {"prune", "int8"}  # the stages that the figure is about
NOT_BOTH = "Pruning and int8 are not both in this run: there is nothing of it to hold against the published saving."
STEPS = 4  # to the other sparsity
LAST_DIGIT = 0.005  # points of a saving that the paper gives with two decimals


def relations() -> pd.DataFrame:
    """The paper's figures about pruning + int8 beside what its others imply.

    Returns:
        Rows of what, reported, implied, by (what implies it), reported / implied.
    """
    left = (1 - _said("imp_saved") / 100) * (1 - _said("int8_saved") / 100)
    by_bytes = 100 * (1 - _said("best_bytes") / _said("teacher_bytes"))
    by_accuracy = _said("teacher_accuracy") - _said("best_accuracy")
    step_by_step = _said("teacher_accuracy") - _said("imp_cost") - _said("pruned_int8_cost")
    rows = [
        ("saving (%)", "best_saved", 100 * (1 - left), "what pruning and int8 save alone, multiplied"),
        ("bytes", "best_bytes", _said("teacher_bytes") * left, "the same, from the teacher's bytes"),
        ("saving (%)", "best_saved", by_bytes, "its bytes over the teacher's"),
        ("cost (points)", "best_cost", by_accuracy, "the difference of the accuracies"),
        ("cost (% of the accuracy)", "best_relative", 100 * by_accuracy / _said("teacher_accuracy"), "the same"),
        ("accuracy (%)", "best_accuracy", step_by_step, "the teacher's less each step's cost"),
        ("teacher's accuracy (%)", "teacher_accuracy", _said("teacher_accuracy_method"), "its sections on method"),
    ]
    found = [{"what": what, "reported": _said(key), "implied": implied, "by": by} for what, key, implied, by in rows]
    return pd.DataFrame(found).assign(**{"reported / implied": lambda rows: rows["reported"] / rows["implied"]})


def disagree(relations: pd.DataFrame) -> str:
    """Which :func:`relations` do not agree, and what the published bytes would leave of the weights, in sentences."""
    apart = relations[(relations["reported / implied"] - 1).abs() > 0.01]
    density = _said("best_bytes") / (_said("teacher_bytes") / 4)
    listed = "; ".join(f"{row.what} by {row.by}" for row in apart.itertuples())
    return (
        f"{len(relations) - len(apart)} of {len(relations)} relations agree within a hundredth; "
        f"these do not: {listed}.\n"
        "If every value left took a single byte and nothing else were stored, the reported bytes would allow "
        f"{density:.2%} of the weights, where pruning alone leaves {1 - _said('imp_saved') / 100:.1%} of the bytes."
    )


def parameters_left(model: nn.Module, fuse: bool) -> int | None:
    """Bytes of ``.parameters()`` of ``model`` after the eager conversion to int8, batch norm fused before it or not.

    The conversion is torch.ao.quantization's, which is deprecated: None where it is gone. Its int8 layers keep their
    weights packed, where ``.parameters()`` does not look.
    """
    try:
        from torch.ao import quantization as eager
    except ImportError:
        return None
    m = layers.duplicate(model).cpu().eval()
    units = {name: unit for name, unit in m.named_modules() if isinstance(unit, blocks.ConvUnit)}
    if fuse:
        parts = [[f"{name}.{part}" for part in unit._modules] for name, unit in units.items()]
        eager.fuse_modules(m, parts, inplace=True)
    m.qconfig = eager.get_default_qconfig("x86")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the deprecation
        eager.prepare(m, inplace=True)
        m(cost.example(m.spec["args"], 8))
        eager.convert(m, inplace=True)
    return sum(p.numel() * p.element_size() for p in m.parameters())


def candidates(run: str, tree: Tree, summary: pd.DataFrame) -> list[dict]:
    """What could have produced the published saving, computed from the first seed's models; [] without :data:`PAIR`.

    Args:
        summary: of :func:`studylib.tree.table.summary`.

    Returns:
        Rows of candidate, bytes, of (bytes of the whole network), saved %, from the published (points), reproduces it.
    """
    if not PAIR.issubset(tree.stages):
        return []
    teacher, pruned, both = (_load(run, tree, node) for node in ("teacher", "teacher-imp", "teacher-imp-int8"))
    whole, own = size.accountings(teacher)["bytes_dense"], size.accountings(both)
    values = round(_weights(both) * (1 - layers.sparsity(both)))
    one = summary.set_index("node")["bytes_nonzero"] / whole
    found = {
        "our savings multiplied": whole * one["teacher-imp"] * one["teacher-int8"],
        "values alone, positions free": values,
        "with biases and scales (the paper's count)": own["bytes_nonzero"],
        "with positions, the cheapest of dense, bitmap and CSR": own["bytes_sparse"],
        "the coded file": len(codec.encode(both)),
        "biases and scales alone, no weight left": own["bytes_nonzero"] - values,
    }
    rows = [{"candidate": name, "bytes": b, "of": whole} for name, b in found.items()]
    return [_judged(row) for row in [*rows, *_trapped(pruned, whole)]]


def _trapped(ours: nn.Module, whole: int) -> list[dict]:
    """Rows of :func:`parameters_left` for ``ours`` and the paper's DenseNet as it is drawn; [] where that is gone."""
    big = spec.create("densenet", 0, depth=claims.PAPER_DEPTH, in_channels=3, image_size=32, classes=10)
    base = size.accountings(big)["bytes_dense"]
    rows = []
    for name, model, full in (("ours", ours, whole), (f"DenseNet-{claims.PAPER_DEPTH}, untrained", big, base)):
        for fuse, how in ((True, "batch norm fused"), (False, "batch norm not fused")):
            label = f".parameters() after eager int8, {how}, {name}"
            rows.append({"candidate": label, "bytes": parameters_left(model, fuse), "of": full})
    return [row for row in rows if row["bytes"] is not None]


def _judged(row: dict) -> dict:
    saved = 100 * (1 - row["bytes"] / row["of"])
    away = saved - _said("best_saved")
    return {**row, "saved %": saved, "from the published": away, "reproduces it": bool(abs(away) <= LAST_DIGIT)}


def sparser(run: str, tree: Tree, dataset: str, recipe: Recipe, device: torch.device, folder: Path) -> list[dict]:
    """The pruned network on its way to where its values alone, a byte each, fit the published saving; [] without PAIR.

    It gets there in :data:`STEPS` steps, its weights kept, with a tenth of the epochs of ``recipe`` after each.

    Args:
        folder: what is trained is kept there.

    Returns:
        A row per step, the first before any: sparsity, accuracy (0…1, on validation images), needed. The last is the
        share of zeros at which the values fit.
    """
    if not PAIR.issubset(tree.stages):
        return []
    teacher, start, both = (_load(run, tree, node) for node in ("teacher", "teacher-imp", "teacher-imp-int8"))
    now, needed = layers.sparsity(both), 1 - _wanted(size.accountings(teacher)["bytes_dense"]) / _weights(both)
    levels = [1 - (1 - now) * ((1 - needed) / (1 - now)) ** (k / STEPS) for k in range(1, STEPS + 1)]
    levels = levels if needed > now else []
    short = dataclasses.replace(recipe, epochs=max(1, recipe.epochs // 10))
    seed, images = tree.seeds[0], datasets.load(dataset, tree.seeds[0])

    def accuracies() -> list[float]:
        first, how = start.to(device), {"method": "learning_rate", "recipe": short, "seed": seed}
        found = prune.trajectory(first, images, levels, **how, scratch=folder / "sparser") if levels else []
        return [scoring.accuracy(model, images.validation, images) for model in (first, *found)]

    key = [weights_digest(start), levels, dataclasses.asdict(short), images.identity, seed]
    reached = once(folder / "sparser.json", key, accuracies)
    return [{"sparsity": s, "accuracy": a, "needed": needed} for s, a in zip([now, *levels], reached, strict=True)]


def table(candidates: pd.DataFrame) -> str:
    """The rows of :func:`candidates` in Markdown, above them what the published saving would leave."""
    if candidates.empty:
        return NOT_BOTH
    whole = candidates["of"].iloc[0]
    said = f"The published saving would leave {_wanted(whole):,.0f} bytes of our {whole:,}."
    return f"{said}\n\n{tables.markdown_rows(candidates, digits=3)}"


def steps(sparser: pd.DataFrame) -> str:
    """The rows of :func:`sparser` in a sentence."""
    if sparser.empty:
        return NOT_BOTH
    listed = ", ".join(f"{row.accuracy:.1%} at {row.sparsity:.2%}" for row in sparser.itertuples())
    return f"Values alone fit at {sparser['needed'].iloc[0]:.2%} zeros. Validation accuracy: {listed}."


def told(relations: pd.DataFrame, candidates: pd.DataFrame) -> str:
    """What the audit found, in sentences: by how much the figure is off, and which candidate comes nearest."""
    times = 1 / relations["reported / implied"].min()
    said = f"The paper's {_said('best_bytes'):,.0f} bytes are {times:.0f} times fewer than its own savings imply."
    if candidates.empty:
        return f"{said} {NOT_BOTH}"
    near = candidates.loc[candidates["from the published"].abs().idxmin()]
    yes = "; ".join(candidates[candidates["reproduces it"]]["candidate"]) or "none of the candidates"
    nearest = f"{near['candidate']}, {near['bytes']:,.0f} bytes ({near['saved %']:.2f} % saved)"
    return f"{said} Reproduced to its last digit by: {yes}; nearest: {nearest}."


def _load(run: str, tree: Tree, node: str) -> nn.Module:
    return models.load_model(folder_of(run, tree) / f"seed{tree.seeds[0]}" / node)


def _weights(model: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in layers.weight_layers(model).values())


def _wanted(whole: float) -> float:
    """Bytes that the published saving would leave of ``whole``."""
    return (1 - _said("best_saved") / 100) * whole


def _said(claim: str) -> float:
    return claims.CLAIMS[claim].value
