"""One table over what the nodes of a run left on disk."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from studylib.data.tasks import CLASSIFICATION, Task
from studylib.disk import files
from studylib.tree.names import CODED, LATENCY, LOGITS, METRICS, NNCODEC, TEACHER

BYTES = ["bytes_dense", "bytes_nonzero", "bytes_csr", "bytes_bitmap", "bytes_sparse", "bytes_safetensors", "bytes_zstd"]
BYTES += ["bytes_nncodec", "bytes_entropy", "bytes_file", "bytes_file_float16"]


def columns(task: Task) -> list[str]:
    """The columns of a table of nodes that learn ``task``: its numbers are test_…, the score val_… beside.

    ``agreement`` is of classes alone.
    """
    score, *others = task.numbers
    found = ["node", "seed", f"test_{score}", f"val_{score}", "parameters", "nonzeros", *BYTES]
    found += [f"val_{score}_float16", "latency_ms", *(f"test_{name}" for name in others)]
    return [*found, *(["agreement"] if task.classes else []), "multiply_adds", "sparsity", "seconds", "peak_memory_mb"]


COLUMNS = columns(CLASSIFICATION)


def read_table(path: str | Path, *columns: str) -> pd.DataFrame:
    """The table in the CSV file ``path``, which has ``columns`` at least.

    Raises:
        studylib.disk.files.CheckpointError: it is not a table, or not of a study; names it.
        OSError: the machine cannot read it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            table = pd.read_csv(file)
    except ValueError as error:  # among them those of pandas and of an encoding
        raise files.CheckpointError(f"{path}: not a table ({' '.join(str(error).split())})") from error
    if missing := [column for column in columns if column not in table]:
        raise files.CheckpointError(f"{path}: a table without {', '.join(missing)}: expected that of a study")
    if words := [c for c in columns if c not in ("profile", "node") and not pd.api.types.is_numeric_dtype(table[c])]:
        raise files.CheckpointError(f"{path}: {words[0]} is not a column of numbers: expected the table of a study")
    return table


def read(run: Path, names: Iterable[str], seeds: Iterable[int], task: Task = CLASSIFICATION) -> pd.DataFrame:
    """One row a seed and node of the run in folder ``run``, with the :func:`columns` of ``task``.

    ``agreement`` is the share of test images on which a node predicts what its teacher predicts; ``latency_ms`` comes
    from the run's ``latency.json``, ``bytes_nncodec`` from its ``nncodec.json`` (NaN without one).

    Raises:
        studylib.disk.files.CheckpointError, OSError: a node has not been run, or left a damaged file; names it.
    """
    run, names, wanted = Path(run), list(names), columns(task)
    latency = files.read_json(run / LATENCY)["latency_ms"] if (run / LATENCY).exists() else {}
    reference = files.read_json(run / NNCODEC)["bytes_nncodec"] if (run / NNCODEC).exists() else {}
    rows = []
    for seed in seeds:
        taught = None
        for name in dict.fromkeys([TEACHER, *names]):
            folder = run / f"seed{seed}" / name
            metrics = files.read_json(folder / METRICS)
            row = {**metrics, "node": name, "seed": seed, "latency_ms": latency.get(name, float("nan"))}
            row["bytes_nncodec"] = reference.get(f"seed{seed}", {}).get(name, float("nan"))
            if task.classes:
                predicted = logits(folder)[0].argmax(1)
                taught = predicted if taught is None else taught
                row["agreement"] = float((predicted == taught).mean())
            if missing := [column for column in wanted if column not in row]:
                raise files.CheckpointError(f"{folder / METRICS}: {missing[0]} is missing")
            if files.file_digest(folder / CODED) != metrics.get("file_sha256"):
                raise files.CheckpointError(f"{folder / CODED}: not the file that was measured (another SHA-256)")
            if name in names:
                rows.append({column: float("nan") if row[column] is None else row[column] for column in wanted})
    return pd.DataFrame(rows, columns=wanted)


def logits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and labels (n,) of the test images, as the node in ``folder`` stored them.

    Raises:
        studylib.disk.files.CheckpointError: it has not been run, or left damaged ones; names the file.
    """
    tensors, _ = files.read_tensors(folder / LOGITS)
    if missing := {"logits", "labels"} - tensors.keys():
        raise files.CheckpointError(f"{folder / LOGITS}: not the logits of a node ({missing.pop()} is missing)")
    return tensors["logits"].numpy(), tensors["labels"].numpy()


def order(table: pd.DataFrame) -> list[str]:
    """The nodes of ``table`` as they stand in it, each once."""
    return list(table["node"].unique())


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a node: for each number its mean, and as ``<column>_sd`` its standard deviation over seeds (n − 1).

    ``saved`` is the share of the teacher's ``bytes_file`` that the node does without, seed by seed.
    """
    whole = table[table["node"] == TEACHER].set_index("seed")["bytes_file"]
    table = table.assign(saved=1 - table["bytes_file"] / table["seed"].map(whole))
    nodes = table.drop(columns="seed").groupby("node", sort=False)
    return nodes.mean().join(nodes.std().add_suffix("_sd")).join(nodes.size().rename("seeds")).reset_index()


def compare(a: pd.DataFrame, b: pd.DataFrame, task: Task = CLASSIFICATION) -> pd.DataFrame:
    """Two sweeps side by side: for each node in either, the task's score and bytes of a and b and b less a.

    ``difference_sd`` is the standard deviation of the score's difference over the seeds they share,
    NaN where they share fewer than two.
    """
    score = f"test_{task.score}"
    means = [t.groupby("node", sort=False)[[score, "bytes_file"]].mean() for t in (a, b)]
    both = pd.concat([means[0].add_suffix("_a"), means[1].add_suffix("_b")], axis=1)
    both["difference"] = both[f"{score}_b"] - both[f"{score}_a"]
    paired = a.merge(b, on=["node", "seed"], suffixes=("_a", "_b"))
    paired["difference_sd"] = paired[f"{score}_b"] - paired[f"{score}_a"]
    both = both.join(paired.groupby("node")["difference_sd"].std())
    both["bytes_ratio"] = both["bytes_file_b"] / both["bytes_file_a"]
    return both.reset_index()
