"""How long a run still takes: the prediction as a function, and a whole run with made-up times."""

import heapq
import json
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from projects import ROOT

from studylib.experiments import time_left
from studylib.experiments.time_left import Watch, seconds_left
from studylib.tree import names

STAGES = ["distill", "prune", "svd", "int8"]
MINUTES = {"teacher": 1, "distill": 3, "prune": 3, "svd": 2, "int8": 3, "moo": 3, "sweep": 15, "frontier": 6}
DIGITS = {"teacher": 20, "distill": 12, "prune": 60, "svd": 2, "int8": 3, "latency": 60, "table": 5, "early_table": 5}
CIFAR10 = {"teacher": 7200, "distill": 5000, "prune": 16000, "svd": 120, "int8": 90, "latency": 200, "table": 9}
SMOKE = {"teacher": 9, "distill": 7, "prune": 22, "svd": 3.4, "int8": 4.2, "latency": 6, "table": 6}
DECLARED = {f"chapter_{key}": 60.0 * minutes for key, minutes in MINUTES.items()}


class Run:
    """Jobs as the study has them, with made-up times, done by so many workers in the order of their priorities."""

    def __init__(self, seconds, seeds, chapters, workers, draw):
        noise = 0.25 if seeds == 10 else 0.1  # of a few there is no mean
        self.workers, self.jobs = workers, {}  # name → kind, priority, what it waits for, seconds
        order = ["teacher", *STAGES]
        last = {names.part(stage): stage for stage in order}
        nodes = [(seed, node) for seed in range(seeds) for node in names.nodes(STAGES)]

        def add(name, kind, priority, needs, usual):
            self.jobs[name] = kind, priority, set(needs), usual * draw.lognormvariate(0, noise)

        for seed, node in nodes:
            kind, parent = last[node.rpartition("-")[2]], names.parent_of(node)
            first = 2000 * (seeds > 3 and seed < 3)  # those of the early table
            add((seed, node), kind, first + 1000 - order.index(kind), [(seed, parent)] if parent else [], seconds[kind])
        if seeds > 3:
            add("early", "early_table", 3000, [each for each in nodes if each[0] < 3], seconds["table"])
        add("latency", "latency", 500, [*nodes, *(["early"] if seeds > 3 else [])], seconds["latency"])
        add("table", "table", 1001, ["latency"], seconds["table"])
        for kind, usual in DECLARED.items() if chapters else ():
            add(kind, kind, usual / 60, ["latency", "table"], usual * chapters)

    def follow(self, folder):
        """What is predicted and true after each job: share of the work done, seconds predicted, seconds left."""
        now, free, ended, waiting, running, found = 0.0, self.workers, set(), dict(self.jobs), [], []
        counts = {}
        for kind, *_ in self.jobs.values():
            counts[kind] = counts.get(kind, 0) + 1
        watch = Watch(folder, ROOT / "figures", counts, self.workers, DECLARED, clock=lambda: now)
        numbers = {name: number for number, name in enumerate(self.jobs)}
        while waiting or running:
            ready = sorted((n for n, job in waiting.items() if job[2] <= ended), key=lambda n: -waiting[n][1])
            for name in ready[:free]:
                kind, _, _, seconds = waiting.pop(name)
                watch.begin(numbers[name], kind)
                heapq.heappush(running, (now + seconds, numbers[name], name))
                free -= 1
            now, number, name = heapq.heappop(running)
            watch.end(number)
            ended.add(name)
            free += 1
            done = math.fsum(self.jobs[each][3] for each in ended)
            found.append((done, watch.predict(), now))
        work = math.fsum(job[3] for job in self.jobs.values())
        return [(done / work, predicted, now - at) for done, predicted, at in found]


def earlier(folder, seconds):
    (folder / "smoke").mkdir()
    (folder / "smoke" / time_left.FILE).write_text(json.dumps({"seconds": seconds}))


