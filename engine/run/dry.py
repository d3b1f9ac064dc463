"""A dry run that writes nothing: Snakemake makes its folders, whatever is asked of it, so it makes them elsewhere."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READ = ("runs", ".snakemake/metadata", ".snakemake/incomplete")  # what tells it what is to be done


@contextlib.contextmanager
def without_writing() -> Iterator[list[str]]:
    """Snakemake's arguments for a folder in which the study's runs and what is known of their files are links."""
    with tempfile.TemporaryDirectory(prefix="study") as folder:
        (Path(folder) / ".snakemake").mkdir()
        for name in READ:
            if (ROOT / name).exists():
                (Path(folder) / name).symlink_to(ROOT / name)
        yield ["--snakefile", str(ROOT / "Snakefile"), "--directory", folder]
