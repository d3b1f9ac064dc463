"""Where a path in a setting leads: below the study's folder, unless it is absolute."""

import functools
import os
from pathlib import Path


@functools.cache
def root() -> Path:
    """The study's folder: ``STUDY_ROOT``, or the nearest folder above that holds ``papermill_params``."""
    if os.environ.get("STUDY_ROOT"):
        return Path(os.environ["STUDY_ROOT"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "papermill_params").is_dir():
            return folder
    return here


def resolve(path: str | Path) -> Path:
    """``path`` as it is if absolute or of a home (``~``), else below :func:`root`; ValueError where it leaves that."""
    path = os.path.expanduser(path)
    if not Path(path).is_absolute() and os.path.normpath(path).startswith(".."):
        raise ValueError(f"{str(path)!r}: leaves {root()}; expected a folder below it, or an absolute path")
    return root() / path
