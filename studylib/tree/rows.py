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
    """What ``make`` gives, as JSON gives it back. Read from ``path`` where a call with the same ``key`` left it.

    Args:
        path: None: nothing is kept.
        key: JSON data of all that decides the result, but for the code (:func:`studylib.disk.code.code_digest`).
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
    """The rows of all ``tasks``, pairs of what they are of and what makes them; ``of`` is in each row.

    What they are of is a few JSON values, different for each. A task is done once for ``folder`` and ``key``
    (:func:`once`). The key has settings, digests of data and of the networks they start from.
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
