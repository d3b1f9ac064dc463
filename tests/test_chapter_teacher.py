"""Chapter 1: what its rows hold, and what its figures show of them."""

import pandas as pd
import pytest
import torch

from studylib import settings
from studylib.coding import codec
from studylib.data import scoring
from studylib.experiments import teacher as measures
from studylib.networks import cost, layers, spec
from studylib.networks.gates import TOLERANCE
from studylib.plots import teacher as plots
from studylib.techniques import teacher
from studylib.training import recipe
from studylib.tree.published import frame, plain

pytestmark = pytest.mark.usefixtures("drawn")
QUICK = recipe.Recipe(epochs=2, lr=5e-3, batch_size=50, augmentation="none")
LOGITS = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [1.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])


def taught(data, folder, **how):
    return teacher.apply(data, depth=7, growth=4, recipe=QUICK, seed=3, every_epoch=folder, **how)


def peeks(model, data, tmp_path, seeds=1):
    where = tmp_path / "kept", tmp_path / "left"
    return measures.peeks(model, data, measures.Choosing(seeds), QUICK, 3, *where)


def test_numbers_are_those_of_the_network(tiny):
    model = spec.create("densenet", 0, depth=7, growth=4, **tiny.model_args)
    found = measures.numbers(model, tiny)
    assert found == {"trained": sum(p.numel() for p in model.parameters()), "layers": 7, "classes": 10}


def test_classes_and_confidence_by_hand():
    rows = measures.classes_and_calibration(LOGITS, LABELS, ["cat", "dog"])
    assert list(rows["part"]) == ["classes"] * 2 + ["reliability"] * 2
    by_class = measures.classes_by_accuracy(rows)
    assert dict(by_class) == {"cat": 1.0, "dog": 0.5} and list(by_class.index) == ["dog", "cat"]
    bins = rows[rows["part"] == "reliability"]
    assert list(bins["images"]) == [1, 3] and list(bins["accuracy"]) == pytest.approx([1, 2 / 3])
    confidence = LOGITS.softmax(1).max(1).values.mean().item()
    assert measures.mean_confidence(rows) == pytest.approx(confidence)
    kept = frame(plain(rows.to_dict("records")))  # as a chapter keeps and publishes them
    assert measures.mean_confidence(kept) == pytest.approx(confidence)
    assert dict(measures.classes_by_accuracy(kept)) == dict(by_class)


def test_claims_are_of_all_test_images():
    found = measures.claims_of({"bytes_dense": 400}, LOGITS, LABELS)
    assert set(found) == {"teacher_accuracy", "teacher_bytes"} and found["teacher_bytes"].value == 400
    accuracy = found["teacher_accuracy"]
    assert accuracy.value == 75 and accuracy.low < 75 < accuracy.high


@pytest.mark.parametrize("epochs, last", [(1, 1), (4, 2), (12, 3)])
def test_the_last_quarter_is_of_two_epochs_at_least_where_there_are_two(epochs, last):
    history = pd.DataFrame({"val_accuracy": [0.1 * e for e in range(epochs)]})
    assert list(measures.last_quarter(history)) == list(history["val_accuracy"][epochs - last :])


def test_the_first_is_the_teachers_own_training_and_the_others_are_trained_once(tiny, tmp_path, trainings):
    model = taught(tiny, tmp_path / "left")
    calls = trainings()
    rows = peeks(model, tiny, tmp_path, seeds=2)
    assert [call["seed"] for call in calls] == [4]
    assert list(rows["seed"]) == [3, 3, 4, 4] and list(rows["epoch"]) == [1, 2, 1, 2]
    assert [row["weights"] for row in model.history] == list(rows["weights"][:2])
    assert {"val_accuracy", "train_accuracy", "best", "test_accuracy"} <= set(rows)
    for _, each in rows.groupby("seed"):
        peak, honest = each["test_accuracy"].max(), each[each["best"]]["test_accuracy"].iloc[-1]
        assert set(each["peak"]) == {peak} and set(each["honest"]) == {honest}
        assert set(each["flatters"]) == {100 * (peak - honest)} and peak >= honest
    assert list(measures.flattery(rows).index) == [3, 4]
    own = scoring.accuracy(model, tiny.test, tiny)
    assert rows["honest"][0] == own
    again = peeks(model, tiny, tmp_path, seeds=3)
    assert [call["seed"] for call in calls] == [4, 5] and again[again["seed"] < 5].equals(rows)
    assert not list((tmp_path / "kept").glob("*.safetensors"))


def test_the_own_training_and_one_made_again_give_the_same_rows(tiny, tmp_path):
    model = taught(tiny, tmp_path / "left")
    own = peeks(model, tiny, tmp_path)
    again = layers.duplicate(model)
    again.spec, again.history = model.spec, [{k: v for k, v in r.items() if k != "weights"} for r in model.history]
    new = pd.DataFrame(
        row for _, make in measures.trainings(again, tiny, QUICK, [3], tmp_path, tmp_path) for row in make()
    )
    columns = [name for name in new if name != "seconds"]
    assert own[columns].equals(new[columns])


