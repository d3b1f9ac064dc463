"""Rows of long comparisons, kept as they are made: who is stopped loses one training at most."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from studylib.disk import files
from studylib.disk.code import code_digest

log = logging.getLogger(__name__)
Found = TypeVar("Found")
Task = tuple[dict, Callable[[], list[dict]]]


def once(path: Path | None, key: list, make: Callable[[], Found]) -> Found:
    """What ``make`` gives (JSON data); read from ``path`` where an earlier call with the same ``key`` has left it.

    Args:
        path: file that is written, whole or not at all; None: nothing is kept.
        key: JSON data of all that decides the result. The code that ``make`` stands on counts besides
            (:func:`studylib.disk.code.code_digest`).

    Returns:
        As JSON gives it back, whether made or read: tuples are lists.
    """
    if path is None:
        return json.loads(json.dumps(make()))
    key = json.loads(json.dumps([code_digest(make), *key]))
    if (kept := _read(path)).get("key") == key:
        return kept["found"]
    found = json.loads(json.dumps(make()))
    files.write_json(path, {"key": key, "found": found})
    return found


def every(tasks: Iterable[Task], folder: Path | None, key: list) -> Iterator[dict]:
    """The rows of all ``tasks``, each with its own key in it; a task is done once for ``folder`` (:func:`once`).

    Args:
        tasks: pairs of what the rows are of (a few JSON values, different for each) and what makes them.
        folder: a file a task is left there.
        key: what decides all of them: settings, digests of data and of the networks they start from.
    """
    for of, make in tasks:
        name = "-".join(str(value).replace("/", "_").replace(" ", "_") for value in of.values())
        path = folder / f"{name}.json" if folder else None
        yield from ({**of, **row} for row in once(path, [*key, of], make))


def _read(path: Path) -> dict:
    """What the file holds, {} where there is none or it is damaged: then it is made anew."""
    try:
        content = files.read_json(path) if path.exists() else {}
    except files.CheckpointError as error:
        log.warning("%s; it is made again", error)
        return {}
    return content if isinstance(content, dict) else {}
