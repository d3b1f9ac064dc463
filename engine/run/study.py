"""Runs the study: checks the profile, takes the run's lock, hands over to Snakemake, prints the table.

python engine/run/study.py --profile digits [--variant NAME] [--seeds "0 1"] [--stages int8] [-- SNAKEMAKE ARGUMENTS]
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.run import warm
from engine.run.machine import hold, refusals
from engine.settings import chapters, parameters
from engine.settings.check import check_values, settings_of_nodes
from engine.settings.reading import FOLDER, ROOT, named
from studylib.disk.files import write_json
from studylib.training import deadline

MEASURED = "digits"  # the profile whose minutes chapters.yaml has
CHOICES = ("profile", "seeds", "stages", "variant")  # of what is run, handed on to the Snakefile
HOW = ["--rerun-incomplete", "--keep-going", "--quiet", "host", "reason"]
HOW += ["--rerun-triggers", "mtime", "params", "input"]  # code is hashed into params, docstrings and outputs left out
HOW += ["--nolock", "--scheduler", "greedy"]  # our own lock survives no crash; another scheduler starts a solver


def main() -> None:
    args, started = _arguments(), time.time()
    asked, name = asked_of_snakemake(args.snakemake), parameters.run_name(args.profile, args.variant)
    run, again = ROOT / "runs" / name, f"`{parameters.command(name)}` goes on"
    with contextlib.ExitStack() as stack:
        try:
            sections = parameters.load(*(getattr(args, choice) for choice in CHOICES))
            chosen = None if args.chapters is None else parameters.chapters(sections, args.chapters)
            environment = _environment()
            if asked.dryrun:
                hold(run, reading=True)
            else:
                with refusals(run):
                    run.mkdir(parents=True, exist_ok=True)
                handles = [hold(run)]
                environment[deadline.STOP_FILE] = str(stack.enter_context(_stop_on_term(run)))
                if not (asked.profile or asked.executor):  # beside the check: both import torch
                    environment = stack.enter_context(warm.process(environment, handles))
            with named(f"{FOLDER.name}/{args.profile}.yaml: "):
                data = check_values(sections)
        except parameters.ParameterError as error:
            sys.exit(str(error))
        command = _command(args, data, sections["study"]["seeds"], chosen)
        if asked.dryrun:
            sys.exit(subprocess.call(command, cwd=ROOT, env=environment))
        environment[deadline.STOP_AT] = str(started + 60 * float(args.minutes or "inf"))
        about = {"settings": settings_of_nodes(sections), "data_sha256": {"0": data.removeprefix("sha256-")}}
        with refusals(run):
            write_json(run / "study.json", about)  # for later comparisons
        if chosen is not None:
            takes = sum(chapters.declared()[key].minutes for key in chosen)
            whose = "" if args.profile == MEASURED else f" (profile {MEASURED}; {args.profile} takes another time)"
            print(f"About {takes:g} minutes on one core, once the nodes are there{whose}:", flush=True)
        if shutil.which("setpriv"):  # Snakemake ends with this process, however it ends; on TERM it waits for its jobs
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        try:
            code = subprocess.call(command, cwd=ROOT, env=environment, pass_fds=handles, stderr=subprocess.STDOUT)
            ended = "The study is not complete: what was paused or has failed is named above" if code else ""
        except KeyboardInterrupt:
            ended = "Interrupted"
            print("Interrupted; writing the page of what is there (Ctrl-C once more: without it)", flush=True)
        try:
            from engine.tools import compare  # these are seconds of import
            from studylib.experiments import run_page, run_report

            notebooks = [chapters.declared()[key].notebook for key in sections["study"]["chapters"]]
            whole = parameters.load(args.profile, variant=args.variant)["study"]
            page = run_page.attempt(run, sections["study"], whole, notebooks, parameters.command(name), not ended)
        except KeyboardInterrupt:
            sys.exit(f"Interrupted; {again}.")
    if ended:
        sys.exit(f"{ended}; {again}.\n{page}")
    if chosen is not None:
        made = [f"runs/{name}/chapters/{chapters.declared()[key].name}/notebook.ipynb" for key in chosen]
        print(*made, page, sep="\n")
        return
    run_report.report(run, started)
    if beside := compare.with_published(name):
        print(f"\nbeside what is published:\n\n{beside}")
    if args.variant and (ROOT / "runs" / args.profile / "sweep.csv").exists():
        print(f"\nbeside the profile without its variant:\n\n{compare.side_by_side(args.profile, name)}")
    print(f"\n{page}")


def _command(args: argparse.Namespace, data: str, seeds: list[int], chosen: list[str] | None) -> list[str]:
    """Snakemake's, to make all of the study, or only the ``chosen`` chapters and the nodes that they read."""
    asked = asked_of_snakemake(args.snakemake)
    command = [sys.executable, "-m", "snakemake", *HOW, *args.snakemake]
    command += ([] if asked.profile else ["--cores", args.cores]) + ([] if asked.dryrun else ["--logger", "study"])
    command += ["--config", f"data={data}", *(f"{each}={value}" for each in CHOICES if (value := getattr(args, each)))]
    if len(seeds) > parameters.EARLY and chosen is None and not args.snakemake:  # first that table, and what it is of
        command += ["--prioritize", f"runs/{parameters.run_name(args.profile, args.variant)}/early/sweep.csv"]
    return command if chosen is None else [*command, "alone=1", "--", *(f"chapter_{key}" for key in chosen)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="digits", type=str.strip)
    parser.add_argument("--variant", default="", type=str.strip, help="of the profile; default: the profile itself")
    parser.add_argument("--seeds", default="", type=str.strip, help="whole numbers; default: the profile's")
    parser.add_argument("--stages", default="", type=str.strip, help="techniques, or none; default: the profile's")
    parser.add_argument("--chapters", default=None, help="only these, and what they need: 03, 6, 04_svd, …; empty: all")
    parser.add_argument("--cores", default="all", type=_above_0("CORES", int, "all"))
    parser.add_argument("--minutes", default="", type=_above_0("MINUTES", float, ""), help="stop cleanly after so many")
    parser.add_argument("snakemake", nargs="*", help="handed on as they are: -n, --profile engine/slurm, …")
    return parser.parse_args()


def _above_0(name: str, kind: type, without: str) -> Callable[[str], str]:
    """Reads a number above 0, or the text that stands for none."""

    def read(text: str) -> str:
        with contextlib.suppress(ValueError):
            if text.strip() == without or 0 < kind(text) < float("inf"):
                return text.strip()
        sys.exit(f"{name}={text.strip()}: expected a number above 0" + (f", or {without}" if without else ""))

    return read


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
        sys.exit(
            f"--config {' '.join(asked.config)}: the study sets it; PROFILE, SEEDS, STAGES, VARIANT say what is run"
        )
    return asked


def _environment() -> dict[str, str]:
    """That of everything the run starts: what would change its results is fixed, or left out."""
    fixed = {
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUTF8": "1",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "engine/plugin"), os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}  # ARGS says it
    return inherited | fixed | {"PATH": path, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    main()
