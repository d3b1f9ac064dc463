"""What a run says in the end: its table, how many nodes were run, where the rest is."""

from pathlib import Path

from studylib.disk.files import CheckpointError

MADE = ("sweep.csv", "chapters/*/notebook.ipynb", "seed*/*/notebook.ipynb", "sweep.ipynb")  # what is named in the end


def report(run: Path, started: float) -> None:
    """Prints the table of ``run`` and where the rest of it is."""
    total = print_table(run / "sweep.csv")
    trained = sum(path.stat().st_mtime > started for path in run.glob("seed*/*/metrics.json"))
    ran = trained or any(path.stat().st_mtime > started for path in run.glob("chapters/*/chapter.json"))
    print(f"\n{trained} of {total} nodes run now" + ("" if ran else ": everything was up to date, nothing trained"))
    print(*(f"runs/{run.name}/{made}" for made in MADE if next(run.glob(made), None)), sep="\n")


def print_table(path: Path) -> int:
    """Prints the table of a run and returns its number of rows; says where it is not whole."""
    from studylib.results.tables import display_table  # two seconds of import
    from studylib.tree.table import COLUMNS, read_table, summary

    try:
        table = read_table(path, *COLUMNS)
        shown, seeds = summary(table), table["seed"].nunique()
        print("\n" + display_table(shown).to_string(index=False, justify="right"))
        print(f"mean ± standard deviation over n = {seeds} seeds" if seeds > 1 else "one seed", flush=True)
        return len(table)
    except (CheckpointError, OSError) as error:  # only a part was asked for
        print(f"\n{error}\nnot made by this command", flush=True)
        return 0
