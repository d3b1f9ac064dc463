"""What the paper, the survey and the thesis claim, as data; :mod:`studylib.results.verdicts` judges it.

*The paper* is Mountain and Bharatia, Combinatorics with Model Compression; *the survey* a study of model-zoo sizes;
*the thesis* one on compression by multi-objective optimization.
This is the only place where their figures are typed; :mod:`studylib.results.marks` has those of others.
"""

import math
from dataclasses import dataclass, field

PAPER_DATA = "cifar10"
LAST_DIGIT = 0.005  # points of a saving that the paper gives with two decimals
PAPER_DEPTH = 40  # our inference: growth 12 then gives about its bytes; the paper names no depth
PLANE = "points of the plane"  # hypervolume: what a way to train dominates, chapter 6
REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "not reproduced", "undecided"
NOT_COMPARABLE, NOT_MEASURED = "not comparable", "not measured"


@dataclass(frozen=True)
class Claim:
    """One published statement.

    Attributes:
        chapter: stage whose notebook answers it.
        says: the statement; ``{}`` stands for the published value.
        where: section or figure.
        value: what was published, in ``unit``; the threshold where ``direction`` is set.
        unit: %, points (of accuracy), points of the plane (dominated), nats, bytes.
        tolerance: how far a measured value may lie from ``value`` and count as the same (:func:`verdict`).
        direction: + or −: the claim is only that the measured value lies above or below ``value``.
        anywhere: it can be held against any data set; else against the paper's own only.
        elsewhere: why it can be held against nothing here.
        sampled: it is an accuracy or a mean over images, which without an interval says nothing.
        nodes: node → weight of its test accuracy, of which the claim is the sum.
        saved, taken: a node, and the accounting by which it saves of the teacher's bytes, or takes bytes.
        own: it is about the paper's own network, whatever the technique.
    """

    chapter: str
    says: str
    where: str
    value: float
    unit: str
    tolerance: float = 0.0
    direction: str = ""
    anywhere: bool = False
    elsewhere: str = ""
    sampled: bool = False
    nodes: dict[str, int] = field(default_factory=dict)
    saved: tuple[str, str] | None = None
    taken: tuple[str, str] | None = None
    own: bool = False


