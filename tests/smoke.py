"""The run that `make study PROFILE=smoke` left."""

import json

from projects import ROOT

from studylib.tree import names

RUN = ROOT / "runs" / "smoke"
NODES = names.nodes(["distill", "prune", "svd", "int8"])


def metrics(run, node):
    return json.loads((run / "seed0" / node / "metrics.json").read_text())
