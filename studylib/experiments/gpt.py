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
from studylib.experiments import generative
from studylib.experiments.generative import beside
from studylib.experiments.svd import fisher
from studylib.networks import layers
from studylib.networks.calibration import check_calibration
from studylib.settings import check_different, record
from studylib.techniques import distill, dynamic, int4, int8, svd, teacher
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree import names, table
from studylib.tree.node import Node
from studylib.tree.rows import Task, every

HEADS = 4  # of the network's attention: widths are its multiples
ROUNDED, FACTORIZED, TUNED = "rounded", "factorized", ", fine-tuned"
WHOLE = "whole network"  # a way that changes nothing, to be fine-tuned as others are
RUNS = 30  # of neighbouring blocks: about as many intervals are over
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
        generative.check_widths(self)

    def fits(self, corpus: text.Corpus) -> None:
        """Raises ValueError where the prompt has a character that the text lacks."""
        if wrong := [letter for letter in self.prompt if letter not in text.load(corpus).classes]:
            raise ValueError(f"prompt={self.prompt!r}: {wrong[0]!r}: expected characters of the text {corpus.name}")


@record
class Compressing(generative.Compressing):
    """What the techniques do to it: the four of every combination, and others."""

    rounds: Annotated[int, Field(ge=1, le=1000, description="how often to prune")] = 6
    tolerance: Annotated[
        float, Field(ge=0, le=8, description="validation bits per character that pruned networks may lose")
    ] = 0.02
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of recovery at most, and of fine-tuning")] = 1
    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate of both at its highest")] = 2e-3
    temperature: Annotated[float, Field(ge=1e-3, le=1e4, description="T, softens teacher and student alike")] = 2.0
    deltas: Annotated[
        list[Annotated[int, Field(ge=0, le=4096)]], Field(description="Δ compared, plain and weighted")
    ] = dataclasses.field(default_factory=lambda: [1, 8])
    bits: Annotated[
        list[Annotated[int, Field(ge=2, le=8)]], Field(description="of weights in groups, rounded and by GPTQ")
    ] = dataclasses.field(default_factory=lambda: [4, 3])
    group: Annotated[int, Field(ge=0, le=4096, description="most neighbours that share a scale; 0: a channel")] = 32

    def check(self) -> None:
        check_different(self, "deltas", "bits")

    def against(self, data: object) -> None:
        """The study's images are not read."""

    def fits(self, corpus: text.Corpus) -> None:
        """Raises ValueError where the text has fewer training blocks than calibration asks for."""
        check_calibration(self.calibration_images, text.load(corpus))


class Characters(Node):
    """A node that learns the text ``corpus``, whatever the study's images."""

    corpus = text.Corpus()

    @functools.cached_property
    def data(self) -> text.Text:
        return text.load(self.corpus, self.study.seed)


class Family(generative.Family):
    """A transformer, its student and narrower ones."""

    below, runs = "text/", RUNS

    def point(self, folder: Path, seed: int) -> Characters:
        study = self.node.study
        point = Characters(folder, study.dataset, seed, study.threads, study.device)
        point.corpus = self.node.corpus
        return point

    def trained(self, width: int, seed: int, point: Node, recipe: Recipe) -> nn.Module:
        how = {"depth": teacher.Network.depth, "name": f"gpt {self.network.depth}-{width}", "device": point.device}
        return teacher.apply(point.data, recipe=recipe, seed=seed, scratch=point.scratch, **how)

    def student(self, model: nn.Module, seed: int, point: Node) -> nn.Module:
        how = {"temperature": self.compressing.temperature, "alpha": self.compressing.alpha}
        how["name"] = f"gpt {self.network.depth}-{self.network.student}"
        return distill.apply(model, point.data, recipe=self.recipe, seed=seed, scratch=point.scratch, **how)

    def bits(self, folder: Path) -> np.ndarray:
        return table.logits(folder)[0].astype(float).mean(1)


