"""Measures the latency of each node with nothing else running: one forward pass over a batch.

Nodes of one structure share a figure: zeros among the weights do not change what a dense kernel does.
"""

import argparse
import json
from pathlib import Path

from studylib import latency, size, store, train
from studylib.sweep import METRICS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("nodes", type=Path, nargs="+", help="the folders of the nodes of one seed")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--compiled", type=json.loads, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    train.set_up(args.threads, "cpu")
    if args.compiled and (reason := latency.why_not_compile()):
        print(f"{reason}: latencies are measured uncompiled, and latency.json says so", flush=True)
        args.compiled = False
    by_structure, by_node = {}, {}
    for folder in args.nodes:
        model = store.load_model(folder)
        structure = latency.structure_of(model)
        if structure not in by_structure:
            images = size.example(model.spec["args"], args.batch)
            by_structure[structure] = latency.latency(model, images, compiled=args.compiled, repeats=args.repeats)
            print(f"{folder.name}: {by_structure[structure]:.3f} ms", flush=True)
        by_node[folder.name] = by_structure[structure]
    about = {"batch": args.batch, "repeats": args.repeats, "compiled": args.compiled, "threads": args.threads}
    metrics = store.read_json(args.nodes[0] / METRICS)
    provenance = store.provenance(metrics["provenance"].get("data_sha256", ""))
    about |= {"seed": metrics["seed"], "device": "cpu", "provenance": provenance}
    store.write_json(args.out, {"latency_ms": by_node, **about})


if __name__ == "__main__":
    main()