def test_beside_a_penalty_no_training_is_the_teachers_own(tiny, tmp_path, trainings):
    step = measures.Penalty("l1").step(QUICK)
    model = taught(tiny, tmp_path / "left", step=step)
    calls = trainings()
    rows = peeks(model, tiny, tmp_path)
    assert [call["seed"] for call in calls] == [3] and "value_l1" not in rows


@pytest.mark.parametrize("given, message", [({"seeds": 0}, "at least 1"), ({"seeds": 1001}, "at most 1000")])
def test_trainings_out_of_bounds_are_refused(given, message):
    with pytest.raises(settings.SettingError, match=f"^choosing.seeds={given['seeds']}: expected {message}"):
        settings.read(measures.Choosing, given, "choosing")


def test_curves_show_the_history_and_the_kept_epoch(texts):
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    history = pd.DataFrame([{"epoch": e, "best": e < 3} | dict.fromkeys(columns, 0.1 * e) for e in (1, 2, 3, 4)])
    history.loc[2, "best"] = False
    figure = plots.draw_curves(history, "a title")
    shown = texts(figure)
    for part in ("a title", "loss (nats)", "accuracy (%)", "training views", "validation", "kept epoch"):
        assert part in shown
    loss, accuracy = figure.axes
    assert list(loss.lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert list(accuracy.lines[1].get_ydata()) == pytest.approx([10, 20, 30, 40])
    assert set(loss.lines[2].get_xdata()) == {2}  # the last epoch that was better than all before


def test_classes_and_reliability_show_their_rows():
    classes = pd.DataFrame({"class": ["cat", "dog"], "accuracy": [0.75, 0.9], "part": "classes"})
    bins = {"confidence": [0.5, 0.9], "accuracy": [0.6, 0.8], "images": [10, 30], "part": "reliability"}
    rows = pd.concat([classes, pd.DataFrame(bins)])
    left, right = plots.draw_classes_and_reliability(rows).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([75, 90])
    assert [label.get_text() for label in left.get_yticklabels()] == ["cat", "dog"]
    assert right.collections[0].get_offsets().tolist() == [[50, 60], [90, 80]]
    assert measures.mean_confidence(rows) == pytest.approx(0.8)


def test_each_training_has_a_dot_and_a_cross():
    accuracy = {0: [0.2, 0.8, 0.7, 0.75], 1: [0.1, 0.6, 0.9, 0.9]}
    best = {0: [True, False, True, False], 1: [True, True, True, False]}
    rows = [
        {"seed": s, "epoch": e + 1, "test_accuracy": accuracy[s][e], "best": best[s][e]}
        for s in (0, 1)
        for e in range(4)
    ]
    (axis,) = plots.draw_choosing(pd.DataFrame(rows)).axes
    marks = {
        mark: [
            tuple(map(float, (*line.get_xdata(), *line.get_ydata())))
            for line in axis.lines
            if line.get_marker() == mark and len(line.get_xdata())
        ]
        for mark in "ox"
    }
    assert marks == {"o": [(3, 70), (3, 90)], "x": [(2, 80), (3, 90)]}
    assert axis.get_ylim() == (59, 91)  # from the second epoch on


# --- a controller that prunes it ----------------------------------------------------------------------------------

PRUNED = measures.Guiding(budget=0.5, every=1)
NAMED = teacher.Network(name="resnet 8-8")
TWO = recipe.Recipe(epochs=2, lr=0.01, batch_size=50)


def test_a_controller_prunes_the_teacher_while_it_trains(tiny):
    device = torch.device("cpu")
    found = measures.made(tiny, NAMED, TWO, measures.Penalty(), PRUNED, seed=0, device=device)
    whole = measures.made(tiny, NAMED, TWO, measures.Penalty(), measures.Guiding(), seed=0, device=device)
    counts = [cost.multiply_adds(model, tiny.model_args) for model in (found, whole)]
    assert counts[0] / counts[1] == pytest.approx(PRUNED.budget, abs=TOLERANCE)
    assert [model.spec["changes"][-1]["technique"] for model in (found, whole)] == ["controller", "teacher"]
    decoded = codec.decode(codec.encode(found))
    assert cost.multiply_adds(decoded, tiny.model_args) == counts[0]


@pytest.mark.parametrize(
    ("network", "how", "penalty", "message"),
    [
        (NAMED, TWO, measures.Penalty(name="l1"), "beside penalty.name='l1'"),
        (NAMED, recipe.Recipe(label_smoothing=0.1), measures.Penalty(), "beside recipe.label_smoothing"),
        (teacher.Network(name="figures/models/x.slnc"), TWO, measures.Penalty(), "a published file"),
    ],
)
def test_what_a_controller_cannot_guide_is_refused(network, how, penalty, message):
    with pytest.raises(ValueError, match=f"budget=0.5: expected 0 .*{message}"):
        PRUNED.fits(network, how, penalty)
    measures.Guiding().fits(network, how, penalty)
