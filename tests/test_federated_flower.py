"""Federated learning by Flower: its strategies, its simulation engine, and clients that misbehave."""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import federated_network
import numpy as np
import pytest
import torch
from projects import ROOT, environment
from test_federated import SHORT, a_job, by_hand

from engine.settings import check, parameters
from studylib.data import datasets
from studylib.disk import files
from studylib.federated import measure, messages, run, teacher, told
from studylib.federated.job import Job
from studylib.federated.sides import Server
from studylib.federated.splits import Splits
from studylib.federated.teacher import Teacher
from studylib.techniques.distill import Student
from studylib.training import loop

if importlib.util.find_spec("flwr") is None:
    pytest.skip("the extra federated is not installed: pip install -e '.[federated]'", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what Flower imports
    from federated_nodes import Nodes, spoilt

    from studylib.federated import app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def saved(job: Job) -> Job:
    """``job`` with a teacher that starts at random, where it has one."""
    data, file = job.data(), b""
    if job.federation.teaching:
        file = teacher.handed_out(job.teacher, teacher.new(job.teacher, data, 0), data, 0)[0]
    job.save(file)
    return job


def student(job: Job) -> messages.State:
    return messages.floats(files.read_tensors(job.folder / "student.safetensors")[0])


def same(a: messages.State, b: messages.State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_flower_averages_as_by_hand(tmp_path, form):
    job = saved(a_job(tmp_path / "flower", form=form))
    found = app.run(job, Nodes(3))
    expected = by_hand(a_job(tmp_path / "hand", form=form), 3).weights
    for name, tensor in student(job).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert [row["used"] for row in found["rounds"]] == [3, 3, 3] and found["left_out"] == {}
    assert not list((tmp_path / "flower").glob("clients/*/round-*"))


def test_one_client_in_flowers_own_form_is_central_training_bit_for_bit(tmp_path):
    job = saved(a_job(tmp_path, clients=1))
    app.run(job, Nodes(1))
    central = job.model()
    counters = {n: t for n, t in central.state_dict().items() if not t.is_floating_point()}
    for number in (1, 2, 3):
        central.load_state_dict({**central.state_dict(), **counters})
        loop.fit(central, job.together(), SHORT, seed=job.seed_of(0, number), keep="last")
    assert same(student(job), messages.floats(central.state_dict()))


def test_a_teacher_changes_what_is_learnt_and_does_not_travel(tmp_path):
    plain, taught = saved(a_job(tmp_path / "a")), saved(a_job(tmp_path / "b", teaching=1.0))
    rows = [app.run(job, Nodes(3)) for job in (plain, taught)]
    assert not same(student(plain), student(taught))
    longer = len(str(taught.folder)) - len(str(plain.folder))
    assert rows[0]["down"] == rows[1]["down"] + longer and rows[0]["up"] == rows[1]["up"]


def test_fedprox_tells_clients_mu_and_they_stay_nearer(tmp_path):
    start = messages.floats(a_job(tmp_path).model().state_dict())
    far = []
    for mu in (0.0, 30.0):
        job = saved(a_job(tmp_path / str(mu), rounds=1, strategy="fedprox", mu=mu))
        grid = Nodes(3)
        app.run(job, grid)
        assert {message.content["config"]["proximal-mu"] for message in grid.sent} == {mu}
        weights = [name for name, _ in job.model().named_parameters()]
        far.append(sum((student(job)[name] - start[name]).square().sum().item() for name in weights))
    assert far[1] < 0.5 * far[0]


def test_messages_get_smaller_form_by_form_and_their_bytes_are_counted(tmp_path):
    counted = {}
    for form in ("flower", "float32", "float16", "int8", "int4"):
        job, grid = saved(a_job(tmp_path / form, form=form)), Nodes(3)
        found = app.run(job, grid)
        assert found["down"] == sum(map(app.size, grid.sent))
        if form != "flower":
            assert found["up"] == sum(row["up"] for row in found["rounds"])
        counted[form] = found["up"]
    assert counted["flower"] > counted["float32"] > counted["float16"] > counted["int8"] > counted["int4"]


@pytest.mark.parametrize("form", ["flower", "float32", "int8"])
@pytest.mark.parametrize(
    ("bad", "counted"),
    [
        ("silent", "silent"),
        ("not finite", "not finite"),
        ("other shapes", "other shapes"),
        ("missing", "other shapes"),
        ("damaged", "damaged"),
        ("empty", "other shapes"),
        ("other weight", "other weight"),
        ("no weight", "damaged"),
    ],
)
def test_each_kind_of_bad_client_is_left_out_and_counted(tmp_path, form, bad, counted):
    if form != "flower":  # a coded message has one array, and a checksum
        if bad == "not finite":
            pytest.skip("a coded message holds NaN only if a client coded it: see the next test")
        counted = "damaged" if counted == "other shapes" else counted

    def spoil(client, number, reply):
        return spoilt(bad, reply) if (client, number) == (1, 2) else reply

    job = saved(a_job(tmp_path / "bad", form=form))
    found = app.run(job, Nodes(3, spoil=spoil))
    assert [row["left_out"] for row in found["rounds"]] == [{}, {counted: 1}, {}]
    assert [row["used"] for row in found["rounds"]] == [3, 2, 3] and found["left_out"] == {counted: 1}
    without = saved(a_job(tmp_path / "without", form=form))
    app.run(without, Nodes(3, spoil=lambda client, number, reply: None if (client, number) == (1, 2) else reply))
    assert same(student(job), student(without))


def test_coded_messages_with_nan_or_of_another_network_are_left_out(tmp_path):
    job = saved(a_job(tmp_path, form="float32"))
    like = messages.floats(job.model().state_dict())
    nan = {name: tensor.clone() for name, tensor in like.items()}
    nan["fc1.weight"][2, 3] = torch.nan
    other = {"x": torch.zeros(3)}

    def spoil(client, number, reply):
        sent = {(0, 1): nan, (1, 2): other}.get((client, number))
        if sent is not None:
            reply.content["arrays"] = app._record(messages.encode(sent))
        return reply

    found = app.run(job, Nodes(3, spoil=spoil))
    assert [row["left_out"] for row in found["rounds"]] == [{"not finite": 1}, {"other shapes": 1}, {}]


def test_a_client_that_raises_has_dropped_out_and_comes_back(tmp_path):
    def raises(message, context, call_next):
        trains = message.metadata.message_type == "train" and context.node_config["partition-id"] == 2
        if trains and message.content["config"]["round"] == 2:
            raise ConnectionError("away")
        return call_next(message, context)

    job = saved(a_job(tmp_path, form="int8"))
    grid = Nodes(3, app=app.client_app(mods=[raises]))
    found = app.run(job, grid)
    assert [row["left_out"] for row in found["rounds"]] == [{}, {"dropped out": 1}, {}]
    bases = [message.content["config"]["base"] for message in grid.sent if message.content["config"]["round"] == 3]
    assert sorted(bases) == [-1, 2, 2]


def test_a_federation_without_any_sound_client_is_an_error(tmp_path):
    job = saved(a_job(tmp_path))
    with pytest.raises(RuntimeError, match=r"no client could be used in any of 3 rounds \(damaged\)"):
        app.run(job, Nodes(3, spoil=lambda client, number, reply: spoilt("damaged", reply)))
    assert not (tmp_path / "result.json").exists()


def test_clients_that_do_not_answer_are_an_error(tmp_path):
    job = saved(a_job(tmp_path))
    with pytest.raises(RuntimeError, match=r"clients \[0, 1\] answered: expected 3 of them"):
        app.run(job, Nodes(2))


@pytest.mark.parametrize("form", ["flower", "int8"])
def test_a_stopped_run_goes_on_with_the_round_it_was_in(tmp_path, form):
    whole, job = saved(a_job(tmp_path / "whole", form=form)), saved(a_job(tmp_path / "parts", form=form))
    app.run(whole, Nodes(3))

    def stop(client, number, reply):
        if (client, number) == (1, 2):
            raise KeyboardInterrupt
        return reply

    with pytest.raises(KeyboardInterrupt):
        app.run(job, Nodes(3, spoil=stop))
    grid = Nodes(3)
    app.run(job, grid)
    assert sorted({message.content["config"]["round"] for message in grid.sent}) == [2, 3]
    assert same(student(job), student(whole))


def test_a_share_of_the_clients_is_asked_each_round(tmp_path):
    job = saved(dataclasses.replace(a_job(tmp_path, share=0.5, rounds=4), splits=Splits(clients=4, alpha=10.0)))
    grid = Nodes(4)
    found = app.run(job, grid)
    assert [row["asked"] for row in found["rounds"]] == [2] * 4 and len(grid.sent) == 8


@pytest.mark.long
def test_twenty_kills_repeat_one_round_at_most_each(tmp_path):
    """SIGKILL at any instant, while files are written, too: of children of this process, as it has torch by now."""
    begun, wait = tmp_path / "begun", random.Random(0)

    def note(client, number, reply):
        with open(begun, "a") as file:
            file.write(f"{number}\n")
        return reply

    job, whole = (saved(a_job(tmp_path / name, form="int8", rounds=40)) for name in ("job", "whole"))
    started = time.monotonic()
    app.run(whole, Nodes(3, spoil=note))
    a_round = (time.monotonic() - started) / 40
    begun.unlink()
    kills = 0
    while kills < 20:
        if not (child := os.fork()):
            with contextlib.suppress(BaseException):
                app.run(job, Nodes(3, spoil=note))
            os._exit(0)
        time.sleep(wait.uniform(0, 2 * a_round))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL and not (job.folder / "result.json").exists()
        kills += 1
    app.run(job, Nodes(3, spoil=note))
    rounds = [int(line) for line in begun.read_text().split()]
    assert rounds[0] == 1 and rounds[-1] == 40 and all(0 <= b - a <= 1 for a, b in itertools.pairwise(rounds))
    assert same(student(job), student(whole))


# Flower's simulation engine


def processes(marker: str) -> list[str]:
    """Command lines of living processes with ``marker`` in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    told = marker.encode() in file.read()
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    found += [file.read().decode()] if told else []
            except OSError:
                continue
    return found


def test_the_simulation_engine_gives_the_same_bits_and_nothing_keeps_running(tmp_path):
    jobs = [saved(a_job(tmp_path / form, form=form, teaching=1.0)) for form in ("flower", "int8")]
    alike = [saved(a_job(tmp_path / f"direct-{form}", form=form, teaching=1.0)) for form in ("flower", "int8")]
    expected = [app.run(job, Nodes(3)) for job in alike]
    found = run.simulate([job.folder for job in jobs], tmp_path / "home")
    for job, like, a, b in zip(jobs, alike, found, expected, strict=True):
        assert same(student(job), student(like)) and a["by_class"] == b["by_class"]
    assert processes(str(tmp_path / "home")) == []
    log = (tmp_path / "home" / "federation.log").read_text()
    assert "Error" not in log and (tmp_path / "home").is_dir()
    assert run.simulate([job.folder for job in jobs], tmp_path / "elsewhere") == found  # nothing is run again
    assert not (tmp_path / "elsewhere").exists()


def test_a_federation_that_fails_ends_with_a_status_and_nothing_keeps_running(tmp_path):
    job = saved(a_job(tmp_path / "job", teaching=1.0))
    (tmp_path / "job" / "teacher.slns").write_bytes(b"no teacher")
    with pytest.raises(run.FederationError, match="status 1"):
        run.simulate([job.folder], tmp_path / "home")
    assert processes(str(tmp_path / "home")) == []
    command = [sys.executable, "-m", "studylib.federated.run", str(tmp_path / "nowhere")]
    done = subprocess.run(command, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 1 and "job.json: no such file" in done.stderr


def test_a_federation_ends_with_who_started_it(tmp_path):
    """The caller is killed while Ray starts; then nobody of the session is left."""
    job = saved(a_job(tmp_path / "job", rounds=1000))
    told = f"from pathlib import Path; from studylib.federated import run; run.simulate([Path({str(job.folder)!r})], "
    caller = subprocess.Popen([sys.executable, "-c", f"{told}Path({str(tmp_path / 'home')!r}))"], env=environment(ROOT))
    end = time.monotonic() + 300
    while not processes(str(tmp_path / "home")) and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2)
    caller.kill()
    caller.wait()
    while processes(str(tmp_path / "home")) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes(str(tmp_path / "home")) == []


# a network on loopback


WIDE = {"flower": 2048, "float16": 1024, "int4 0.9": 1024}  # form of messages → neurons of both hidden layers
HEADS = {"up": 15_000, "down": 3_500}  # bytes that HTTP adds to a coded message, at most: a request for each object


@pytest.mark.long
@pytest.mark.parametrize("form", WIDE)
def test_over_a_network_the_same_bits_come_out_and_a_relay_counts_the_same_bytes(tmp_path, form):
    """A SuperLink and two SuperNodes, each with a folder of its own. Pruned int4 is not large beside its heads."""
    of = {"splits": Splits(clients=2, alpha=10.0), "student": Student(widths=[8, 16, 32], hidden=2 * [WIDE[form]])}
    how = {"rounds": 2, "teaching": 1.0} | measure.form_of(form)
    job, alone = (saved(dataclasses.replace(a_job(tmp_path / name, **how), **of)) for name in ("server", "alone"))
    expected = app.run(alone, Nodes(2))
    nodes = [tmp_path / f"node{k}" for k in range(2)]
    for folder in nodes:
        shutil.copytree(job.folder, folder)
    with (
        federated_network.network(tmp_path / "net", nodes) as (port, relay, surroundings),
        federated_network.rounds(job.folder / "server.safetensors", relay) as seen,
    ):
        assert federated_network.submit(tmp_path / "net", job.folder, port, surroundings) == "finished:completed"
    found = files.read_json(job.folder / "result.json")
    assert same(student(job), student(alone)) and found["by_class"] == expected["by_class"]
    assert found["left_out"] == {} and [row["used"] for row in found["rounds"]] == [2, 2]
    for way, heads in HEADS.items():
        passed = [end[way] - begin[way] for begin, end in itertools.pairwise(seen)]
        for number, (row, its) in enumerate(zip(found["rounds"], passed, strict=True)):
            messages_ = 2 * (2 if number == 0 else 1)  # two clients; a roll call is before the first round
            assert 0 < its - row[way] <= max(0.02 * row[way], messages_ * heads), (way, passed, found["rounds"])
        if form != "int4 0.9":
            assert sum(passed) == pytest.approx(found[way], rel=0.02)
    end = time.monotonic() + 120
    while processes(str(tmp_path / "net")) and time.monotonic() < end:
        time.sleep(1)
    assert processes(str(tmp_path / "net")) == []


@pytest.mark.long
def test_twenty_kills_of_a_simulation_leave_nothing_running(tmp_path):
    """SIGKILL of who started it, or of Flower's own process, while Ray starts or clients train, in turn."""
    job, whole = (saved(a_job(tmp_path / name, form="int8", rounds=60)) for name in ("job", "whole"))
    app.run(whole, Nodes(3))
    home, wait, done = tmp_path / "home", random.Random(0), [0]
    called = f"from pathlib import Path; from studylib.federated import run; run.simulate([Path({str(job.folder)!r})], "
    for kill in range(20):
        caller = subprocess.Popen(
            [sys.executable, "-c", f"{called}Path({str(home)!r}))"], env=environment(ROOT), stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 120
        while not processes(str(home)) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(wait.uniform(0, 20))
        children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
        for pid in [caller.pid] if kill % 2 == 0 else map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert caller.wait(60) != 0 or (job.folder / "result.json").exists()
        while processes(str(home)) and time.monotonic() < end + 60:
            time.sleep(0.1)
        assert processes(str(home)) == []
        if (job.folder / "result.json").exists():
            break
        done.append(Server(job).round)
    assert done == sorted(done)
    run.simulate([job.folder], home)
    assert same(student(job), student(whole)) and processes(str(home)) == []


def test_the_cifar_10_variant_of_chapter_13_runs_on_500_images(tmp_path, monkeypatch):
    """Made images of that shape, each class of its own colour; rounds and epochs are cut to one."""
    draw = np.random.default_rng(0)
    colours, arrays = draw.integers(40, 216, (10, 1, 1, 3)), {}
    for part, count in (("train", 500), ("test", 100)):
        labels = np.arange(count) % 10
        images = colours[labels] + draw.normal(0, 30, (count, 32, 32, 3))
        arrays |= {f"x_{part}": images.clip(0, 255).astype(np.uint8), f"y_{part}": labels}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    monkeypatch.setenv("STUDY_DATA", str(tmp_path))
    sections = parameters.load("cifar10", variant="federated")
    of = check.records_of("federated", sections) | {"teacher": Teacher(name="resnet 8-4")}
    shorter = {"federation": {"rounds": 1}, "recipe": {"epochs": 1}, "teaching": {"epochs": 1}}
    shorter["comparison"] = {"alphas": [0.1], "repetitions": 1, "forms": ["int8"]}
    of |= {name: dataclasses.replace(of[name], **less) for name, less in shorter.items()}
    plan = measure.Plan("cifar10", 0, *of.values())

    def simulate(folders, home, processes):
        for folder in folders:
            app.run(Job.load(folder), Nodes(plan.splits.clients))

    monkeypatch.setattr(measure.run, "simulate", simulate)
    rows = measure.compared(plan, tmp_path / "out")
    assert len(rows) == 4 + 4 + 1 + 2 + 3 and set(told.plain(rows)["way"]) == set(told.ORDER)
    assert rows[["accuracy", "balanced", "worst"]].stack().between(0, 1).all()
    sent = measure.along(plan, tmp_path / "out")
    assert {row["form"] for row in sent} == {"flower", "int8"} and all(row["down"] > 0 < row["up"] for row in sent)
    assert {row["class"] for row in measure.held(plan)} == set(datasets.load("cifar10", 0).classes)


def test_nothing_is_told_to_anybody(tmp_path):
    told = run.surroundings(tmp_path / "home")
    assert told["FLWR_TELEMETRY_ENABLED"] == told["RAY_USAGE_STATS_ENABLED"] == "0"
    assert told["FLWR_DISABLE_UPDATE_CHECK"] == "1" and told["FLWR_HOME"] == str(tmp_path / "home")
