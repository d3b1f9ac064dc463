"""Measures the latency of each node with nothing else running: one forward pass over a batch.

Nodes of one structure share a figure: zeros among the weights do not change what a dense kernel does.
"""

import argparse
import json
from pathlib import Path

from studylib.disk import files, models, provenance
from studylib.networks import cost
from studylib.training import loop
from studylib.tree.names import METRICS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("nodes", type=Path, nargs="+", help="the folders of the nodes of one seed")
    for name, kind in {"batch": int, "repeats": int, "compiled": json.loads, "threads": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    about = vars(parser.parse_args())
    out, folders = about.pop("out"), about.pop("nodes")
    loop.set_up(about["threads"], "cpu")
    if about["compiled"] and (reason := cost.why_not_compile()):
        print(f"{reason}: latencies are measured uncompiled, and latency.json says so", flush=True)
        about["compiled"] = False
    by_structure, by_node = {}, {}
    for folder in folders:
        model = models.load_model(folder)
        structure = cost.structure_of(model)
        if structure not in by_structure:
            images = cost.example(model.spec["args"], about["batch"])
            once = cost.timer(model, images, compiled=about["compiled"])
            [by_structure[structure]] = cost.in_turn([once], about["repeats"])
            print(f"{folder.name}: {by_structure[structure]:.3f} ms", flush=True)
        by_node[folder.name] = by_structure[structure]
    metrics = files.read_json(folders[0] / METRICS)
    made = provenance.provenance(metrics["provenance"].get("data_sha256", ""))
    about |= {"seed": metrics["seed"], "device": "cpu", "provenance": made}
    files.write_json(out, {"latency_ms": by_node, **about})


if __name__ == "__main__":
    main()