def ways(family: Family) -> list[dict]:
    """A row a seed and another way to round or factorize the teacher; each is coded, decoded and measured.

    Columns:
        kind: :data:`ROUNDED` or :data:`FACTORIZED`.
        way: in words; fine-tuned ones are trained on by the recipe of recovery.
        setting: bits of a weight, or Δ; 0 of the whole network.
        bytes, val_bits, test_bits, low, high, costs, costs_low, costs_high: as in :meth:`Family.tree`.
    """
    records = [dataclasses.asdict(each) for each in (family.compressing, family.recipe, family.network)]
    return list(every(_ways(family), family.node.out / "rows" / "ways", [*records, family.node.data.digest]))


def _ways(family: Family) -> Iterator[Task]:
    node, data, compressing = family.node, family.node.data, family.compressing
    tuning, blocks = compressing.recovery(family.recipe), {"calibration_images": compressing.calibration_images}
    for seed in family.seeds:
        folder = family.folder_of(seed, names.TEACHER)
        whole, before = node.load(folder), family.bits(folder)

        def task(kind, way, setting, make, seed=seed, before=before) -> Task:
            of = {"seed": seed, "kind": kind, "way": way, "setting": setting}
            return of, lambda: [measured(make(), data, before)]

        yield task(ROUNDED, "dynamic int8", 8, functools.partial(dynamic.apply, whole, per="sample"))
        yield task(ROUNDED, "static int8", 8, functools.partial(int8.apply, whole, data, seed=seed, **blocks))
        for bits in compressing.bits:
            for way, rounding in (("to the nearest", "nearest"), ("GPTQ", "gptq")):
                how = {"bits": bits, "group": compressing.group, "rounding": rounding, "seed": seed} | blocks
                yield task(ROUNDED, f"groups, {way}", bits, functools.partial(int4.apply, whole, data, **how))
        importance = functools.cache(functools.partial(fisher, whole, data, 32))

        def tuned(cut, name, seed=seed):
            model, checkpoint = cut(), node.scratch / f"{name}-{seed}.safetensors"
            loop.fit(model, data, tuning, seed=seed, checkpoint=checkpoint)
            checkpoint.unlink()
            return model

        copy = functools.partial(layers.duplicate, whole)
        yield task(FACTORIZED, WHOLE + TUNED, 0, functools.partial(tuned, copy, WHOLE))
        for delta in compressing.deltas:
            for way, weights in (("SVD", dict), ("Fisher-weighted SVD", importance)):

                def cut(delta=delta, weights=weights, whole=whole):
                    return svd.apply(whole, delta=delta, importance=weights() or None)

                yield task(FACTORIZED, way, delta, cut)
                yield task(FACTORIZED, way + TUNED, delta, functools.partial(tuned, cut, f"{way}-{delta}"))


def measured(model: nn.Module, data: text.Text, whole: np.ndarray) -> dict:
    """Bytes of the file of ``model``, and bits of what is decoded from it beside ``whole``, of test blocks (n,)."""
    model.spec = {**model.spec, "input": data.scaling}
    file = codec.encode(model)
    decoded = codec.decode(file)
    blocks = text.bits(decoded, data.test, data).double().mean(1).numpy()
    found = {"bytes": len(file), "val_bits": data.task.score_of(decoded, data.validation, data)}
    return found | beside(blocks, whole, RUNS)


def written(family: Family, chosen: list[str], count: int = 160) -> list[dict]:
    """What networks of the first seed write after the prompt, and how fast: a row for each of ``chosen``.

    Columns:
        node: its name.
        text: ``count`` characters by seed 0, each drawn from all that the network gives.
        per_second: characters a second of a processor, one by one, operation by operation.
        read_per_second: characters a second of a processor whose probabilities are asked of whole blocks.
        memory: bytes of all numbers of the network as it runs.
    """
    rows, data, prompt = [], family.node.data, family.network.prompt
    for name in dict.fromkeys(chosen):
        model = codec.decode((family.folder_of(family.seeds[0], name) / names.CODED).read_bytes())
        text.sampled(model, prompt, 8, seed=0)  # to be warm
        seconds, said = _timed(functools.partial(text.sampled, model, prompt, count, seed=0))
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
