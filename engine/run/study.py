"""Runs the study: checks the profile, takes the run's lock, hands over to Snakemake, prints the table.

python engine/run/study.py --profile digits [--seeds "0 1"] [--stages "int8"] [--root NAME] [--chapters "03 06"]
                       [-- SNAKEMAKE ARGUMENTS]
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.run import warm
from engine.run.dry import without_writing
from engine.run.lock import hold
from engine.run.machine import refusals
from engine.run.progress import follow
from engine.settings import chapters, parameters
from engine.settings.check import check_values, settings_of_nodes
from engine.tools import compare
from studylib.training import deadline

ROOT = parameters.ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="digits")
    parser.add_argument("--seeds", default="", help="whole numbers; default: the profile's")
    parser.add_argument("--stages", default="", help="techniques, or the word none; default: the profile's")
    parser.add_argument("--root", default="", help="a teacher of the profile's section roots; default: its own")
    parser.add_argument("--chapters", default=None, help="only these, and what they need: 03, 6, 04_svd, …; empty: all")
    parser.add_argument("--cores", default="all")
    parser.add_argument("--minutes", default="", help="stop cleanly after so many; default: never")
    parser.add_argument("snakemake", nargs="*", help="handed on as they are: -n, --profile engine/slurm, …")
    args = parser.parse_args()
    started = time.time()
    minutes = _minutes(args.minutes)
    args.root = args.root.strip()
    run = ROOT / "runs" / parameters.run_name(args.profile, args.root)
    asked = asked_of_snakemake(args.snakemake)
    dry, elsewhere = asked.dryrun, bool(asked.profile or asked.executor)
    with contextlib.ExitStack() as stack:
        try:
            sections = parameters.load(args.profile, args.seeds, args.stages, args.root)
            chosen = None if args.chapters is None else parameters.chapters(sections, args.chapters)
            if not dry:
                with refusals(run):
                    run.mkdir(parents=True, exist_ok=True)
            handles = [handle for handle in [hold(run, reading=dry)] if handle is not None]
            environment = _environment()
            if not dry:
                environment[deadline.STOP_FILE] = str(stack.enter_context(_stop_on_term(run)))
            if minutes is not None:
                environment[deadline.STOP_AT] = str(started + 60 * minutes)
            if not dry and not elsewhere:  # beside the check: both import torch
                environment = stack.enter_context(warm.process(environment, handles))
            data = check_values(sections)
        except parameters.ParameterError as error:
            sys.exit(str(error))
        config = [
            f"{key}={value}" for key in ("profile", "seeds", "stages", "root") if (value := getattr(args, key).strip())
        ]
        config.append(f"data={data}")
        config += ["alone=1"] if chosen is not None else []  # chapters and the nodes that they read, no more
        own_profile = [] if asked.profile else ["--cores", args.cores]
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "engine/profile", *own_profile]
        command += [*args.snakemake, "--config", *config]
        command += stack.enter_context(without_writing()) if dry else []
        if shutil.which("setpriv"):  # Snakemake ends with this process, however it ends; on TERM it waits for its jobs
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        code, paused, table = 0, False, run / "sweep.csv"
        if chosen is not None and not dry:
            print(f"About {chapters.minutes(chosen):g} minutes on one core, once the nodes are there:", flush=True)
        if chosen is not None:
            command += ["--", *(f"chapter_{stage}" for stage in chosen)]
        elif not dry and not args.snakemake and (early := parameters.early_nodes(sections, run)):
            code, paused = follow([*command, "--", *early], environment, handles, True, table, print_table)
            if not code:
                print_early(run, sections)
        if not code:
            code, paused = follow(command, environment, handles, not dry, table, print_table)
    if code:
        again = f"make study PROFILE={args.profile}" + (f" ROOT={args.root}" if args.root else "")
        if paused:
            sys.exit(f"Stopped in time, and the study is not complete; `{again}` goes on.")
        sys.exit(f"The study is not complete. What failed is named above; `{again}` goes on.")
    if chosen is not None and not dry:
        for stage in chosen:
            made = run / "chapters" / chapters.declared()[stage].name / "notebook.ipynb"
            print(f"{made.relative_to(ROOT)}")
    elif not dry:
        write_about(run, sections)
        report(run, started)
        if beside := compare.with_published(run.name):
            print(f"\nbeside what is published:\n\n{beside}")
        if args.root and (ROOT / "runs" / args.profile / "sweep.csv").exists():
            print(f"\nbeside the tree of the profile's own teacher:\n\n{compare.side_by_side(args.profile, run.name)}")


@contextlib.contextmanager
def _stop_on_term(run: Path):
    """A file that is made at SIGTERM: trainings then stop after their epoch, as when the time is up."""
    file = run / ".stop"
    file.unlink(missing_ok=True)
    before = signal.signal(signal.SIGTERM, lambda *_: file.touch())
    try:
        yield file
    finally:
        signal.signal(signal.SIGTERM, before)
        file.unlink(missing_ok=True)


def asked_of_snakemake(arguments: list[str]) -> argparse.Namespace:
    """What Snakemake makes of ``arguments``, in whichever of its spellings; ends with its own words if nothing.

    In a process of its own: with Snakemake's libraries loaded first, a solver of torchjd's was seen to crash.
    """
    if not arguments:
        return argparse.Namespace(dryrun=False, profile=[], executor=None, config=[])
    script = (
        "import json, sys; from snakemake.cli import get_argument_parser; "
        "asked = get_argument_parser().parse_args(sys.argv[1:]); "
        "print(json.dumps({name: getattr(asked, name) for name in ('dryrun', 'profile', 'executor', 'config')}))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, env=_environment())
    if done.returncode:
        sys.exit(done.returncode)
    if not done.stdout.startswith(b"{"):  # --version or --help, which it has answered
        sys.exit(print(done.stdout.decode()))
    asked = argparse.Namespace(**json.loads(done.stdout))
    if asked.config:
        said = f"--config {' '.join(asked.config)}"
        sys.exit(f"{said}: the study sets it; PROFILE, SEEDS, STAGES and ROOT say what is run")
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
        "table": run / "sweep.csv",
        "figures": run / "figures",
        "chapters": run / "chapters" / "*" / "notebook.ipynb",
        "executed notebooks": run / "seed*" / "*" / "notebook.ipynb",
        "the sweep's notebook": run / "sweep.ipynb",
    }.items():
        if next(ROOT.glob(str(where.relative_to(ROOT))), None):
            print(f"{what:>21}: {where.relative_to(ROOT)}")


def print_early(run: Path, sections: dict[str, dict]) -> None:
    """Prints the table of the first seeds, before the others and the latencies are there."""
    from studylib.results import tables
    from studylib.tree import names
    from studylib.tree import table as tree_table

    seeds, stages = parameters.early_seeds(sections), sections["study"]["stages"]
    table = tree_table.read(run, names.nodes(stages), seeds)
    print("\n" + tables.text_table(tree_table.summary(table)))
    print(f"\nThe first {len(seeds)} of {len(sections['study']['seeds'])} seeds; the others follow:", flush=True)


def write_about(run: Path, sections: dict[str, dict]) -> None:
    """Leaves in the run what its nodes are of, for later comparisons: settings, and a digest of the images a seed."""
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
    """Prints the table of a run and returns how many nodes it has: 0, and says why, where there is none to print."""
    import pandas as pd

    from studylib.results import tables
    from studylib.tree import table as tree_table

    if not path.exists():  # Snakemake was asked for a part: --until, say
        print(f"\n{path}: not made by this command")
        return 0
    table = pd.read_csv(path)
    if missing := [column for column in tree_table.COLUMNS if column not in table]:
        print(f"\n{path}: of an earlier version ({missing[0]} is missing), not made anew by this command")
        return 0
    print("\n" + tables.text_table(tree_table.summary(table)), flush=True)
    return table.groupby(["seed", "node"]).ngroups


def _environment() -> dict[str, str]:
    """That of everything the run starts: what would change its results is fixed, or left out."""
    fixed = {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_WAIT_POLICY": "passive"}
    fixed["PYTHONUTF8"] = "1"  # files are read alike in every locale
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PATH": path, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}
    inherited = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}  # ARGS says it
    return inherited | fixed | own


if __name__ == "__main__":
    main()
