"""Chapter 7: a run's combinations as rows, the effects of techniques and pairs, and what both say of the claims."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from studylib import settings
from studylib.disk import models
from studylib.disk.files import file_digest, read_json, resolve, root
from studylib.experiments import sweep_effects
from studylib.results import claims, statistics, tables
from studylib.tree import names
from studylib.tree.table import logits, order, read, summary

MEASURES = {  # of effects: the factor that they are told in, and its name
    "test_accuracy": (100, "accuracy (points)"),
    "test_nll": (1, "nll (nats)"),
    "log2 bytes_file": (1, "bytes (doublings)"),
}
ACCOUNTINGS = ["dense", "nonzero", "csr", "bitmap", "sparse", "safetensors", "zstd", "nncodec", "entropy", "file"]


@settings.record
class Tree:
    """Which nodes of a run are read: all combinations of the stages, of each seed."""

    profile: Annotated[str, Field(description="name of the profile, for the record")]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=settings.MOST_SEED)]], Field(min_length=1, description="which seeds to read")
    ]
    stages: Annotated[list[str], Field(description="techniques in the order in which they are applied")]

    def check(self) -> None:
        settings.check_different(self, "seeds", "stages")

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes (:func:`studylib.tree.names.nodes`)."""
        return names.nodes(self.stages)


def folder_of(run: str, tree: Tree) -> Path:
    """The folder of the run.

    Raises:
        FileNotFoundError: no run there; says which command makes it.
    """
    folder = resolve(run)
    if not (folder / f"seed{tree.seeds[0]}" / names.TEACHER / names.METRICS).exists():
        command = f"make study PROFILE={folder.name}"
        raise FileNotFoundError(f"{folder}: no run here. In {root()}, this makes it:  {command}")
    return folder


def about(run: str, tree: Tree) -> dict:
    """Profile, seeds, data, and the provenance of the first seed's root."""
    first = read_json(folder_of(run, tree) / f"seed{tree.seeds[0]}" / names.TEACHER / names.METRICS)
    return {
        "profile": tree.profile,
        "seeds": tree.seeds,
        "data": first["data"],
        "provenance": first["provenance"],
    }


def identity(run: str, tree: Tree) -> list[str]:
    """SHA-256 of what the rows are read from: each node's metrics and logits, the run's latencies and reference sizes.

    Raises:
        FileNotFoundError, studylib.disk.files.CheckpointError: no run, or a model other than the measured one.
    """
    folder = folder_of(run, tree)
    files = [path for name in (names.LATENCY, names.NNCODEC) if (path := folder / name).exists()]
    for node in tree.nodes:
        for seed in tree.seeds:
            there = folder / f"seed{seed}" / node
            models.verify(there)
            files += [there / names.METRICS, there / names.LOGITS]
    return [file_digest(path) for path in files]


def nodes(run: str, tree: Tree) -> pd.DataFrame:
    """A row per node and seed, with the columns of :func:`studylib.tree.table.read`."""
    return read(folder_of(run, tree), tree.nodes, tree.seeds)


