"""The names of the tree: its nodes, one a combination of techniques, and the files that each leaves."""

from collections.abc import Sequence
from itertools import combinations

TEACHER = "teacher"
METRICS, LOGITS, CODED = "metrics.json", "test_logits.safetensors", "model.slnc"
LATENCY, NNCODEC = "latency.json", "nncodec.json"
SHORT = {"distill": "kd", "prune": "imp"}  # techniques whose part of a node's name is another than their key


def part(stage: str) -> str:
    """What stands for a technique in the name of a node: ``distill`` → ``kd``."""
    return SHORT.get(stage, stage)


def nodes(stages: Sequence[str]) -> list[str]:
    """Every combination of ``stages``, each in their order: 2ⁿ names from ``teacher`` on.

    >>> nodes(["distill", "int8"])
    ['teacher', 'teacher-kd', 'teacher-int8', 'teacher-kd-int8']
    """
    parts = [part(stage) for stage in stages]
    return ["-".join((TEACHER, *chosen)) for n in range(len(parts) + 1) for chosen in combinations(parts, n)]


def parent_of(node: str) -> str | None:
    """The node less its last technique, ``teacher-kd-int8`` → ``teacher-kd``; None for the teacher."""
    return node.rpartition("-")[0] or None
