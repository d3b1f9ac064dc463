"""The two ends of every stage notebook: what it starts from, and the folder it leaves behind."""

import functools
import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from studylib import settings
from studylib.coding import codec, shipped, size
from studylib.data import datasets
from studylib.disk import files, models, provenance
from studylib.networks import cost, layers
from studylib.training import loop
from studylib.tree.names import CODED, LOGITS, METRICS
from studylib.tree.published import Published

log = logging.getLogger(__name__)


class Node:
    """A folder of the tree in the making: ``out``, absolute or below the study's root.

    Use it as every stage notebook does; the other arguments are those of :class:`studylib.settings.Study`::

        node = Node.of(out, study, "03_prune", published)
        metrics = node.make(lambda: technique.apply(node.load(parent), node.data, ..., scratch=node.scratch))
    """

    published: Published | None = None  # what is shown in the place of a node that is made
    chapter: str = ""
    model: nn.Module | None = None  # once it is made

    def __init__(self, out: str | Path, dataset: str, seed: int, threads: int = 0, device: str = "auto"):
        self.study = settings.Study(dataset, seed, threads, device)
        self.device = loop.set_up(threads, device)
        self.out = files.resolve(out)
        self.scratch = self.out / "unfinished"
        self.reused: dict = {}  # where a node that is shown and not trained here comes from
        self.started = time.perf_counter()

    @classmethod
    def of(cls, out: str | Path, study: dict, chapter: str, published: str | Path = "") -> "Node":
        """The node of the notebook ``chapter``; with ``published``, a folder such as figures/digits, what is there.

        ``study``: a :class:`studylib.settings.Study` or the dictionary of one; SettingError where it does not fit.
        CheckpointError where that study has not published the chapter.
        """
        study = settings.read(settings.Study, study, "study")
        if not isinstance(published, str | Path):
            raise settings.SettingError(f"published={published!r}: expected a folder such as figures/digits, or ''")
        node = cls(out, study.dataset, study.seed, study.threads, study.device)
        node.chapter = chapter
        node.published = Published(published, chapter) if str(published) else None
        return node

    @functools.cached_property
    def data(self) -> datasets.Data:
        """The images, split by the study's seed."""
        return datasets.load(self.study.dataset, self.study.seed)

    def make(self, model: Callable[[], nn.Module]) -> dict:
        """:meth:`finish` with what ``model()`` makes or, of a published chapter, the metrics that are published."""
        if self.published:
            return self.published.content["metrics"]
        return self.finish(model())

    def load(self, parent: str | Path) -> nn.Module:
        """The model in ``parent``, on the node's device; CheckpointError: none (names the command), or damaged."""
        return models.load_model(files.resolve(parent)).to(self.device)

    def reuse(self, folder: str | Path) -> nn.Module | None:
        """The model of the node in ``folder``, with its history; None for an empty text, errors as :meth:`load`."""
        if not str(folder):
            return None
        model = self.load(folder)
        metrics = files.read_json(files.resolve(folder) / METRICS)
        model.history, self.reused = metrics["history"], metrics["provenance"]
        return model

    @property
    def about(self) -> dict:
        """Where numbers come from: data, commit, date, hardware; ``made``: those of a node from elsewhere (`reuse`)."""
        if self.published:
            return self.published.about
        data = {"name": self.data.name, "seed": self.data.seed, **self.data.sizes}
        about = {"data": data, "provenance": provenance.provenance(self.data.digest)}
        return about | ({"made": self.reused} if self.reused else {})

    def test_logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, classes) and labels (n,), or outputs and targets, of :meth:`finish`'s reading of the test set."""
        tensors, _ = files.read_tensors(self.out / LOGITS)
        return tensors["logits"], tensors["labels"]

    def finish(self, model: nn.Module) -> dict:
        """Writes the model and its file, reads the file back, evaluates what was read; returns and writes the metrics.

        Two things are left: the model for the next stage (``model.safetensors``, ``model.json``), and the file of what
        inference needs (:data:`studylib.tree.names.CODED`). Every number is of the model decoded from that file, after
        it was seen to be the one encoded (:func:`studylib.coding.codec.verify`). The test set is read here, once, and
        its logits are stored. The data's task scores them. ``model.spec`` gets ``input``, how images are scaled.

        Raises:
            studylib.coding.codec.CodecError: the model cannot be coded, or what is read back is not what was written.
        """
        seconds, history = time.perf_counter() - self.started, model.history
        self.model = model
        model.spec = {**model.spec, "input": self.data.scaling}  # inference needs that, too
        models.save_model(self.out, model)
        form, file = self._ship(model, "float32")
        files.write_bytes(self.out / CODED, file)
        decoded = codec.decode((self.out / CODED).read_bytes())
        validated = self._verify(form, decoded)
        decoded = decoded.to(self.device)
        task, test = self.data.task, self.data.test
        outputs = task.predict(decoded, test, self.data).cpu()
        files.write_tensors(self.out / LOGITS, {"logits": outputs, "labels": test.labels})
        metrics = {
            "seed": self.data.seed,
            **{f"test_{name}": value for name, value in task.scores(outputs, test.labels).items()},
            f"val_{task.score}": validated,
            **size.accountings(models.load_model(self.out)),
            "bytes_file": len(file),
            "file_sha256": hashlib.sha256(file).hexdigest(),
            **self._half_precision(model),
            "multiply_adds": cost.multiply_adds(decoded, self.data.model_args),
            "sparsity": layers.sparsity(model),
            "seconds": seconds,
            "peak_memory_mb": cost.peak_memory_mb(),
            "changes": model.spec["changes"],
            "shipped": form.spec["changes"][len(model.spec["changes"]) :],
            "history": history,
            **self.about,
        }
        files.write_json(self.out / METRICS, metrics)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return metrics

    def _ship(self, model: nn.Module, floats: str) -> tuple[nn.Module, bytes]:
        form = shipped.apply(model, floats=floats)
        return form, codec.encode(form)

    def _verify(self, form: nn.Module, decoded: nn.Module) -> float:
        """Validation score of ``decoded``, whose outputs are seen to be those of the shipped ``form`` bit for bit."""
        codec.verify(form, decoded)
        data = self.data
        both = [data.task.predict(m.to(self.device), data.validation, data) for m in (form, decoded)]
        if not torch.equal(*both):
            raise codec.CodecError(f"{self.out / CODED}: its outputs are not those of the model that was coded")
        return data.task.scores(both[1], data.validation.labels)[data.task.score]

    def _half_precision(self, model: nn.Module) -> dict:
        """Bytes of the file with floats in float16, and its validation score; None where float16 cannot hold one."""
        score = f"val_{self.data.task.score}_float16"
        try:
            form, file = self._ship(model, "float16")
        except shipped.HalfPrecisionError as error:
            log.info("no float16 file: %s", error)
            return {"bytes_file_float16": None, score: None}
        return {"bytes_file_float16": len(file), score: self._verify(form, codec.decode(file))}
