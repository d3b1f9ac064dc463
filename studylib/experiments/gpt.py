"""Chapter 10: a transformer of characters made smaller by every combination, rounded and factorized in other ways."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from studylib.coding import codec
from studylib.data import text
from studylib.disk import models
from studylib.experiments.svd import fisher
from studylib.networks.calibration import check_calibration
from studylib.results import statistics
from studylib.settings import check_different, record
from studylib.techniques import distill, dynamic, int4, int8, prune, svd, teacher
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree import names, table
from studylib.tree.node import Node
from studylib.tree.rows import Task, every, once

STAGES = ("distill", "prune", "svd", "int8")
FILES = (models.SPEC, models.TENSORS, names.CODED, names.LOGITS, names.METRICS)  # of a node's folder
HEADS = 4  # of the network's attention: widths are its multiples
ROUNDED, FACTORIZED, TUNED = "rounded", "factorized", ", fine-tuned"
WIDTH = Annotated[int, Field(ge=HEADS, le=4096, multiple_of=HEADS)]


@record
class Transformer:
    """The network (:class:`studylib.networks.gpt.GPT`), its student, and narrower ones; widths are multiples of 4."""

    depth: Annotated[int, Field(ge=1, le=64, description="blocks of attention and perceptron")] = 2
    width: Annotated[WIDTH, Field(description="features of a character, a multiple of four")] = 32
    student: Annotated[WIDTH, Field(description="width of the student, which is distilled")] = 16
    narrower: Annotated[
        list[WIDTH], Field(description="widths of dense networks trained alone, to compare with at equal bytes")
    ] = dataclasses.field(default_factory=lambda: [8, 16])
    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds, from the study's on")] = 1
    prompt: Annotated[str, Field(min_length=1, description="what each network goes on writing from")] = "The "

    def check(self) -> None:
        check_different(self, "narrower")


@record
class Compressing:
    """What the techniques do to it."""

    temperature: Annotated[float, Field(ge=1e-3, le=1e4, description="T, softens teacher and student alike")] = 2.0
    alpha: Annotated[
        float, Field(ge=0, le=1, description="weight of the teacher's soft targets; the text gets the rest")
    ] = 0.5
    rounds: Annotated[int, Field(ge=1, le=1000, description="how often to prune")] = 6
    fraction: Annotated[float, Field(gt=0, lt=1, description="share of the remaining weights that a round removes")] = (
        0.2
    )
    tolerance: Annotated[float, Field(ge=0, le=1, description="bits per character that a round may lose")] = 0.02
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of recovery at most, and of fine-tuning")] = 1
    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate of both at its highest")] = 2e-3
    delta: Annotated[int, Field(ge=0, le=4096, description="Δ, how far below the break-even rank to go")] = 1
    deltas: Annotated[
        list[Annotated[int, Field(ge=0, le=4096)]], Field(description="Δ compared, plain and weighted")
    ] = dataclasses.field(default_factory=lambda: [1, 8])
    bits: Annotated[
        list[Annotated[int, Field(ge=2, le=8)]], Field(description="of weights in groups, rounded and by GPTQ")
    ] = dataclasses.field(default_factory=lambda: [4, 3])
    group: Annotated[int, Field(ge=0, le=4096, description="most neighbours that share a scale; 0: a channel")] = 32
    calibration_images: Annotated[int, Field(ge=1, description="training blocks that fix ranges and GPTQ")] = 512

    def check(self) -> None:
        check_different(self, "deltas", "bits")

    def fits(self, corpus: text.Corpus) -> None:
        """Raises ValueError where the text has fewer training blocks than calibration asks for."""
        check_calibration(self.calibration_images, text.load(corpus))

    def recovery(self, recipe: Recipe) -> Recipe:
        """``recipe`` as it is after a technique."""
        return dataclasses.replace(recipe, epochs=self.epochs, lr=self.lr, min_lr=min(recipe.min_lr, self.lr))


class Characters(Node):
    """A node that learns the text ``corpus``, whatever the study's images."""

    corpus = text.Corpus()

    @functools.cached_property
    def data(self) -> text.Text:
        return text.load(self.corpus, self.study.seed)


def folder_of(node: Node, seed: int, name: str) -> Path:
    """Where a network of the chapter lies."""
    return node.out / "points" / f"seed{seed}" / name


def seeds_of(node: Node, network: Transformer) -> range:
    """The seeds of the chapter, from the study's on."""
    return range(node.study.seed, node.study.seed + network.repetitions)


