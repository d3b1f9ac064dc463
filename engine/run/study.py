"""Runs the study: checks the profile, takes the run's lock, hands over to Snakemake, prints the table.

python engine/run/study.py --profile digits [--seeds "0 1"] [--stages "int8"] [--variant NAME] [--chapters "03 06"]
                       [-- SNAKEMAKE ARGUMENTS]
"""

import argparse
import contextlib
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.run import warm
from engine.run.lock import hold
from engine.run.machine import refusals
from engine.run.progress import PLUGINS, follow
from engine.settings import chapters, parameters
from engine.settings.check import check_values, settings_of_nodes
from engine.tools import compare
from studylib.training import deadline

ROOT = parameters.ROOT
READ_BY_SNAKEMAKE = ("runs", ".snakemake/metadata", ".snakemake/incomplete")  # what tells it what is to be done
CHOICES = ("profile", "seeds", "stages", "variant")  # of what is run, handed on to the Snakefile


def main() -> None:
    args = _arguments()
    started, minutes = time.time(), _minutes(args.minutes)
    run = ROOT / "runs" / parameters.run_name(args.profile, args.variant)
    table = run / "sweep.csv"
    asked = asked_of_snakemake(args.snakemake)
    with contextlib.ExitStack() as stack:
        try:
            sections = parameters.load(*(getattr(args, name) for name in CHOICES))
            chosen = None if args.chapters is None else parameters.chapters(sections, args.chapters)
            if not asked.dryrun:
                with refusals(run):
                    run.mkdir(parents=True, exist_ok=True)
            handles = [handle for handle in [hold(run, reading=asked.dryrun)] if handle is not None]
            environment = _environment()
            if not asked.dryrun:
                environment[deadline.STOP_FILE] = str(stack.enter_context(_stop_on_term(run)))
            if minutes is not None:
                environment[deadline.STOP_AT] = str(started + 60 * minutes)
            if not (asked.dryrun or asked.profile or asked.executor):  # beside the check: both import torch
                environment = stack.enter_context(warm.process(environment, handles))
            config = [f"{name}={value}" for name in CHOICES if (value := getattr(args, name))]
            config.append(f"data={check_values(sections)}")
        except parameters.ParameterError as error:
            sys.exit(str(error))
        config += ["alone=1"] if chosen is not None else []  # chapters and the nodes that they read, no more
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "engine/profile"]
        command += [] if asked.profile else ["--cores", args.cores]
        command += [*args.snakemake, "--config", *config]
        command += stack.enter_context(_without_writing()) if asked.dryrun else ["--logger", "study"]
        if shutil.which("setpriv"):  # Snakemake ends with this process, however it ends; on TERM it waits for its jobs
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        code, paused = 0, False
        if chosen is not None and not asked.dryrun:
            takes = sum(chapters.declared()[key].minutes for key in chosen)
            print(f"About {takes:g} minutes on one core, once the nodes are there:", flush=True)
        if chosen is not None:
            command += ["--", *(f"chapter_{stage}" for stage in chosen)]
        elif not asked.dryrun and not args.snakemake and (early := parameters.early_nodes(sections, run)):
            code, paused = follow([*command, "--", *early], environment, handles, table, print_table)
            if not code:
                print_early(run, sections)
        if not code:
            code, paused = follow(command, environment, handles, table, print_table)
    if code:
        again = f"make study PROFILE={args.profile}" + (f" VARIANT={args.variant}" if args.variant else "")
        how = "Stopped in time, and the" if paused else "The"
        sys.exit(f"{how} study is not complete{'' if paused else '. What failed is named above'}; `{again}` goes on.")
    if asked.dryrun:
        return
    if chosen is not None:
        for stage in chosen:
            made = run / "chapters" / chapters.declared()[stage].name / "notebook.ipynb"
            print(f"{made.relative_to(ROOT)}")
        return
    write_about(run, sections)
    report(run, started)
    if beside := compare.with_published(run.name):
        print(f"\nbeside what is published:\n\n{beside}")
    if args.variant and (ROOT / "runs" / args.profile / "sweep.csv").exists():
        print(f"\nbeside the profile without its variant:\n\n{compare.side_by_side(args.profile, run.name)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="digits", type=str.strip)
    parser.add_argument("--variant", default="", type=str.strip, help="of the profile; default: the profile itself")
    parser.add_argument("--seeds", default="", type=str.strip, help="whole numbers; default: the profile's")
    parser.add_argument("--stages", default="", type=str.strip, help="techniques, or none; default: the profile's")
    parser.add_argument("--chapters", default=None, help="only these, and what they need: 03, 6, 04_svd, …; empty: all")
    parser.add_argument("--cores", default="all")
    parser.add_argument("--minutes", default="", help="stop cleanly after so many; default: never")
    parser.add_argument("snakemake", nargs="*", help="handed on as they are: -n, --profile engine/slurm, …")
    return parser.parse_args()


@contextlib.contextmanager
def _stop_on_term(run: Path) -> Iterator[Path]:
    """A file that is made at SIGTERM: trainings then stop after their epoch, as when the time is up."""
    file = run / ".stop"
    file.unlink(missing_ok=True)
    before = signal.signal(signal.SIGTERM, lambda *_: file.touch())
    try:
        yield file
    finally:
        signal.signal(signal.SIGTERM, before)
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def _without_writing() -> Iterator[list[str]]:
    """Arguments of a dry run: Snakemake makes its folders, so it works in another that links to the study's."""
    with tempfile.TemporaryDirectory(prefix="study") as folder:
        (Path(folder) / ".snakemake").mkdir()
        for name in READ_BY_SNAKEMAKE:
            if (ROOT / name).exists():
                (Path(folder) / name).symlink_to(ROOT / name)
        yield ["--snakefile", str(ROOT / "Snakefile"), "--directory", folder]


def asked_of_snakemake(arguments: list[str]) -> argparse.Namespace:
    """Of Snakemake's ``arguments``, those that matter here: whether it is a dry run, and where it runs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dry-run", "--dryrun", "-n", action="store_true", dest="dryrun")
    parser.add_argument("-p", "-k", "-F", action="store_true")  # which may stand in one word with -n
    parser.add_argument("--profile")
    parser.add_argument("--executor", "-e")
    parser.add_argument("--config", "-C", nargs="+")
    asked, _ = parser.parse_known_args(arguments)
    if asked.config:
        said = f"--config {' '.join(asked.config)}"
        sys.exit(f"{said}: the study sets it; PROFILE, SEEDS, STAGES and VARIANT say what is run")
    return asked


def _minutes(text: str) -> float | None:
    """The time that a run may take; None: as long as it wants."""
    try:
        minutes = float(text) if text.strip() else None
    except ValueError:
        minutes = math.nan
    if minutes is not None and not 0 < minutes < math.inf:
        sys.exit(f"MINUTES={text.strip()}: expected a number above 0")
    return minutes


def report(run: Path, started: float) -> None:
    """Prints the table of ``run`` and where the rest of it is."""
    from studylib.tree.published import FILE  # two seconds of import

    total = print_table(run / "sweep.csv")
    if not total:
        return
    trained = sum(path.stat().st_mtime > started for path in run.glob("seed*/*/metrics.json"))
    ran = trained or any(path.stat().st_mtime > started for path in run.glob(f"chapters/*/{FILE}"))
    print(f"\n{trained} of {total} nodes run now" + ("" if ran else ": everything was up to date, nothing trained"))
    for what, where in {
        "table": "sweep.csv",
        "figures": "figures",
        "chapters": "chapters/*/notebook.ipynb",
        "executed notebooks": "seed*/*/notebook.ipynb",
        "the sweep's notebook": "sweep.ipynb",
    }.items():
        if next(run.glob(where), None):
            print(f"{what:>21}: {run.relative_to(ROOT)}/{where}")


def print_early(run: Path, sections: dict[str, dict]) -> None:
    """Prints the table of the first seeds, before the others and the latencies are there."""
    from studylib.results.tables import text_table
    from studylib.tree import names
    from studylib.tree.table import read, summary

    seeds, stages = parameters.early_seeds(sections), sections["study"]["stages"]
    print("\n" + text_table(summary(read(run, names.nodes(stages), seeds))))
    print(f"\nThe first {len(seeds)} of {len(sections['study']['seeds'])} seeds; the others follow:", flush=True)


def write_about(run: Path, sections: dict[str, dict]) -> None:
    """Leaves in the run what its nodes are of, for later comparisons: settings, and a digest of each seed's images."""
    from studylib.disk import files, models
    from studylib.tree import names

    kept = {seed: run / f"seed{seed}" / names.TEACHER / names.METRICS for seed in sections["study"]["seeds"]}
    try:
        with refusals(run):
            made = {seed: files.read_json(path) for seed, path in kept.items() if path.exists()}
            digests = {str(seed): each["provenance"].get("data_sha256", "") for seed, each in made.items()}
            files.write_json(run / "study.json", {"settings": settings_of_nodes(sections), "data_sha256": digests})
    except files.CheckpointError as error:
        sys.exit(f"{error}{models.REMEDY}")


def print_table(path: Path) -> int:
    """Prints the table of a run and returns its number of nodes. Without a table: says why, returns 0."""
    import pandas as pd

    from studylib.results.tables import text_table
    from studylib.tree.table import COLUMNS, summary

    if not path.exists():  # Snakemake was asked for a part: --until, say
        print(f"\n{path}: not made by this command")
        return 0
    table = pd.read_csv(path)
    if missing := [column for column in COLUMNS if column not in table]:
        print(f"\n{path}: of an earlier version ({missing[0]} is missing), not made anew by this command")
        return 0
    print("\n" + text_table(summary(table)), flush=True)
    return table.groupby(["seed", "node"]).ngroups


def _environment() -> dict[str, str]:
    """That of everything the run starts: what would change its results is fixed, or left out."""
    fixed = {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_WAIT_POLICY": "passive"}
    fixed["PYTHONUTF8"] = "1"  # files are read alike in every locale
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join(filter(None, [str(ROOT), str(PLUGINS), os.environ.get("PYTHONPATH")]))
    own = {"PATH": path, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}
    inherited = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}  # ARGS says it
    return inherited | fixed | own


if __name__ == "__main__":
    main()
