"""Federated learning without a network: who has which images, what is in a message, what both sides keep."""

import dataclasses
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from projects import ROOT, environment

from studylib.data import scoring
from studylib.disk import files
from studylib.federated import job as jobs
from studylib.federated import measure, messages, run, splits, teacher
from studylib.federated.job import Federation, Job
from studylib.federated.messages import MessageError
from studylib.federated.rare import rare
from studylib.federated.sides import WHOLE, Client, Server, forget
from studylib.federated.splits import Splits
from studylib.federated.teacher import Teacher
from studylib.settings import SettingError
from studylib.techniques.distill import Student
from studylib.training import loop
from studylib.training.recipe import Recipe

SHORT = Recipe(epochs=1, lr=3e-3, min_lr=3e-3, batch_size=32, augmentation="none")


def a_job(folder, clients=3, **federation) -> Job:
    """Small enough to train in a second."""
    student, of = Student(widths=[4, 6, 8], hidden=[8, 8]), Teacher(name="resnet 8-2")
    of_clients = Splits(clients=clients, alpha=0.5)
    return Job(folder, "digits", 0, of_clients, Federation(**{"rounds": 3, **federation}), student, SHORT, of)


def by_hand(job: Job, rounds: int, faulty=None) -> Server:
    """The rounds of ``job`` with coded messages, without Flower: means weighted by numbers of images."""
    server = Server(job)
    clients = {k: Client(job, k, job.folder / "clients" / str(k)) for k in range(job.splits.clients)}
    for _ in range(rounds):
        chosen = server.chosen({k: each.examples() for k, each in clients.items()})
        number, found = server.round + 1, {}
        for client, (message, base) in server.offer(chosen).items():
            answer = clients[client].answer(message, base, number)
            if not faulty or not faulty(client, number):
                found[client] = server.take(answer)
        total = sum(clients[k].examples() for k in found)
        mean = {n: sum(clients[k].examples() / total * found[k][n] for k in found) for n in server.weights}
        server.finish(mean if found else None, {"left_out": {}}, sorted(found), chosen)
    return server


# who has which images


@given(
    alpha=st.sampled_from([1e-3, 0.01, 0.1, 1.0, 100.0]),
    clients=st.integers(1, 12),
    share=st.sampled_from([0.2, 0.5, 0.8]),
    seed=st.integers(0, 2**32 - 1001),
)
def test_no_image_is_in_two_parts_and_none_is_lost_and_the_seed_decides(alpha, clients, share, seed):
    labels = torch.arange(400) % 10
    of = Splits(clients=clients, alpha=alpha, teacher=share)
    taught, parts = splits.parts(labels, of, 10, seed)
    assert len(parts) == clients and len(taught) == round(share * 400)
    assert sorted(np.concatenate([taught, *parts]).tolist()) == list(range(400))
    again = splits.parts(labels, of, 10, seed)
    assert all(np.array_equal(a, b) for a, b in zip([taught, *parts], [again[0], *again[1]], strict=True))


def test_small_alpha_gives_few_clients_most_of_a_class_and_large_alpha_all_alike():
    labels = torch.arange(4000) % 10

    def largest(alpha):
        _, parts = splits.parts(labels, Splits(clients=5, alpha=alpha), 10, 0)
        held = splits.counts(labels, parts, 10)
        return (held.max(0) / held.sum(0)).mean()

    assert largest(0.01) > 0.9 > largest(1.0) > 0.3 > largest(1e4) > 0.199


def test_a_client_without_images_is_never_asked_and_weighs_nothing(tmp_path):
    labels = torch.arange(400) % 10
    _, parts = splits.parts(labels, Splits(clients=30, alpha=0.001), 10, 0)
    assert min(map(len, parts)) == 0
    job = dataclasses.replace(a_job(tmp_path), splits=Splits(clients=30, alpha=0.001))
    empty = [k for k, part in enumerate(job.parts()[1]) if len(part) < splits.LEAST]
    assert empty
    examples = {k: Client(job, k, tmp_path).examples() for k in range(30)}
    assert all(examples[k] == 0 for k in empty)
    assert sorted(set(range(30)) - set(empty)) == Server(job).chosen(examples)