def tree(node: Characters, network: Transformer, compressing: Compressing, recipe: Recipe) -> list[dict]:
    """A row a seed and combination of the four techniques; each is a node's folder below points/, and made once.

    Columns:
        seed, node: of the row, nodes named as in chapter 7.
        bytes, zeros: of the file; share of its weights that are zero.
        val_bits, test_bits: bits per character.
        low, high: interval (95 %) of test_bits over the blocks.
        costs, costs_low, costs_high: test_bits over the teacher's, with the interval over the blocks.
    """
    rows = []
    for seed in seeds_of(node, network):
        for name in names.nodes(STAGES):
            make = functools.partial(_made, name, node, network, compressing, recipe, seed)
            rows.append({"seed": seed, "node": name} | _kept(node, network, seed, name, make, [compressing, recipe]))
    return rows


def narrower(node: Characters, network: Transformer, compressing: Compressing, recipe: Recipe) -> list[dict]:
    """A row a seed, width and form (float32 or int8) of dense networks that are trained alone; columns as :func:`tree`.

    ``width`` and ``form`` are in the place of ``node``. The teacher's own width is among them.
    """
    rows = []
    for seed in seeds_of(node, network):
        for width in [*network.narrower, network.width]:
            for form in ("float32", "int8"):
                name = names.TEACHER if width == network.width else f"width{width}"
                name += "-int8" if form == "int8" else ""
                make = functools.partial(_narrow, name, width, node, network, compressing, recipe, seed)
                row = _kept(node, network, seed, name, make, [compressing, recipe])
                rows.append({"seed": seed, "width": width, "form": form} | row)
    return rows


def _kept(node: Characters, network: Transformer, seed: int, name: str, make: Callable, records: list) -> dict:
    folder, kept = folder_of(node, seed, name), node.out / "rows" / "points" / f"seed{seed}" / f"{name}.json"
    if not all((folder / file).exists() for file in FILES):
        kept.unlink(missing_ok=True)
    own = "depth", "width", "student"
    shape = {key: value for key, value in dataclasses.asdict(network).items() if key in own}
    decides = [{k: v for k, v in dataclasses.asdict(each).items() if k not in ("deltas", "bits")} for each in records]
    key = [shape, *decides, node.data.digest, seed, name]

    def row() -> dict:
        kept.unlink(missing_ok=True)  # of what is now in the folder
        point = Characters(folder, node.study.dataset, seed, node.study.threads, node.study.device)
        point.corpus = node.corpus
        metrics = point.finish(make(point))
        blocks, whole = stored_bits(folder), stored_bits(folder_of(node, seed, names.TEACHER))
        found = {"bytes": metrics["bytes_file"], "zeros": metrics["sparsity"]}
        return found | {"val_bits": metrics["val_bits_per_char"]} | beside(blocks, whole)

    return once(kept, key, row)


def beside(blocks: np.ndarray, whole: np.ndarray) -> dict:
    """``test_bits`` of a network and what it ``costs`` over the whole one, with intervals over the blocks (n,)."""
    (low, high), (costs_low, costs_high) = statistics.t_interval(blocks), statistics.t_interval(blocks - whole)
    found = {"test_bits": float(blocks.mean()), "low": low, "high": high, "costs": float((blocks - whole).mean())}
    return found | {"costs_low": costs_low, "costs_high": costs_high}


def stored_bits(folder: Path) -> np.ndarray:
    """Bits per character of each test block (n,), as the node in ``folder`` stored them."""
    return table.logits(folder)[0].astype(float).mean(1)


def _made(
    name: str,
    node: Characters,
    network: Transformer,
    compressing: Compressing,
    recipe: Recipe,
    seed: int,
    point: Characters,
) -> nn.Module:
    """The network of the node ``name``: of its parent by its last technique."""
    parent = names.parent_of(name)
    if parent is None:
        return _trained(network.width, network, recipe, seed, point)
    model, data = point.load(folder_of(node, seed, parent)), point.data
    technique = name.rpartition("-")[2]
    if technique == names.part("distill"):
        student = f"gpt {network.depth}-{network.student}"
        how = {"temperature": compressing.temperature, "alpha": compressing.alpha, "name": student}
        return distill.apply(model, data, recipe=recipe, seed=seed, scratch=point.scratch, **how)
    if technique == names.part("prune"):
        how = {"rounds": compressing.rounds, "fraction": compressing.fraction, "tolerance": compressing.tolerance}
        recovery = compressing.recovery(recipe)
        return prune.apply(model, data, recipe=recovery, seed=seed, scratch=point.scratch, **how)
    if technique == "svd":
        return svd.apply(model, delta=compressing.delta)
    return int8.apply(model, data, calibration_images=compressing.calibration_images, seed=seed)


def _narrow(
    name: str,
    width: int,
    node: Characters,
    network: Transformer,
    compressing: Compressing,
    recipe: Recipe,
    seed: int,
    point: Characters,
) -> nn.Module:
    if not (parent := names.parent_of(name)):
        return _trained(width, network, recipe, seed, point)
    model = point.load(folder_of(node, seed, parent))
    return int8.apply(model, point.data, calibration_images=compressing.calibration_images, seed=seed)


