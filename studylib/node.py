"""The two ends of every stage notebook: what it starts from, and the folder it leaves behind."""

import shutil
import time
from pathlib import Path

import torch
from torch import nn

from studylib import data as datasets
from studylib import size, store, train
from studylib.sweep import LOGITS, METRICS


class Node:
    """A folder of the tree in the making.

    Use it as every stage notebook does::

        node = Node(out, dataset, seed, threads, device)
        model = technique.apply(node.load(parent), node.data, ..., scratch=node.scratch)
        metrics = node.finish(model)

    Args:
        out: the folder to write, absolute or below the study's root.
        dataset: name of a data set, see :func:`studylib.data.load`.
        seed: decides the split, the initial weights and every draw of the training.
        threads: CPU threads for torch; 0 leaves its default.
        device: auto, cpu or cuda.
    """

    def __init__(self, out: str | Path, dataset: str, seed: int, threads: int = 0, device: str = "auto"):
        self.device = train.set_up(threads, device)
        self.out = store.resolve(out)
        self.scratch = self.out / "unfinished"
        self.data = datasets.load(dataset, seed)
        self.started = time.perf_counter()

    def load(self, parent: str | Path) -> nn.Module:
        """The model in the folder ``parent``, on the node's device.

        Raises:
            studylib.store.CheckpointError: no model there (says which command makes it), or a damaged one.
        """
        return store.load_model(store.resolve(parent)).to(self.device)

    def reuse(self, made: str | Path) -> nn.Module | None:
        """The model of the node in the folder ``made``, its history with it; None where ``made`` is empty.

        A chapter shows what the tree has trained already instead of training it again.

        Raises:
            studylib.store.CheckpointError: no node there, or a damaged one.
        """
        if not str(made):
            return None
        model = self.load(made)
        model.history = store.read_json(store.resolve(made) / METRICS)["history"]
        return model

    @property
    def about(self) -> dict:
        """Where numbers made here come from: data, seed, commit, date, versions, hardware."""
        data = {"name": self.data.name, "seed": self.data.seed, **self.data.sizes}
        return {"data": data, "provenance": store.provenance()}

    def test_logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, classes) and labels (n,) of the one reading of the test set, as :meth:`finish` stored them."""
        tensors, _ = store.read_tensors(self.out / LOGITS)
        return tensors["logits"], tensors["labels"]

    def finish(self, model: nn.Module) -> dict:
        """Writes the model, reads it back, evaluates what was read, and writes its metrics.

        The test set is read here, once; its logits are stored, and whatever is said of them later comes
        from there.

        Returns:
            What ``metrics.json`` holds.
        """
        seconds, history = time.perf_counter() - self.started, model.history
        store.save_model(self.out, model)
        model = store.load_model(self.out).to(self.device)
        logits = train.predict(model, self.data.test, self.data).cpu()
        store.write_tensors(self.out / LOGITS, {"logits": logits, "labels": self.data.test.labels})
        metrics = {
            "seed": self.data.seed,
            **{f"test_{name}": value for name, value in train.scores(logits, self.data.test.labels).items()},
            "val_accuracy": train.accuracy(model, self.data.validation, self.data),
            **size.accountings(model),
            "bytes_file": size.file_bytes(self.out),
            "multiply_adds": size.multiply_adds(model, self.data.model_args),
            "sparsity": size.sparsity(model),
            "seconds": seconds,
            "peak_memory_mb": size.peak_memory_mb(),
            "changes": model.spec["changes"],
            "history": history,
            **self.about,
        }
        store.write_json(self.out / METRICS, metrics)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return metrics