def bytes_by_count(summary: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`studylib.tree.table.summary`: node, and its bytes by each count (:data:`ACCOUNTINGS`).

    Without "nncodec" where the reference coder was not run (``make nncodec``).
    """
    kinds = [kind for kind in ACCOUNTINGS if kind != "nncodec" or summary["bytes_nncodec"].notna().any()]
    return summary[["node", *(f"bytes_{kind}" for kind in kinds)]].rename(columns=lambda c: c.removeprefix("bytes_"))


def half_precision(summary: pd.DataFrame) -> pd.DataFrame:
    """Of the same rows: kB of both files, percent that half precision saves, points of validation accuracy it costs."""
    return pd.DataFrame(
        {
            "node": summary["node"],
            "float32 kB": summary["bytes_file"] / 1000,
            "float16 kB": summary["bytes_file_float16"] / 1000,
            "saved %": 100 * (1 - summary["bytes_file_float16"] / summary["bytes_file"]),
            "cost in points": 100 * (summary["val_accuracy"] - summary["val_accuracy_float16"]),
        }
    )


def front(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``summary`` on the Pareto front of test accuracy and bytes of the file, the smallest first."""
    return summary[statistics.pareto(summary, "bytes_file", "test_accuracy")].sort_values("bytes_file")


def effects(run: str, tree: Tree, table: pd.DataFrame) -> pd.DataFrame:
    """Effects on accuracy, NLL and the logarithm of bytes: rows of :func:`studylib.experiments.sweep_effects.effects`.

    None where there is no technique.

    Args:
        table: rows of :func:`nodes`.
    """
    if not tree.stages:
        return pd.DataFrame()
    images = per_image(folder_of(run, tree), order(table), tree.seeds)
    parts = [sweep_effects.effects(table, images[column], tree.stages, column) for column in images]
    return pd.concat([*parts, sweep_effects.effects(table, None, tree.stages, "bytes_file", log=True)])


def per_image(run: Path, names: Iterable[str], seeds: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """``test_accuracy`` and ``test_nll`` of each test image: column → node → (seeds, images), from logits of classes.

    Raises:
        studylib.disk.files.CheckpointError: a node has not been run, or left damaged logits; names the file.
    """
    found: dict[str, dict] = {"test_accuracy": {}, "test_nll": {}}
    for name in names:
        both = [logits(Path(run) / f"seed{seed}" / name) for seed in seeds]
        found["test_accuracy"][name] = np.stack([z.argmax(1) == y for z, y in both]).astype(float)
        found["test_nll"][name] = np.stack([_nll(z.astype(float), y) for z, y in both])
    return found


def _nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]


def told(effects: pd.DataFrame, seeds: int) -> str:
    """Which of the :func:`effects` are told from noise, the largest first, in a sentence."""
    if effects.empty:
        return "No technique was applied: there is no effect to tell from noise."
    said = []
    for measure, (factor, name) in MEASURES.items():
        rows = effects[(effects["measure"] == measure) & (effects["verdict"] != statistics.UNKNOWN)]
        rows = rows.sort_values("mean", key=abs, ascending=False)
        listed = ", ".join(f"{tables.effect_name(r.effect)} {factor * r.mean:+.3g}" for r in rows.itertuples())
        said.append(f"{name}: {listed or 'none'}")
    many = effects["effect"].nunique()
    return f"Effects told from noise with n = {seeds} seeds, of {many} each: {'; '.join(said)}."


def claims_of(run: str, tree: Tree, table: pd.DataFrame) -> dict[str, claims.Measured | None]:
    """What the nodes say of the paper's claims, None where a node is not there.

    Accuracies are compared image by image, over seeds and images (:func:`studylib.results.statistics.over_both`).

    Args:
        table: rows of :func:`nodes`.
    """
    folder, there = folder_of(run, tree), order(table)
    images = per_image(folder, there, tree.seeds)["test_accuracy"]

    def measured(claim: claims.Claim) -> claims.Measured | None:
        if not set(claim.nodes) <= set(there):
            return None
        hits = sum(weight * images[node] for node, weight in claim.nodes.items())
        return claims.Measured(*(100 * number for number in statistics.over_both(hits)), n=len(tree.seeds))

    own = {key: claim for key, claim in claims.CLAIMS.items() if claim.chapter == "sweep" and claim.nodes}
    found = {key: measured(claim) for key, claim in own.items()}
    dense, pruned = ("teacher", "teacher-int8"), ("teacher-imp", "teacher-imp-int8")
    if {*dense, *pruned} <= set(there):
        moved = divergence(folder, tree.seeds, *pruned) - divergence(folder, tree.seeds, *dense)
        found["pruned_loses_less"] = claims.Measured(*statistics.over_both(moved), n=len(tree.seeds))
        mean = summary(table).set_index("node")
        left = mean.loc["teacher-imp-int8", "bytes_nonzero"]
        found["best_bytes"] = claims.Measured(left)
        found["best_saved"] = claims.Measured(100 * (1 - left / mean.loc["teacher", "bytes_dense"]))
    return found


def divergence(folder: Path, seeds: list[int], before: str, after: str) -> np.ndarray:
    """KL divergence (seeds, images), in nats, of what the node ``after`` predicts from what ``before`` does."""
    found = []
    for seed in seeds:
        both = (torch.from_numpy(logits(folder / f"seed{seed}" / node)[0]) for node in (before, after))
        z, zq = (each.double().log_softmax(1) for each in both)
        found.append((z.exp() * (z - zq)).sum(1).numpy())
    return np.array(found)
