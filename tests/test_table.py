import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.disk import files
from studylib.experiments.sweep import per_image
from studylib.tree import table as nodes_table
from studylib.tree.names import nodes, parent_of

NODES = ["teacher", "teacher-kd", "teacher-int8", "teacher-kd-int8"]
BYTES = dict(zip(NODES, (1000, 400, 250, 100), strict=True))


def metrics(node, seed):
    numbers = {
        column: 1.0
        for column in nodes_table.COLUMNS
        if column not in ("node", "agreement", "latency_ms", "bytes_nncodec")
    }
    accuracy = 0.9 + 0.01 * seed - 0.02 * NODES.index(node) * (1 + seed)
    digest = hashlib.sha256(coded(node, seed)).hexdigest()
    numbers |= {"seed": seed, "test_accuracy": accuracy, "bytes_file": BYTES[node] + seed, "file_sha256": digest}
    return numbers | {"history": []}


def coded(node, seed) -> bytes:
    return bytes(BYTES[node] + seed)


def logits(node, seed) -> torch.Tensor:
    """Of ten images, each node predicts as many unlike the teacher as its place says."""
    classes = torch.zeros(10, dtype=torch.int64)
    classes[: NODES.index(node)] = 1 + seed
    return torch.nn.functional.one_hot(classes, 5).float()


@pytest.fixture
def run(tmp_path):
    for seed in (0, 1, 2):
        for node in NODES:
            folder = tmp_path / f"seed{seed}" / node
            files.write_json(folder / "metrics.json", metrics(node, seed))
            (folder / "model.slnc").write_bytes(coded(node, seed))
            files.write_tensors(
                folder / "test_logits.safetensors", {"logits": logits(node, seed), "labels": torch.arange(10) % 3}
            )
    files.write_json(tmp_path / "latency.json", {"latency_ms": {"teacher": 3.0, "teacher-kd": 1.5}})
    return tmp_path


@pytest.fixture
def table(run):
    return nodes_table.read(run, NODES, [0, 1, 2])


@given(count=st.integers(0, 6))
def test_stages_combine_to_every_node_once_parents_first(count):
    stages = ["kd", "imp", "svd", "int8", "more", "last"][:count]
    names = nodes(stages)
    assert len(names) == len(set(names)) == 2**count and names[0] == "teacher"
    for i, name in enumerate(names[1:], 1):
        assert parent_of(name) in names[:i]
        techniques = name.split("-")[1:]
        assert techniques == [stage for stage in stages if stage in techniques]


def test_columns_are_those_of_the_tables_that_are_published():
    published = (Path(__file__).parent.parent / "figures/digits/nodes.csv").read_text().partition("\n")[0].split(",")
    assert published == nodes_table.COLUMNS


def test_nodes_stand_in_a_fixed_order():
    assert nodes(["kd", "int8"]) == ["teacher", "teacher-kd", "teacher-int8", "teacher-kd-int8"]
    assert nodes(["int8", "kd"])[-1] == "teacher-int8-kd"


def test_the_parent_lacks_the_last_technique():
    assert parent_of("teacher-kd-int8") == "teacher-kd"
    assert parent_of("teacher-kd") == "teacher"
    assert parent_of("teacher") is None


def test_the_table_has_a_row_a_seed_and_node(table):
    assert list(table.columns) == nodes_table.COLUMNS
    assert list(zip(table["seed"], table["node"], strict=True)) == [(s, n) for s in (0, 1, 2) for n in NODES]
    for _, row in table.iterrows():
        assert row["test_accuracy"] == metrics(row["node"], row["seed"])["test_accuracy"]
        assert row["bytes_file"] == BYTES[row["node"]] + row["seed"]
    assert nodes_table.order(table) == NODES


def test_agreement_is_the_share_of_images_answered_as_the_teacher_does(table):
    for _, row in table.iterrows():
        assert row["agreement"] == pytest.approx(1 - NODES.index(row["node"]) / 10)


def test_latency_is_that_of_the_run_where_it_has_one(run, table):
    assert table[table["node"] == "teacher-kd"]["latency_ms"].tolist() == [1.5] * 3
    assert table[table["node"] == "teacher-int8"]["latency_ms"].isna().all()
    (run / "latency.json").unlink()
    assert nodes_table.read(run, NODES, [0])["latency_ms"].isna().all()


def test_the_reference_coders_bytes_are_those_of_the_run_where_it_has_them(run, table):
    assert table["bytes_nncodec"].isna().all()
    files.write_json(run / "nncodec.json", {"bytes_nncodec": {"seed1": {"teacher-int8": 321}}})
    found = nodes_table.read(run, NODES, [0, 1]).set_index(["seed", "node"])["bytes_nncodec"]
    assert found[1, "teacher-int8"] == 321 and found.isna().sum() == 7


@pytest.mark.parametrize("node", NODES[1:])
def test_a_node_that_was_not_run_is_named(run, node):
    (run / "seed1" / node / "metrics.json").unlink()
    with pytest.raises(files.CheckpointError, match=f"seed1/{node}/metrics.json"):
        nodes_table.read(run, NODES, [0, 1])


def test_a_file_that_is_not_the_one_measured_is_named(run):
    file = run / "seed1" / "teacher-kd" / "model.slnc"
    file.write_bytes(bytes(400) + b"1")  # as long as before
    with pytest.raises(files.CheckpointError, match=r"seed1/teacher-kd/model.slnc: not the file that was measured"):
        nodes_table.read(run, NODES, [0, 1])
    file.unlink()
    with pytest.raises((OSError, files.CheckpointError), match=r"seed1/teacher-kd/model.slnc"):
        nodes_table.read(run, NODES, [0, 1])