def _trained(width: int, network: Transformer, recipe: Recipe, seed: int, point: Characters) -> nn.Module:
    how = {"depth": teacher.Network.depth, "name": f"gpt {network.depth}-{width}", "device": point.device}
    return teacher.apply(point.data, recipe=recipe, seed=seed, scratch=point.scratch, **how)


def ways(node: Characters, network: Transformer, compressing: Compressing, recipe: Recipe) -> list[dict]:
    """A row a seed and another way to round or factorize the teacher; each is coded, decoded and measured.

    Columns:
        kind: :data:`ROUNDED` or :data:`FACTORIZED`.
        way: in words; fine-tuned ones are trained on by the recipe of recovery.
        setting: bits of a weight, or Δ.
        bytes, val_bits, test_bits, low, high, costs, costs_low, costs_high: as in :func:`tree`.
    """
    key = [dataclasses.asdict(compressing), dataclasses.asdict(recipe), dataclasses.asdict(network), node.data.digest]
    return list(every(_ways(node, network, compressing, recipe), node.out / "rows" / "ways", key))


def _ways(node: Characters, network: Transformer, compressing: Compressing, recipe: Recipe) -> Iterator[Task]:
    data, tuning = node.data, compressing.recovery(recipe)
    blocks = {"calibration_images": compressing.calibration_images}
    for seed in seeds_of(node, network):
        whole = node.load(folder_of(node, seed, names.TEACHER))
        before = stored_bits(folder_of(node, seed, names.TEACHER))

        def task(kind, way, setting, make, seed=seed, before=before) -> Task:
            of = {"seed": seed, "kind": kind, "way": way, "setting": setting}
            return of, lambda: [measured(make(), data, before)]

        yield task(ROUNDED, "dynamic int8", 8, functools.partial(dynamic.apply, whole))
        yield task(ROUNDED, "static int8", 8, functools.partial(int8.apply, whole, data, seed=seed, **blocks))
        for bits in compressing.bits:
            for way, rounding in (("to the nearest", "nearest"), ("GPTQ", "gptq")):
                how = {"bits": bits, "group": compressing.group, "rounding": rounding, "seed": seed} | blocks
                yield task(ROUNDED, f"groups, {way}", bits, functools.partial(int4.apply, whole, data, **how))
        importance = functools.cache(functools.partial(fisher, whole, data, 32))
        for delta in compressing.deltas:
            for way, weights in (("SVD", dict), ("Fisher-weighted SVD", importance)):

                def cut(delta=delta, weights=weights, whole=whole):
                    return svd.apply(whole, delta=delta, importance=weights() or None)

                def tuned(cut=cut, seed=seed):
                    model = cut()
                    loop.fit(model, data, tuning, seed=seed)
                    return model

                yield task(FACTORIZED, way, delta, cut)
                yield task(FACTORIZED, way + TUNED, delta, tuned)


def measured(model: nn.Module, data: text.Text, whole: np.ndarray) -> dict:
    """Bytes of the file of ``model``, and bits of what is decoded from it beside ``whole``, of test blocks (n,)."""
    model.spec = {**model.spec, "input": data.scaling}
    file = codec.encode(model)
    decoded = codec.decode(file)
    blocks = text.bits(decoded, data.test, data).double().mean(1).numpy()
    found = {"bytes": len(file), "val_bits": data.task.score_of(decoded, data.validation, data)}
    return found | beside(blocks, whole)


def written(node: Characters, network: Transformer, chosen: list[str], count: int = 160) -> list[dict]:
    """What networks of the first seed write after the prompt, and how fast: a row for each of ``chosen``.

    Columns:
        node: its name.
        text: ``count`` characters by seed 0, each drawn from all that the network gives.
        per_second: characters a second of a processor, one by one, operation by operation.
        read_per_second: characters a second of a processor whose probabilities are asked of whole blocks.
        memory: bytes of all numbers of the network as it runs.
    """
    rows, seed, data = [], node.study.seed, node.data
    for name in dict.fromkeys(chosen):
        model = codec.decode((folder_of(node, seed, name) / names.CODED).read_bytes())
        text.sampled(model, network.prompt, 8, seed=0)  # to be warm
        seconds, said = _timed(functools.partial(text.sampled, model, network.prompt, count, seed=0))
        reading, _ = _timed(functools.partial(text.bits, model, data.test, data))
        held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        row = {"node": name, "text": said, "per_second": count / seconds, "memory": held}
        rows.append(row | {"read_per_second": data.test.labels.numel() / reading})
    return rows


def _timed(function: Callable) -> tuple[float, object]:
    """Seconds of a processor, on one thread, and the result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    found = function()
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return seconds, found