STUDIES = {  # seconds of each kind, seeds, actual over declared minutes of the chapters (0: none), workers, earlier
    "digits": (DIGITS, 10, 1.3, 2, None),
    "digits, four cores": (DIGITS, 10, 0.8, 4, None),
    "mnist": (DIGITS, 10, 0, 2, None),
    "cifar10, three seeds": (CIFAR10, 3, 0, 2, None),
    "cifar10 with chapters, one core, after smoke": (CIFAR10, 1, 1.5, 1, SMOKE),
    "smoke first": (SMOKE, 1, 0, 1, None),
    "smoke first, two cores": (SMOKE, 1, 0, 2, None),
    "smoke again, twice as fast": ({kind: value / 2 for kind, value in SMOKE.items()}, 1, 0, 2, SMOKE),
}


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("study", STUDIES)
def test_after_a_third_of_the_work_the_time_left_is_predicted_within_a_factor_of_two(
    tmp_path, monkeypatch, study, draw
):
    """Until a fifth of the time is left: a single job then decides."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # a write a job, hundreds of them
    seconds, seeds, chapters, workers, before = STUDIES[study]
    if before:
        earlier(tmp_path, before)
    rows = Run(seconds, seeds, chapters, workers, random.Random(draw)).follow(tmp_path / re.match(r"\w+", study)[0])
    whole = rows[0][2]
    held = [(predicted, true) for share, predicted, true in rows if share >= 1 / 3 and true >= whole / 5]
    assert held and all(true / 2 <= predicted <= 2 * true for predicted, true in held)
    assert rows[-1][1:] == (0, 0)


KINDS = ["teacher", "int8", "latency", "chapter_svd"]
SECONDS = st.floats(0, 1e6)
MEANS = st.dictionaries(st.sampled_from(KINDS), SECONDS)
KNOWN = {
    "taken": st.dictionaries(st.sampled_from(KINDS), st.lists(SECONDS, max_size=4)),
    "earlier": st.lists(MEANS, max_size=2),
    "declared": MEANS,
    "side_by_side": st.integers(1, 64),
}
LEFT = st.dictionaries(st.sampled_from(KINDS), st.integers(0, 200))
RUNNING = st.lists(st.tuples(st.sampled_from(KINDS), SECONDS), max_size=4)


@given(left=LEFT, running=RUNNING, known=st.fixed_dictionaries(KNOWN))
def test_the_time_left_is_never_negative_and_always_a_number(left, running, known):
    assert 0 <= seconds_left(left, running, **known) < math.inf


@given(left=st.dictionaries(st.sampled_from(KINDS), st.just(0)), known=st.fixed_dictionaries(KNOWN))
def test_nothing_left_takes_no_time(left, known):
    assert seconds_left(left, [], **known) == 0


@given(left=LEFT, kind=st.sampled_from(KINDS), running=RUNNING, known=st.fixed_dictionaries(KNOWN))
def test_one_job_more_never_takes_less(left, kind, running, known):
    more = left | {kind: left.get(kind, 0) + 1}
    assert seconds_left(more, running, **known) >= seconds_left(left, running, **known)


@given(left=LEFT, known=st.fixed_dictionaries(KNOWN), places=st.integers(1, 64))
def test_more_places_never_take_longer(left, known, places):
    known |= {"side_by_side": known["side_by_side"]}
    wider = known | {"side_by_side": known["side_by_side"] + places}
    assert seconds_left(left, [], **wider) <= seconds_left(left, [], **known) * (1 + 1e-12)


def test_jobs_alike_share_the_places_and_phases_follow_one_another():
    taken = {"int8": [4.0, 6.0], "latency": [7.0], "chapter_svd": [60.0], "chapter_moo": [20.0]}
    assert seconds_left({"int8": 10}, [], taken, side_by_side=2) == 25
    assert seconds_left({"int8": 10, "latency": 1}, [], taken, side_by_side=2) == 32
    assert seconds_left({"chapter_svd": 1, "chapter_moo": 1}, [], taken, side_by_side=2) == 60  # its longest
    assert seconds_left({}, [("int8", 3.0)], taken) == 2
    assert seconds_left({}, [("int8", 300.0)], taken) == 0.5  # late


def test_a_chain_of_nodes_is_not_run_side_by_side():
    taken = {"teacher": [10.0], "distill": [6.0], "int8": [2.0]}
    assert seconds_left({"distill": 1, "int8": 2}, [], taken, side_by_side=16) == 8


def test_a_kind_that_is_new_takes_what_it_took_earlier_times_the_pace():
    taken, before = {"teacher": [22.0]}, {"teacher": 12.0, "distill": 7.0, "int8": 2.0}
    assert seconds_left({"distill": 1}, [], taken, [before]) == 2 * 2 + 2 * 5
    assert seconds_left({"int8": 1}, [], taken, [before]) == 2 * 2  # a start
    assert seconds_left({"int8": 1}, [], {"svd": [9.0]}, [before | {"svd": 2.0}]) == 9  # a slow machine's start
    assert seconds_left({"distill": 1}, [], taken, [{}, before, {"distill": 99.0}]) == 14  # the nearest run


def test_chapters_take_the_minutes_that_they_declare_until_one_is_measured():
    declared = {"chapter_svd": 120.0, "chapter_moo": 182.0}
    assert seconds_left({"chapter_moo": 1}, [], {"teacher": [5.0]}, declared=declared) == 182
    assert seconds_left({"chapter_moo": 1}, [], {"chapter_svd": [61.0]}, declared=declared) == pytest.approx(92)


def test_what_nobody_has_seen_takes_the_mean_of_what_has_been_seen():
    assert seconds_left({"clip": 2}, [], {"teacher": [6.0], "int8": [2.0, 4.0]}) == 9


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (9.6, "10 s"), (41.4, "40 s"), (100, "2 minutes"), (3000, "50 minutes"), (9000, "2.5 hours")],
)
def test_a_duration_in_words(seconds, said):
    assert time_left.in_words(seconds) == said


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def watch(tmp_path):
    """Makes a watch over two teachers and a chapter, and its clock."""
    clock = Clock()
    counts = {"teacher": 2, "chapter_svd": 1}
    return lambda: (Watch(tmp_path / "mine", tmp_path, counts, 1, {"chapter_svd": 60.0}, clock), clock)


def test_predictions_and_the_truth_are_kept_beside_the_run(watch, tmp_path):
    followed, clock = watch()
    for job, (kind, ended) in enumerate([("teacher", 10), ("teacher", 22), ("chapter_svd", 52)]):
        followed.begin(job, kind)
        clock.now = ended
        followed.end(job)
        followed.predict()
    kept = json.loads((tmp_path / "mine" / time_left.FILE).read_text())
    assert kept["took"] == 52 and kept["seconds"] == {"teacher": 11, "chapter_svd": 30} and kept["side_by_side"] == 1
    assert [row["seconds"] for row in kept["predictions"]] == [70, 60, 0]
    assert kept["predictions"][1] == {"after": 22, "done": 2, "left": 1, "seconds": 60}


def test_the_end_of_a_line_says_how_many_are_left_and_how_long_they_take(watch):
    followed, clock = watch()
    followed.begin(0, "teacher")
    followed.begin(1, "teacher")
    clock.now = 100
    followed.end(0)
    assert followed.rest() == "; 2 left, about 70 s"  # one that is late, and the chapter
    followed.end(1)
    followed.begin(2, "chapter_svd")
    followed.end(2)
    assert followed.rest() == ""


def test_a_run_that_goes_on_begins_with_what_it_took_before(watch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / time_left.FILE).write_text('{"seconds": {"chapter_svd": 40, "int8": 5}}')
    followed, clock = watch()
    assert followed.predict() == 40 + 2 * 0
    followed.begin(0, "teacher")
    clock.now = 10
    followed.end(0)
    assert followed.predict() == 10 + 40
    kept = json.loads((tmp_path / "mine" / time_left.FILE).read_text())
    assert kept["seconds"] == {"chapter_svd": 40, "int8": 5, "teacher": 10} and kept["took"] is None


def test_jobs_of_several_threads_share_the_places(tmp_path):
    followed = Watch(tmp_path / "mine", tmp_path, {"latency": 1, "chapter_svd": 2}, 4, {"chapter_svd": 60.0}, Clock())
    followed.begin(0, "latency", 4)
    followed.end(0)
    assert followed.predict() == 60
    followed.begin(1, "chapter_svd", 3)
    assert followed.predict() == 120


def test_a_job_that_fails_or_was_not_counted_says_nothing_of_time(watch):
    followed, clock = watch()
    followed.begin(0, "all")
    followed.begin(1, "teacher")
    clock.now = 1000
    followed.end(0)
    followed.end(1, done=False)
    followed.end(9)
    assert followed.taken == {} and not followed.running and followed.left == {"teacher": 1, "chapter_svd": 1}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"seconds": 3}', '{"seconds": {"a": "x"}}', '{"seconds": {"a": -1}}']
)
def test_a_damaged_file_of_times_is_as_if_it_were_not_there(watch, tmp_path, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / time_left.FILE).write_text(content)
    assert watch()[0].own == {}


def test_where_the_times_cannot_be_kept_they_are_still_predicted(watch, tmp_path):
    (tmp_path / "mine").write_text("a file in the folder's place")
    assert watch()[0].predict() >= 60


def test_every_published_study_says_how_long_its_nodes_took():
    means = time_left.published_means(ROOT / "figures/digits/nodes.csv")
    assert set(means) == {"teacher", *STAGES} and all(time_left.BESIDE <= seconds < 120 for seconds in means.values())
    assert time_left.published_means(ROOT / "README.md") == time_left.published_means(ROOT / "none.csv") == {}