@pytest.mark.parametrize(("clients", "each"), [(5, 2), (10, 1), (7, 3), (1, 10)])
def test_of_kind_classes_a_client_has_so_many_and_every_class_is_somebodys(clients, each):
    labels = torch.arange(400) % 10
    _, parts = splits.parts(labels, Splits(clients=clients, kind="classes", classes_each=each), 10, 0)
    held = splits.counts(labels, parts, 10)
    assert ((held > 0).sum(1) == each).all() and (held.sum(0) == 20).all()


def test_rare_classes_are_those_that_fewest_clients_hold_and_none_where_they_tie():
    held = np.array([[50, 50, 50, 0, 2, 40], [50, 0, 50, 0, 50, 40], [50, 0, 0, 60, 50, 40]])
    assert rare(held) == [1, 3]  # one client each, the others two or three
    assert rare(held[:, [1, 3, 0, 3, 2, 5]]) == []  # three by one client each, of which two would be named
    assert rare(np.array([[9, 0], [0, 9]])) == []  # a third of two classes is none


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "classes", "classes_each": 11}, "classes_each=11: expected at most 10"),
        ({"kind": "classes", "classes_each": 1}, "classes_each=1: expected at least 2"),
        ({"teacher": 0.001}, "teacher=0.001: expected 10 of 400 images"),
    ],
)
def test_splits_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        splits.parts(torch.arange(400) % 10, Splits(**{"clients": 5, **wrong}), 10, 0)


def test_clients_of_whom_none_can_train_are_refused():
    with pytest.raises(ValueError, match="clients=1000: expected a client with at least 2 of 20 images"):
        splits.parts(torch.zeros(40, dtype=torch.int64), Splits(clients=1000, alpha=1e6), 1, 0)


# messages


def drawn(seed=0) -> messages.State:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (6, 3, 3, 3), "fc.weight": (10, 24), "fc.bias": (10,), "scalar": ()}
    return {name: 0.1 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def test_float32_messages_are_bit_for_bit_and_smaller_forms_within_their_step():
    of = drawn()
    of["fc.weight"][3] = 0
    exact = messages.decode(messages.encode(of), of)
    assert all(torch.equal(exact[name], of[name]) for name in of)
    half = messages.decode(messages.encode(of, "float16"), of)
    assert all(torch.equal(half[name], of[name].half().float()) for name in of)
    for form, levels in (("int8", 255), ("int4", 14)):
        found = messages.decode(messages.encode(of, form), of)
        for name in ("conv.weight", "fc.weight"):
            step = 2 * of[name].flatten(1).abs().amax(1) / levels
            assert ((found[name] - of[name]).abs().flatten(1).amax(1) <= 0.51 * step).all()
    sizes = [len(messages.encode(of, form)) for form in messages.FORMS]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 4


@pytest.mark.parametrize("form", ["float32", "float16", "int8", "int4"])
def test_not_a_number_stays_visible(form):
    of = drawn() | {"fc.bias": torch.full((10,), torch.nan)}
    with pytest.raises(MessageError, match=r"fc\.bias holds NaN") as refused:
        messages.check(messages.decode(messages.encode(of, form), of), of)
    assert refused.value.kind == "not finite"


@given(share=st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.99]), form=st.sampled_from(["int8", "int4"]))
def test_so_many_of_the_smallest_are_left_out(share, form):
    of = drawn()
    found = messages.decode(messages.encode(of, form, share), of)
    large = {name for name in of if of[name].dim() > 1}
    sizes = torch.cat([of[name].abs().flatten() for name in large])
    least = sizes.kthvalue(max(1, int(share * len(sizes)))).values
    for name in large:
        assert (found[name][of[name].abs() <= least] == 0).all() or not int(share * len(sizes))
    assert torch.equal(found["fc.bias"], of["fc.bias"].half().float())


