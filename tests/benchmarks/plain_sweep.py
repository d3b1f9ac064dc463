"""The study as one plain Python process: what bench_sweep holds the tree against.

    python tests/benchmarks/plain_sweep.py PROFILE FOLDER

The stages, parameters, files and latencies of `make study` on two threads; models are handed on in memory.
"""

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import nn

from engine.run import latency
from engine.settings import check, parameters
from studylib.disk import files
from studylib.techniques import distill, int8, prune, svd, teacher
from studylib.tree import table
from studylib.tree.names import LATENCY, TEACHER, nodes, parent_of, part
from studylib.tree.node import Node

THREADS = 2


def main(profile: str, folder: Path) -> None:
    sections = parameters.load(profile)
    study, every = sections["study"], nodes(sections["study"]["stages"])
    stages = {part(stage): stage for stage in (TEACHER, *study["stages"])}
    records = {stage: check.records_of(stage, sections) for stage in stages.values()}
    for seed in study["seeds"]:
        start = Node(folder, study["dataset"], seed, THREADS, study["device"])
        assert len(start.data.train)  # read once a seed: the copies below share it
        models = {}
        for name in every:
            node = copy.copy(start)
            node.out, node.started = folder / f"seed{seed}" / name, time.perf_counter()
            node.scratch = node.out / "unfinished"
            stage, parent = stages[name.rpartition("-")[2]], models.get(parent_of(name))
            models[name] = TECHNIQUES[stage](parent, node, **records[stage])
            node.finish(models[name])
    first = [str(folder / f"seed{study['seeds'][0]}" / name) for name in every]
    given = [f"--{name}={str(value).lower()}" for name, value in sections["latency"].items()]
    sys.argv[1:] = [str(folder / LATENCY), *first, *given, f"--threads={THREADS}"]
    latency.main()
    files.write_bytes(folder / "sweep.csv", table.read(folder, every, study["seeds"]).to_csv(index=False).encode())


def _teacher(_, node: Node, network, recipe, penalty, **_chapter) -> nn.Module:
    how = {"recipe": recipe, "seed": node.study.seed, "device": node.device, "step": penalty.step(recipe)}
    return teacher.apply(node.data, **asdict(network), **how)


def _distill(parent, node: Node, distillation, student, recipe, **_chapter) -> nn.Module:
    how = {"recipe": recipe, "seed": node.study.seed}
    return distill.apply(parent, node.data, **asdict(distillation), **asdict(student), **how)


def _prune(parent, node: Node, pruning, recipe, **_chapter) -> nn.Module:
    return prune.apply(parent, node.data, **asdict(pruning), recipe=recipe, seed=node.study.seed)


def _svd(parent, node: Node, factorization, **_chapter) -> nn.Module:
    return svd.apply(parent, node.data, **asdict(factorization))


def _int8(parent, node: Node, quantization, **_chapter) -> nn.Module:
    return int8.apply(parent, node.data, **asdict(quantization), seed=node.study.seed)


# what each stage's notebook does between `Node.of` and `node.finish`, by the records of its parameters
TECHNIQUES: dict[str, Callable[..., nn.Module]] = {
    "teacher": _teacher,
    "distill": _distill,
    "prune": _prune,
    "svd": _svd,
    "int8": _int8,
}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
