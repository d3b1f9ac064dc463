"""The names of the tree: its nodes, one a combination of techniques, and the files that each leaves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

TEACHER = "teacher"
METRICS, LOGITS, CODED = "metrics.json", "test_logits.safetensors", "model.slnc"
LATENCY, NNCODEC = "latency.json", "nncodec.json"
SHORT = {"distill": "kd", "prune": "imp"}  # techniques whose part of a node's name is another than their key


def part(stage: str) -> str:
    """What stands for a technique in the name of a node.

    >>> part("distill"), part("svd")
    ('kd', 'svd')
    """
    return SHORT.get(stage, stage)


def nodes(stages: Sequence[str]) -> list[str]:
    """Every combination of ``stages``, each in their order: 2ⁿ names from ``teacher`` on.

    >>> nodes(["distill", "int8"])
    ['teacher', 'teacher-kd', 'teacher-int8', 'teacher-kd-int8']
    """
    parts = [part(stage) for stage in stages]
    chosen = itertools.chain.from_iterable(itertools.combinations(parts, n) for n in range(len(parts) + 1))
    return ["-".join((TEACHER, *c)) for c in chosen]


def parent_of(node: str) -> str | None:
    """The node less its last technique; None for the teacher.

    >>> parent_of("teacher-kd-int8")
    'teacher-kd'
    """
    return node.rpartition("-")[0] or None