def test_a_damaged_message_or_one_of_another_network_is_refused_whatever_byte_is_wrong():
    of = drawn()
    for form in messages.FORMS:
        whole = messages.encode(of, form)
        for at in range(0, len(whole), 7):
            broken = bytearray(whole)
            broken[at] ^= 0x40
            with pytest.raises(MessageError) as refused:
                messages.decode(bytes(broken), of)
            assert refused.value.kind == "damaged"
        for cut in (b"", whole[:3], whole[:-4], whole[:-1], whole + b"0000"):
            with pytest.raises(MessageError):
                messages.decode(cut, of)
        other = {**of, "fc.weight": torch.zeros(10, 25)}
        with pytest.raises(MessageError) as refused:
            messages.decode(whole, other)
        assert refused.value.kind == "other shapes"
        body = whole[:-8] + b"\xff\xff\xff\xff"  # a checksum that fits words that nobody wrote
        with pytest.raises(MessageError):
            messages.check(messages.decode(body + struct.pack("<I", zlib.crc32(body)), of), {**of, "x": of["scalar"]})


@pytest.mark.parametrize(("form", "pruned"), [("int8", 0.0), ("int4", 0.9)])
def test_what_is_left_out_of_one_message_is_in_later_ones(form, pruned):
    """Sums of what arrives follow sums of what was meant: error feedback loses nothing for good."""
    meant, arrived = drawn(), {name: torch.zeros_like(t) for name, t in drawn().items()}
    rest = {name: torch.zeros_like(t) for name, t in meant.items()}
    errors = []
    for k in range(1, 41):
        given_ = messages.plus(meant, rest)
        found = messages.decode(messages.encode(given_, form, pruned), given_)
        rest, arrived = messages.minus(given_, found), messages.plus(arrived, found)
        errors.append((arrived["fc.weight"] / k - meant["fc.weight"]).norm() / meant["fc.weight"].norm())
    assert errors[-1] < 0.15 * errors[0] or errors[-1] < 1e-3
    for name in meant:
        torch.testing.assert_close(messages.plus(arrived, rest)[name], 40 * meant[name], rtol=1e-4, atol=1e-4)


def test_unknown_forms_and_shares_are_refused():
    with pytest.raises(ValueError, match="form='int2': expected one of float32"):
        messages.encode(drawn(), "int2")
    with pytest.raises(ValueError, match=r"pruned=1: expected a share"):
        messages.encode(drawn(), "int8", 1)
    with pytest.raises(ValueError, match=r"pruned=0\.5: expected 0 beside form='float16'"):
        Federation(form="float16", pruned=0.5)
    with pytest.raises(ValueError, match=r"mu=1\.0: expected 0 beside strategy='fedavg'"):
        Federation(mu=1.0)


# teacher


def test_the_teacher_that_is_handed_out_is_what_its_file_says(tmp_path):
    job = a_job(tmp_path)
    of = Teacher(name="resnet 8-2", weights="int8", sparsity=0.5)
    model = teacher.trained(of, job.teachers(), SHORT, 0)
    file, smaller = teacher.handed_out(of, model, job.data(), 0)
    assert len(file) < len(teacher.handed_out(teacher.whole(of), model, job.data(), 0)[0]) / 2
    again = teacher.read(of, file, job.data(), 0)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in smaller.state_dict().items())
    weights = torch.cat([p.flatten() for p in again.parameters() if p.dim() > 1])
    assert (weights == 0).float().mean() > 0.49