def test_a_size_that_could_not_be_had_is_not_a_number(run):
    for seed in (0, 1, 2):
        folder = run / f"seed{seed}" / "teacher-kd"
        files.write_json(folder / "metrics.json", metrics("teacher-kd", seed) | {"bytes_file_float16": None})
    found = nodes_table.summary(nodes_table.read(run, NODES, [0, 1, 2])).set_index("node")["bytes_file_float16"]
    assert found.isna().tolist() == [False, True, False, False]


def test_a_run_without_a_teacher_is_named(run):
    with pytest.raises(files.CheckpointError, match="seed7/teacher/"):
        nodes_table.read(run, NODES, [7])


def test_summary_is_mean_and_deviation_over_the_seeds(table):
    found = nodes_table.summary(table)
    assert found["node"].tolist() == NODES and found["seeds"].tolist() == [3] * 4
    for _, row in found.iterrows():
        of_node = table[table["node"] == row["node"]]
        for column in ("test_accuracy", "bytes_file", "agreement"):
            values = of_node[column].to_numpy(float)
            assert row[column] == pytest.approx(np.mean(values))
            assert row[f"{column}_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        saved = [1 - (BYTES[row["node"]] + s) / (BYTES["teacher"] + s) for s in (0, 1, 2)]
        assert row["saved"] == pytest.approx(np.mean(saved))
        assert row["saved_sd"] == pytest.approx(np.std(saved, ddof=1), abs=1e-12)
    assert "seed" not in found.columns


def test_one_seed_has_no_deviation(run):
    found = nodes_table.summary(nodes_table.read(run, NODES, [1]))
    assert found["test_accuracy_sd"].isna().all() and found["seeds"].tolist() == [1] * 4


def test_rows_in_any_order_are_summed_up_alike(table):
    mixed = nodes_table.summary(table.sample(frac=1, random_state=0)).set_index("node")
    pd.testing.assert_frame_equal(mixed.loc[NODES].reset_index(), nodes_table.summary(table))


def test_two_sweeps_stand_side_by_side(table):
    a = table[table["node"].isin(NODES[:3])]
    b = table[table["node"].isin(["teacher", "teacher-kd", "teacher-kd-int8"])].copy()
    b["test_accuracy"] += 0.01 * b["seed"]
    b["bytes_file"] *= 2
    found = nodes_table.compare(a, b)
    assert found["node"].tolist() == ["teacher", "teacher-kd", "teacher-int8", "teacher-kd-int8"]
    rows = found.set_index("node")
    assert rows.loc["teacher", "difference"] == pytest.approx(0.01)
    assert rows.loc["teacher", "difference_sd"] == pytest.approx(0.01)
    assert rows.loc["teacher-kd", "bytes_ratio"] == pytest.approx(2)
    assert rows.loc["teacher-kd", "test_accuracy_a"] == pytest.approx(
        a[a["node"] == "teacher-kd"]["test_accuracy"].mean()
    )
    assert rows.loc["teacher-int8", ["test_accuracy_b", "bytes_file_b", "difference"]].isna().all()
    assert rows.loc["teacher-kd-int8", ["test_accuracy_a", "bytes_file_a", "difference_sd"]].isna().all()
    assert rows.loc["teacher-kd-int8", "test_accuracy_b"] > 0


def test_sweeps_that_share_fewer_than_two_seeds_have_no_deviation(table):
    found = nodes_table.compare(table[table["seed"] <= 1], table[table["seed"] >= 1])
    assert found["difference_sd"].isna().all() and found["difference"].notna().all()


def test_a_sweep_survives_its_csv(table, tmp_path):
    table.to_csv(tmp_path / "sweep.csv", index=False)
    again = pd.read_csv(tmp_path / "sweep.csv")
    pd.testing.assert_frame_equal(nodes_table.summary(again), nodes_table.summary(table))


@pytest.mark.parametrize(
    ("file", "content"),
    [("metrics.json", "{"), ("metrics.json", "{}"), ("test_logits.safetensors", "x"), ("test_logits.safetensors", "")],
)
def test_a_damaged_node_is_named(tmp_path, file, content):
    folder = tmp_path / "seed0" / "teacher"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    stored = {"logits": np.eye(3, dtype=np.float32), "labels": np.arange(3)}
    safetensors.numpy.save_file(stored, folder / "test_logits.safetensors")
    (folder / file).write_text(content)
    with pytest.raises(files.CheckpointError, match=re.escape(str(folder / file))):
        nodes_table.read(tmp_path, ["teacher"], [0])


def test_each_image_is_scored_from_the_stored_logits(run):
    found = per_image(run, NODES, [0, 2])
    assert set(found) == {"test_accuracy", "test_nll"} and list(found["test_nll"]) == NODES
    for node in NODES:
        for i, seed in enumerate((0, 2)):
            z, y = logits(node, seed).double(), torch.arange(10) % 3
            losses = torch.nn.functional.cross_entropy(z, y, reduction="none")
            assert found["test_nll"][node][i] == pytest.approx(losses.numpy())
            assert found["test_accuracy"][node][i].tolist() == (z.argmax(1) == y).double().tolist()
    with pytest.raises(files.CheckpointError, match="seed9"):
        per_image(run, NODES, [9])