CLAIMS = {
    "teacher_accuracy": Claim(
        "teacher", "DenseNet reaches {}", "section 5", 92.8, "%", 0.5, sampled=True, own=True, nodes={"teacher": 1}
    ),
    "teacher_bytes": Claim(
        "teacher",
        "its parameters take {}",
        "section 5",
        3.95e6,
        "bytes",
        0.2e6,
        own=True,
        taken=("teacher", "bytes_dense"),
    ),
    "kd_alone": Claim(
        "distill", "the student without a teacher reaches {}", "Figure 3", 75.0, "%", 2.0, sampled=True, own=True
    ),
    "kd_taught": Claim(
        "distill",
        "the student with a teacher reaches {}",
        "Figure 4",
        80.0,
        "%",
        2.0,
        sampled=True,
        own=True,
        nodes={"teacher-kd": 1},
    ),
    "kd_gain": Claim("distill", "a teacher adds {}", "section 3.3", 5.0, "points", 2.0),
    "kd_helps": Claim("distill", "a teacher helps at all", "section 3.3", 0.0, "points", direction="+", anywhere=True),
    "imp_saved": Claim(
        "prune", "pruning alone saves {}", "section 5.2", 88.1, "%", 2.0, saved=("teacher-imp", "bytes_nonzero")
    ),
    "imp_cost": Claim(
        "prune", "it costs {} of accuracy", "section 5.2", 0.9, "points", 0.5, nodes={"teacher": 1, "teacher-imp": -1}
    ),
    "svd_cost": Claim(
        "svd", "SVD at Δ = 1 lowers accuracy", "section 5.1", 0.0, "points", direction="+", anywhere=True
    ),
    "svd_delta": Claim("svd", "accuracy falls as Δ grows", "Figure 5", 0.0, "points", direction="+", anywhere=True),
    "svd_tuned": Claim(
        "svd", "fine-tuning recovers some of it", "section 6", 0.0, "points", direction="+", anywhere=True
    ),
    "int8_saved": Claim(
        "int8",
        "int8 alone saves {}",
        "section 5.2",
        73.1,
        "%",
        2.0,
        anywhere=True,
        saved=("teacher-int8", "bytes_dense"),
    ),
    "int8_cost": Claim(
        "int8", "it costs {} of accuracy", "section 5.2", 0.3, "points", 0.3, nodes={"teacher": 1, "teacher-int8": -1}
    ),
    "static_saved": Claim(
        "int8",
        "static int8 saves {}",
        "the survey",
        74.0,
        "%",
        2.0,
        anywhere=True,
        saved=("teacher-int8", "bytes_dense"),
    ),
    "dynamic_saved": Claim(
        "int8",
        "dynamic int8 of linear layers saves {}",
        "the survey",
        56.0,
        "%",
        elsewhere="the mean of twelve other models, by their share of linear layers",
    ),
    "moo_one_shot": Claim(
        "moo",
        "common descent outperforms the weighted sum one-shot",
        "the thesis, abstract",
        0.0,
        PLANE,
        direction="+",
        anywhere=True,
    ),
    "moo_tuned": Claim(
        "moo",
        "and after fine-tuning",
        "the thesis, abstract",
        0.0,
        PLANE,
        direction="+",
        anywhere=True,
    ),
    "moo_common": Claim(
        "moo",
        "every step descends all objectives: {} of steps raise one",
        "the thesis, abstract",
        0.0,
        "%",
        anywhere=True,
    ),
    "pruned_loses_less": Claim(
        "sweep", "pruned weights lose less to int8 (KL)", "section 5.2", 0.0, "nats", direction="-", anywhere=True
    ),
    "best_bytes": Claim(
        "sweep",
        "pruning + int8 takes {}",
        "section 5",
        6200.0,
        "bytes",
        50.0,
        own=True,
        taken=("teacher-imp-int8", "bytes_nonzero"),
    ),
    "best_saved": Claim(
        "sweep",
        "pruning + int8 saves {}",
        "abstract",
        99.84,
        "%",
        0.5,
        anywhere=True,
        saved=("teacher-imp-int8", "bytes_nonzero"),
    ),
    "best_accuracy": Claim(
        "sweep", "it reaches {}", "section 5", 91.65, "%", 0.5, sampled=True, own=True, nodes={"teacher-imp-int8": 1}
    ),
    "teacher_accuracy_method": Claim("audit", "DenseNet reaches {}", "sections 3.1 and 3.2", 92.7, "%", 0.05),
    "best_relative": Claim("audit", "it costs {} of the accuracy", "abstract", 1.24, "%", 0.005),
    "pruned_int8_cost": Claim("audit", "int8 costs the pruned network {}", "section 5.2", 0.21, "points", 0.3),
    "small_bytes": Claim("frontier", "what reaches 91.65 % takes {}", "section 5", 6200.0, "bytes", 50.0),
    "best_cost": Claim(
        "sweep",
        "and costs {} of accuracy",
        "section 5",
        1.15,
        "points",
        0.5,
        nodes={"teacher": 1, "teacher-imp-int8": -1},
    ),
    "svd_worst": Claim(
        "sweep",
        "SVD hurts more on a pruned network",
        "section 5.1",
        0.0,
        "points",
        direction="+",
        anywhere=True,
        nodes={"teacher": -1, "teacher-svd": 1, "teacher-imp": 1, "teacher-imp-svd": -1},
    ),
    "int8_mends": Claim(
        "sweep",
        "int8 raises accuracy after pruning + SVD",
        "section 5.1",
        0.0,
        "points",
        direction="+",
        anywhere=True,
        nodes={"teacher-imp-svd-int8": 1, "teacher-imp-svd": -1},
    ),
    "int8_mends_kd": Claim(
        "sweep",
        "so it does after distillation + pruning + SVD",
        "section 5.1",
        0.0,
        "points",
        direction="+",
        anywhere=True,
        nodes={"teacher-kd-imp-svd-int8": 1, "teacher-kd-imp-svd": -1},
    ),
    "pruning_helps_int8": Claim(
        "sweep",
        "int8 costs less accuracy on a pruned network",
        "section 5.2",
        0.0,
        "points",
        direction="+",
        anywhere=True,
        nodes={"teacher": 1, "teacher-int8": -1, "teacher-imp": -1, "teacher-imp-int8": 1},
    ),
}


@dataclass(frozen=True)
class Measured:
    """What was measured for a claim, in the claim's unit: the value, an interval of confidence if there is one, and n.

    ``n`` is the number of seeds behind it; of an interval over the images of a single one, the verdict says so. An
    infinite value: it was looked for, and nothing has it. ``against`` names the rival, where there are several.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    against: str = ""


def audit() -> list[dict]:
    """The paper's figures about pruning + int8 beside what its others imply: rows of what, reported, implied, by."""
    said = {key: claim.value for key, claim in CLAIMS.items()}
    left = (1 - said["imp_saved"] / 100) * (1 - said["int8_saved"] / 100)
    by_bytes = 100 * (1 - said["best_bytes"] / said["teacher_bytes"])
    by_accuracy = said["teacher_accuracy"] - said["best_accuracy"]
    step_by_step = said["teacher_accuracy"] - said["imp_cost"] - said["pruned_int8_cost"]
    rows = [
        ("saving (%)", "best_saved", 100 * (1 - left), "what pruning and int8 save alone, multiplied"),
        ("bytes", "best_bytes", said["teacher_bytes"] * left, "the same, from the teacher's bytes"),
        ("saving (%)", "best_saved", by_bytes, "its bytes over the teacher's"),
        ("cost (points)", "best_cost", by_accuracy, "the difference of the accuracies"),
        ("cost (% of the accuracy)", "best_relative", 100 * by_accuracy / said["teacher_accuracy"], "the same"),
        ("accuracy (%)", "best_accuracy", step_by_step, "the teacher's less each step's cost"),
        ("teacher's accuracy (%)", "teacher_accuracy", said["teacher_accuracy_method"], "its sections on method"),
    ]
    return [{"what": what, "reported": said[key], "implied": implied, "by": by} for what, key, implied, by in rows]