def test_a_backbone_of_torchvision_may_teach_here_one_that_starts_at_random(tmp_path):
    job = dataclasses.replace(a_job(tmp_path, teaching=1.0), teacher=Teacher(name="torchvision:squeezenet1_1", side=32))
    model = teacher.trained(job.teacher, job.teachers(), dataclasses.replace(SHORT, epochs=0), 0)
    job.save(teacher.handed_out(job.teacher, model, job.data(), 0)[0])
    logits = scoring.predict(Job.load(tmp_path).taught_by(), job.teachers().train.take(slice(20)), job.data())
    torch.testing.assert_close(logits, scoring.predict(model, job.teachers().train.take(slice(20)), job.data()))
    with pytest.raises(ValueError, match="name='torchvision:resnet81': unknown; did you mean 'resnet18'"):
        Teacher(name="torchvision:resnet81")


# what a client trains


def test_targets_are_the_label_and_the_teachers_logits_of_that_very_image_asked_once(tmp_path):
    job = a_job(tmp_path)
    model, asked = teacher.new(job.teacher, job.data(), 0).eval(), []
    part = job.of_client(0)

    def teach():
        asked.append(1)
        return model

    kept = tmp_path / "logits.safetensors"
    taught, again = (jobs.with_logits(part, teach, kept) for _ in range(2))
    assert len(asked) == 1 and torch.equal(taught.train.labels, again.train.labels)
    assert torch.equal(taught.train.labels[:, 0].long(), part.train.labels)
    torch.testing.assert_close(taught.train.labels[:, 1:], scoring.predict(model, part.train, part))
    jobs.with_logits(job.of_client(1), teach, kept)
    assert len(asked) == 2  # another client's images


def test_the_loss_is_what_its_formula_says(tmp_path):
    job = a_job(tmp_path, teaching=0.7, temperature=2.0, strategy="fedprox", mu=0.3)
    model = job.model().eval()
    start = {n: t + 0.01 for n, t in messages.floats(model.state_dict()).items()}
    images, labels = job.data().normalize(job.data().train.images[:8]), job.data().train.labels[:8]
    soft = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    value, logits = jobs.Together(job.federation, start, 0.3)(model, images, torch.cat([labels[:, None], soft], 1))
    hard = -logits.log_softmax(1)[range(8), labels].mean()
    p, q = (soft / 2).softmax(1), (logits / 2).log_softmax(1)
    far = sum((0.01**2) * t.numel() for t in model.parameters())
    expected = hard + 0.7 * 4 * (p * (p.log() - q)).sum(1).mean() + 0.3 / 2 * far
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_one_client_uncoded_is_central_training_whose_optimizer_starts_anew_each_round(tmp_path):
    job = a_job(tmp_path, clients=1)
    client, weights = Client(job, 0, tmp_path), messages.floats(job.model().state_dict())
    central = job.model()
    for number in (1, 2, 3):
        weights = client.train(weights, number)
        counters = job.model().state_dict()  # of batch norm: they stay at home and start anew, too
        kept = messages.floats(central.state_dict())
        central.load_state_dict({**counters, **kept})
        loop.fit(central, job.together(), SHORT, seed=job.seed_of(0, number), keep="last")
    found = messages.floats(central.state_dict())
    assert all(torch.equal(weights[name], found[name]) for name in found)


def test_work_is_three_passes_an_image_and_epoch(tmp_path):
    job = a_job(tmp_path, teaching=0.0)
    images = len(job.parts()[1][0])
    once = jobs.cost.multiply_adds(job.model(), job.data().model_args)
    assert jobs.work(job, 0) == 3 * images * once and jobs.asked(job, 0) == 0
    taught = a_job(tmp_path, teaching=1.0)
    taught.save(teacher.handed_out(taught.teacher, teacher.new(taught.teacher, taught.data(), 0), taught.data(), 0)[0])
    assert jobs.asked(taught, 0) == images * jobs.cost.multiply_adds(taught.taught_by(), taught.data().model_args)


def test_scores_are_of_classes_alike(tmp_path):
    job = a_job(tmp_path)
    found = jobs.scored(job.model(), job.data())
    assert found["worst"] == min(found["by_class"]) and found["balanced"] == pytest.approx(np.mean(found["by_class"]))


