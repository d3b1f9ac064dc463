"""The study as one plain Python process: what bench_sweep holds the tree against.

    python tests/benchmarks/plain_sweep.py PROFILE FOLDER

The stages, parameters, files and latencies of `make study` on two threads; models are handed on in memory.
"""

import ast
import copy
import inspect
import sys
import time
from pathlib import Path

from engine import latency, parameters
from studylib import distill, lowrank, prune, quantize, store, sweep, teacher, train
from studylib.node import Node

THREADS = 2
TECHNIQUES = {"teacher": teacher, "kd": distill, "imp": prune, "svd": lowrank, "int8": quantize}


def main(profile: str, folder: Path) -> None:
    sections = parameters.load(profile)
    study, names = sections["study"], sweep.nodes(sections["study"]["stages"])
    for seed in study["seeds"]:
        start = Node(folder, study["dataset"], seed, THREADS, study["device"])
        models = {}
        for name in names:
            node = copy.copy(start)
            node.out, node.started = folder / f"seed{seed}" / name, time.perf_counter()
            node.scratch = node.out / "unfinished"
            stage, parent = name.rpartition("-")[2], models.get(sweep.parent_of(name))
            models[name] = apply(stage, parent, node, seed, sections[stage])
            node.finish(models[name])
    nodes = [str(folder / f"seed{study['seeds'][0]}" / name) for name in names]
    given = [f"--{name}={str(value).lower()}" for name, value in sections["latency"].items()]
    sys.argv[1:] = [str(folder / sweep.LATENCY), *nodes, *given, f"--threads={THREADS}"]
    latency.main()
    store.write_bytes(folder / "sweep.csv", sweep.read(folder, names, study["seeds"]).to_csv(index=False).encode())


def apply(stage: str, parent, node: Node, seed: int, section: dict):
    """What the stage's notebook does between ``Node(…)`` and ``node.finish``, parameters its own and the profile's."""
    values = defaults(stage) | section | {"seed": seed, "device": node.device, "data": node.data, "model": parent}
    values["recipe"] = train.Recipe(**{k: v for k, v in values.items() if k in train.Recipe.__dataclass_fields__})
    technique = TECHNIQUES[stage].apply
    return technique(**{name: values[name] for name in inspect.signature(technique).parameters if name in values})


def defaults(stage: str) -> dict:
    from papermill import inspect_notebook

    found = inspect_notebook(str(parameters.notebooks()[stage]))
    return {name: ast.literal_eval(about["default"]) for name, about in found.items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
