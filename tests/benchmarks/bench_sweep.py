"""sweep_over_script: the digits profile's tree by `make study` over the same in one plain Python process, two cores."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from harness import pair, seconds

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from projects import copy_project, environment

from engine.settings.reading import read_yaml

CHANGES = {"study": {"seeds": [0, 1, 2], "lessons": False}, "latency": {"repeats": 5, "compiled": False}}
REPEATS = 2
CLOSE = 0.03  # of test accuracy, mean over the nodes: one thread and two do not add up in the same order


def run() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder) / "project")
        profile = read_yaml(project / "papermill_params" / "digits.yaml")
        for section, values in CHANGES.items():
            profile[section] |= values
        (project / "papermill_params" / "bench.yaml").write_text(json.dumps(profile))
        shutil.copy2(HERE / "plain_sweep.py", project)

        spinning = environment(project) | {"GOMP_SPINCOUNT": "10000"}  # faster for a process that is alone,
        del spinning["OMP_WAIT_POLICY"]  # and not ruined, as by the default of 300,000, if it is not

        def tree() -> float:
            shutil.rmtree(project / "runs" / "bench", ignore_errors=True)
            shutil.rmtree(project / ".snakemake", ignore_errors=True)
            return _seconds(project, environment(project), "engine/run/study.py", "--profile=bench", "--cores=2")

        def script() -> float:
            shutil.rmtree(project / "runs" / "plain", ignore_errors=True)
            return _seconds(project, spinning, "plain_sweep.py", "bench", "runs/plain")

        row = pair(tree, script, REPEATS, "s")
        _compare(*(pd.read_csv(project / "runs" / name / "sweep.csv") for name in ("bench", "plain")))
        return {"sweep_over_script": row}


def _seconds(project: Path, environment: dict[str, str], *command: str) -> float:
    options = {"cwd": project, "env": environment, "check": True, "stdout": subprocess.DEVNULL}
    return seconds(lambda: subprocess.run([sys.executable, *command], **options))


def _compare(ours: pd.DataFrame, other: pd.DataFrame) -> None:
    """Both must have made the same study."""
    both = ours.merge(other, on=["seed", "node"], validate="1:1", suffixes=("", "_other"))
    difference = both["test_accuracy"] - both["test_accuracy_other"]
    same_size = (both["parameters"] == both["parameters_other"]).all()
    print(f"{len(both)} nodes; test accuracy, ours less other: mean {difference.mean():+.4f}, ", end="")
    print(f"largest {difference.abs().max():.4f}, equal in {(difference == 0).sum()}")
    assert len(both) == len(ours) == len(other) and same_size and abs(difference.mean()) < CLOSE