# both sides


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_means_weighted_by_images_and_both_sides_hold_the_same_weights(tmp_path, form):
    job = a_job(tmp_path, form=form)
    server = by_hand(job, 2)
    for k in range(3):
        shared, rest = Client(job, k, tmp_path / "clients" / str(k))._kept(2)
        assert all(torch.equal(shared[name], server.shared[name]) for name in shared)
        assert (form == "float32") == all((t.abs() < 1e-6).all() for t in rest.values())
    assert len(list((tmp_path / "clients" / "0").glob("round-*"))) == 2


def test_a_client_that_missed_a_round_gets_all_weights_and_is_even_again(tmp_path):
    job = a_job(tmp_path, form="int8")
    server = by_hand(job, 2, faulty=lambda client, number: client == 1 and number == 1)
    assert server.has == {0: 2, 1: 2, 2: 2}
    offers = Server(job).offer([0, 1, 2])
    assert all(base == 2 for _, base in offers.values())
    server.has.pop(1)
    offers = server.offer([0, 1, 2])
    assert [base for _, base in offers.values()] == [2, WHOLE, 2] and len(offers[1][0]) > len(offers[0][0])
    with pytest.raises(MessageError, match="no such file") as refused:
        Client(job, 1, tmp_path / "elsewhere").answer(offers[0][0], 2, 3)
    assert refused.value.kind == "no base"


@pytest.mark.parametrize("form", ["float32", "int4"])
def test_who_is_stopped_goes_on_and_ends_as_if_it_had_not_been(tmp_path, form):
    whole = by_hand(a_job(tmp_path / "whole", form=form), 3)
    job = a_job(tmp_path / "parts", form=form)
    by_hand(job, 1)
    with pytest.raises(KeyboardInterrupt):
        by_hand(
            job, 1, faulty=lambda client, number: (_ for _ in ()).throw(KeyboardInterrupt) if client == 1 else False
        )
    assert Server(job).round == 1
    found = by_hand(job, 2)
    assert found.round == 3 and all(torch.equal(found.weights[n], whole.weights[n]) for n in whole.weights)


def test_part_of_the_clients_is_drawn_by_seed_and_round(tmp_path):
    job = dataclasses.replace(a_job(tmp_path, share=0.4), splits=Splits(clients=10, alpha=10.0))
    server, examples, drawn_ = Server(job), dict.fromkeys(range(10), 5) | {3: 0}, []
    for _ in range(30):
        drawn_.append(server.chosen(examples))
        server.finish(None, {}, [], drawn_[-1])
    assert all(len(each) == 4 and 3 not in each for each in drawn_) and len({tuple(d) for d in drawn_}) > 10
    assert {k for each in drawn_ for k in each} == set(range(10)) - {3}


def test_rounds_without_weights_keep_those_that_there_are(tmp_path):
    server = Server(a_job(tmp_path))
    before = server.weights
    server.finish(None, {"left_out": {"silent": 3}}, [], [0, 1, 2])
    again = Server(a_job(tmp_path))
    assert again.rows == [{"round": 1, "asked": 3, "used": 0, "left_out": {"silent": 3}}]
    assert all(torch.equal(again.weights[name], before[name]) for name in before)
    with pytest.raises(files.CheckpointError, match="of other settings"):
        Server(a_job(tmp_path, temperature=2.0))
    forget(tmp_path)
    assert not (tmp_path / "server.safetensors").exists()


def test_a_job_is_what_its_folder_says_and_wrong_ones_are_refused(tmp_path):
    job = a_job(tmp_path)
    job.save()
    assert Job.load(tmp_path) == job
    with pytest.raises(SettingError, match=r"teaching=1\.0: expected the file of a teacher"):
        a_job(tmp_path, teaching=1.0).save()
    with pytest.raises(SettingError, match="augmentation: expected none"):
        dataclasses.replace(job, recipe=Recipe(epochs=1)).save()
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(files.CheckpointError, match="expected "):
        Job.load(tmp_path)


