"""How long a run still takes, by the jobs that are left and by how long such jobs have taken."""

import contextlib
import csv
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from studylib.disk.files import CheckpointError, read_json, write_json
from studylib.tree import names

FILE = "times.json"  # in a run's folder: see Watch
CHAPTER = "chapter_"  # how the kinds of chapters begin
ALONE = {"early_table": 3.0, "latency": 10.0, "table": 3.0}  # kinds that run alone, seconds where nobody knows better
BESIDE = 2.0  # seconds that any job takes, however large the network: its start, the files
SLOW = 4.0  # times as long a start takes at most where jobs take that many times as long

LATE = 0.1  # of its kind's time, what a job is said to need at least while it runs


def seconds_left(
    left: Mapping[str, int],
    running: Iterable[tuple[str, float]],
    taken: Mapping[str, Sequence[float]],
    earlier: Iterable[Mapping[str, float]] = (),
    declared: Mapping[str, float] | None = None,
    side_by_side: int = 1,
) -> float:
    """The seconds until the last job ends: 0 where none is left, never below.

    Nodes come first, then what runs alone, then chapters. The jobs of a phase share ``side_by_side`` places. No phase
    takes less than its longest chapter, or than a chain of nodes, one of each kind.

    Args:
        left: kind → jobs that have not begun.
        running: kind and seconds so far of each job that has.
        taken: kind → seconds of each job that has ended.
        earlier: kind → mean seconds in earlier runs, the nearest run first.
        declared: kind → seconds that it is said to take.
        side_by_side: how many jobs run at the same time.
    """
    running = list(running)
    left = {kind: count for kind, count in left.items() if count > 0}
    means = estimates({*left, *(kind for kind, _ in running)}, taken, earlier, declared or {})
    seconds = 0.0
    for phase in ("nodes", "alone", "chapters"):
        own = {kind: count for kind, count in left.items() if phase_of(kind) == phase}
        rests = [max(LATE * means[kind], means[kind] - so_far) for kind, so_far in running if phase_of(kind) == phase]
        work = math.fsum([*rests, *(count * means[kind] for kind, count in own.items())])
        each = [means[kind] for kind in own]
        chain = math.fsum(each) if phase == "nodes" else max(each, default=0.0)
        seconds += max(work / (1 if phase == "alone" else max(1, side_by_side)), chain, max(rests, default=0.0))
    return seconds


def phase_of(kind: str) -> str:
    """When jobs of a kind run: ``nodes``, then ``alone``, then ``chapters``."""
    return "chapters" if kind.startswith(CHAPTER) else "alone" if kind in ALONE else "nodes"


def estimates(
    kinds: Iterable[str],
    taken: Mapping[str, Sequence[float]],
    earlier: Iterable[Mapping[str, float]],
    declared: Mapping[str, float],
) -> dict[str, float]:
    """Kind → seconds of a job of it: the mean of those that have ended, where there are any.

    Else it is what an earlier run or a declaration says, and all beyond :data:`BESIDE` times the pace. The pace is the
    time of jobs here over their time there. In BESIDE's place stands the least time of a kind with little more there.
    Without one, it is BESIDE times the pace, :data:`SLOW` at most. A kind of which nothing is known takes the mean.
    """
    here = {kind: math.fsum(values) / len(values) for kind, values in taken.items() if values}
    found = dict(here)
    for there in (*earlier, declared):
        both = [kind for kind in here if there.get(kind, 0) > BESIDE and kind not in ALONE]
        work = [math.fsum(max(0.0, each[kind] - BESIDE) for kind in both) for each in (here, there)]
        pace = work[0] / work[1] if both else 1.0
        light = [here[kind] for kind in here if kind not in ALONE and 0 < there.get(kind, 0) <= 1.5 * BESIDE]
        beside = min(light, default=BESIDE * min(max(1.0, pace), SLOW))  # what a job takes here that hardly works
        scaled = {kind: beside + pace * max(0.0, seconds - BESIDE) for kind, seconds in there.items()}
        found = scaled | found
    unseen = math.fsum(here.values()) / len(here) if here else 0.0
    return dict.fromkeys(kinds, unseen) | ALONE | found


