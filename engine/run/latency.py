"""Measures the latency of each node with nothing else running: one forward pass over a batch.

Nodes of one structure share a figure: zeros among the weights do not change what a dense kernel does.
"""

import argparse
import json
from pathlib import Path

from studylib.disk import files, models
from studylib.disk import provenance as disk_provenance
from studylib.networks import cost
from studylib.training import loop
from studylib.tree.names import METRICS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("nodes", type=Path, nargs="+", help="the folders of the nodes of one seed")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--compiled", type=json.loads, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    loop.set_up(args.threads, "cpu")
    if args.compiled and (reason := cost.why_not_compile()):
        print(f"{reason}: latencies are measured uncompiled, and latency.json says so", flush=True)
        args.compiled = False
    by_structure, by_node = {}, {}
    for folder in args.nodes:
        model = models.load_model(folder)
        structure = cost.structure_of(model)
        if structure not in by_structure:
            images = cost.example(model.spec["args"], args.batch)
            by_structure[structure] = cost.latency(model, images, compiled=args.compiled, repeats=args.repeats)
            print(f"{folder.name}: {by_structure[structure]:.3f} ms", flush=True)
        by_node[folder.name] = by_structure[structure]
    about = {"batch": args.batch, "repeats": args.repeats, "compiled": args.compiled, "threads": args.threads}
    metrics = files.read_json(args.nodes[0] / METRICS)
    provenance = disk_provenance.provenance(metrics["provenance"].get("data_sha256", ""))
    about |= {"seed": metrics["seed"], "device": "cpu", "provenance": provenance}
    files.write_json(args.out, {"latency_ms": by_node, **about})


if __name__ == "__main__":
    main()