def a_plan(**comparison) -> measure.Plan:
    of = {
        "repetitions": 2,
        "alphas": [0.0, 0.5],
        "coded_at": 0.5,
        "forms": ["int4 0.9"],
        "teachers": [{"sparsity": 0.8}],
    }
    job = a_job(None, rounds=1, teaching=1.0)
    compare = measure.Comparison(**of | comparison)
    of_clients = dataclasses.replace(job.splits, classes_each=4)
    return measure.Plan("digits", 0, of_clients, job.federation, job.student, SHORT, job.teacher, SHORT, compare)


def test_a_chapters_rows_are_of_all_ways_forms_and_teachers_and_are_made_once(tmp_path, monkeypatch):
    simulated = []

    def simulate(folders, home, processes):
        simulated.extend(folder for folder in folders if not (folder / "result.json").exists())
        for folder in folders:
            result = {"by_class": [k / 10 for k in range(10)], "down": 5, "up": 7, "left_out": {"damaged": 2}}
            files.write_json(folder / "result.json", result)

    monkeypatch.setattr(run, "simulate", simulate)
    rows = measure.compared(a_plan(), tmp_path)
    assert len(rows) == len(rows.drop_duplicates(["seed", "alpha", "way", "form", "teacher"])) == 2 * (2 * 8 + 2 + 2)
    assert len(simulated) == 2 * (2 * 4 + 2) and set(rows["seed"]) == {0, 1}
    fed = rows[rows["way"].str.startswith("fed")]
    assert (fed["worst"] == 0).all() and (fed["balanced"] == 0.45).all() and (fed["left_out"] == 2).all()
    held = splits.counts(a_job(tmp_path).data().train.labels, a_job(tmp_path).parts()[1], 10)
    few = fed[(fed["seed"] == 0) & (fed["alpha"] == 0.5)].iloc[0]
    assert few["rare"] == pytest.approx(sum(rare(held)) / 30)
    assert few["common"] == pytest.approx((45 - sum(rare(held))) / 70)
    taught = rows["way"].str.contains("taught")
    assert (rows[taught]["teacher_bytes"] > 0).all() and (
        rows[~taught & (rows["way"] != "teacher")]["teacher_bytes"] == 0
    ).all()
    file = rows[rows["way"] == "teacher"].set_index(["seed", "teacher"])["teacher_bytes"]
    assert file[0, "pruned 0.8"] < file[0, "as trained"]
    again = measure.compared(a_plan(), tmp_path)
    assert again.equals(rows) and len(simulated) == 20


def test_comparisons_that_cannot_be_are_refused():
    for wrong, said in (
        ({"coded_at": 0.1}, r"coded_at=0\.1: expected one of"),
        ({"forms": ["int3"]}, "form='int3': expected one of"),
        ({"forms": ["int8 half"]}, "forms: 'int8 half': expected a form"),
        ({"teachers": [{"bits": 4}]}, r"teachers\.bits: unknown"),
        ({"alphas": [0.5, 0.5]}, "expected different ones"),
    ):
        with pytest.raises(ValueError, match=said):
            a_plan(**wrong)


def test_without_flower_the_error_names_the_extra_and_results_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[federated\]'"):
        run.simulate([tmp_path], tmp_path)
    files.write_json(tmp_path / "result.json", {"accuracy": 0.5})
    assert run.simulate([tmp_path], tmp_path) == [{"accuracy": 0.5}]


def test_without_flower_the_command_ends_with_a_status_and_says_how_to_install_it(tmp_path):
    hidden = "import importlib.util as of\nf = of.find_spec\n"
    hidden += "of.find_spec = lambda name: None if name in ('flwr', 'ray') else f(name)"
    code = f"{hidden}\nfrom studylib.federated import run\nrun.main([{str(tmp_path)!r}])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("federated: ModuleNotFoundError: flwr and ray: not")
    assert "pip install -e '.[federated]'" in done.stderr and "Traceback" not in done.stderr