def in_words(seconds: float) -> str:
    """A duration to one or two figures: ``40 s``, ``12 minutes``, ``2.5 hours``."""
    if seconds < 90:
        return f"{max(1, round(seconds) if seconds < 20 else 10 * round(seconds / 10))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def means_of(path: Path) -> dict[str, float]:
    """Kind → mean seconds as a file of :class:`Watch` has them; empty where it is not there or damaged."""
    with contextlib.suppress(CheckpointError, OSError, AttributeError, TypeError, ValueError):
        found = {kind: float(seconds) for kind, seconds in read_json(path)["seconds"].items()}
        if all(0 <= seconds < math.inf for seconds in found.values()):
            return found
    return {}


def published_means(path: Path) -> dict[str, float]:
    """Technique → mean seconds of a published study's nodes, by its table, and what a job takes beside them."""
    found, techniques = {}, {short: key for key, short in names.SHORT.items()}
    with contextlib.suppress(OSError, KeyError, ValueError), open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            part = row["node"].rpartition("-")[2]
            found.setdefault(techniques.get(part, part), []).append(BESIDE + float(row["seconds"]))
    return {kind: mean for kind, each in found.items() if 0 <= (mean := math.fsum(each) / len(each)) < math.inf}


class Watch:
    """Follows the jobs of a run: says how long the rest takes, and keeps predictions and truth in :data:`FILE`.

    The file has kind → mean ``seconds``, of this run or else of the one before. Each of ``predictions`` says ``after``
    how many seconds how many jobs were ``done`` and ``left``, and the seconds predicted. ``took`` is the truth, null
    until all is done.

    Args:
        run: its folder; other runs beside it are read, too.
        published: the folder of the published studies, whose nodes say how long they took.
        counts: kind → jobs to be done.
        places: how many threads run at the same time.
        declared: kind → seconds that it is said to take.
        clock: gives seconds.
    """

    def __init__(
        self,
        run: Path,
        published: Path,
        counts: Mapping[str, int],
        places: int = 1,
        declared: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.run, self.places, self.declared, self.clock = Path(run), places, declared or {}, clock
        self.left, self.taken, self.running = Counter(counts), {}, {}
        self.side_by_side = max(1, places)
        self.own = means_of(self.run / FILE)
        runs = {path.parent.name: means_of(path) for path in sorted(self.run.parent.glob(f"*/{FILE}"))}
        studies = {path.parent.name: published_means(path) for path in sorted(Path(published).glob("*/nodes.csv"))}
        near = [each.pop(self.run.name, {}) for each in (runs, studies)]
        others = [*runs.values(), *studies.values()]  # of those that know most kinds, the quickest: others take hours
        self.earlier = [*near, *sorted(others, key=lambda each: (-len(each), sum(each.values())))]
        self.began, self.predictions = clock(), []

    def begin(self, job: int, kind: str, threads: int = 1) -> None:
        """A job begins; one of a kind that was not counted is ignored."""
        if kind in self.left:
            self.left[kind] = max(0, self.left[kind] - 1)
            self.running[job] = kind, self.clock()
            if kind not in ALONE:  # which take every place
                self.side_by_side = max(1, self.places // threads)

    def end(self, job: int, done: bool = True) -> None:
        """A job has ended; its time counts where it is ``done``."""
        kind, began = self.running.pop(job, ("", 0.0))
        if kind and done:
            self.taken.setdefault(kind, []).append(self.clock() - began)

    def rest(self) -> str:
        """How many jobs are left and how long they take, for the end of a line; empty where none is."""
        seconds = self.predict()
        left = self.predictions[-1]["left"]
        return f"; {left} left, about {in_words(seconds)}" if left else ""

    def predict(self) -> float:
        """The seconds that the rest takes; this is kept on disk, if it can be."""
        now = self.clock()
        running = [(kind, now - began) for kind, began in self.running.values()]
        left = self.left.total() + len(running)
        how = (self.taken, self.earlier, self.declared, self.side_by_side)
        seconds = seconds_left(self.left, running, *how)
        done = sum(map(len, self.taken.values()))
        row = {"after": now - self.began, "done": done, "left": left, "seconds": seconds}
        self.predictions.append({key: round(value, 1) for key, value in row.items()})
        means = {kind: round(math.fsum(each) / len(each), 2) for kind, each in self.taken.items()}
        content = {"seconds": self.own | means, "side_by_side": self.side_by_side}
        content |= {"predictions": self.predictions, "took": None if left else round(now - self.began, 1)}
        with contextlib.suppress(OSError):
            write_json(self.run / FILE, content)
        return seconds
