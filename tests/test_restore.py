import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from studylib.coding import codec, restore, shipped
from studylib.data import datasets, scoring
from studylib.disk import files
from studylib.networks import blocks, int8_layers, layers
from studylib.techniques import int8, prune, teacher
from studylib.training.recipe import Recipe
from tests.test_shipped import NETWORKS, network, outputs
from tests.test_shipped import prune as without_rows

PUBLISHED = Path(__file__).parents[1] / "figures" / "models" / "digits-densenet16-z89.3-8bit.slnc"


BAD_LISTS = [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"3", b'{"small.slnc": 3}', b'{"small.slnc": {"sha256": 3}}']
BAD_LISTS += [b'{"small.slnc": {"test_accuracy": NaN}}', b'{"small.slnc": {"bytes": -4}}']
BAD_LISTS += [b'{"small.slnc": {"seed": true}}', b'{"small.slnc": {}}', b'{"other.slnc": {"bytes": "many"}}']


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits", 0)


def listed(folder, model, name="small.slnc", **about):
    """``model`` as a published file in ``folder``."""
    file = codec.encode(model)
    about = {"dataset": "digits", "seed": 0, "sha256": hashlib.sha256(file).hexdigest(), **about}
    (folder / name).write_bytes(file)
    (folder / restore.LIST).write_text(json.dumps({name: about}))
    return folder / name


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sliced_network_computes_what_its_file_does_at_full_width(name, tmp_path, images):
    model = without_rows(network(name, seed=3), 0.4, seed=3)
    sliced = shipped.apply(model)
    assert any(change.get("structure", {}).get("widths") for change in sliced.spec["changes"])
    path = listed(tmp_path, sliced)
    restored = restore.apply(path, images)
    assert {n: p.shape for n, p in restored.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    seen = images.normalize(images.validation.images)
    assert torch.allclose(outputs(restored, seen), outputs(sliced, seen), rtol=1e-3, atol=1e-3)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.weight_layers(restored).values())
    assert zeros >= sum(int((layer.weight == 0).sum()) for layer in layers.weight_layers(model).values())
    for unit in restored.modules():  # the scale that training sees is that of a new network
        if isinstance(unit, blocks.ConvUnit):
            norms = unit.conv.weight.flatten(1).norm(dim=1)
            assert torch.allclose(norms[norms > 0], torch.tensor(restore.NORM))


def test_in_training_the_batch_norms_start_from_what_they_were(images):
    restored = restore.apply(PUBLISHED, images)
    before = outputs(restored, images.normalize(images.train.images))
    after = restored.train()(images.normalize(images.train.images)).detach()
    assert (before - after).square().mean() < 1e-3 * before.square().mean()


def test_an_int8_file_is_the_network_whose_weights_its_integers_stand_for(images):
    coded, restored = codec.decode(PUBLISHED.read_bytes()), restore.apply(PUBLISHED, images)
    spec = restored.spec
    digest = hashlib.sha256(PUBLISHED.read_bytes()).hexdigest()[:12]
    assert spec["changes"] == [{"technique": "restored", "file": digest}]
    assert not [m for m in restored.modules() if isinstance(m, int8_layers.Int8Layer)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in restored.modules()) > 1
    both = [scoring.predict(model, images.validation, images) for model in (coded, restored)]
    assert (both[0].argmax(1) == both[1].argmax(1)).float().mean() >= 0.98
    again = int8.apply(restored, images, calibration_images=512)
    assert codec.decode(codec.encode(again)).spec["changes"][0]["technique"] == "restored"


def test_a_filter_that_says_nothing_of_these_images_is_whole_for_others(tmp_path, images):
    model = network("convnet", seed=5)
    for layer in (model.features[0].conv, model.features[2].conv):
        layer.weight.data[0, 0] = 0
    model.features[0].conv.weight.data[0, 0, 0, 0] = 0.5  # reads the corner left above a pixel
    seen = dataclasses.replace(images, train=images.train.take(range(64)))
    seen.train.images[:] = 7
    restored = restore.apply(listed(tmp_path, model), seen)
    others = images.normalize(images.validation.images)
    assert torch.allclose(outputs(restored, others), outputs(model, others), rtol=1e-3, atol=1e-3)


def test_it_trains_on_and_what_was_zero_stays_so(images):
    trained = teacher.apply(
        images, depth=10, name=str(PUBLISHED), recipe=Recipe(epochs=1, lr=1e-3, batch_size=64), seed=0
    )
    first = layers.masks_of(restore.apply(PUBLISHED, images))
    assert [change["technique"] for change in trained.spec["changes"]] == ["restored", "teacher"]
    masks = layers.masks_of(trained)
    assert all(torch.equal(mask, first[name]) for name, mask in masks.items())
    assert 0.8 < 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values()) < 0.95
    recipe = Recipe(epochs=1, lr=0.01, batch_size=64, optimizer="sgd")
    (pruned,) = prune.trajectory(trained, images, [0.5], method="learning_rate", recipe=recipe, seed=0)
    before, after = layers.prunable(trained), layers.prunable(pruned)
    assert not any(weight[~masks[name]].any() for name, weight in after.items())
    assert any(not torch.equal(weight, before[name]) for name, weight in after.items())
    assert pruned.history[0]["val_accuracy"] > 0.9


def test_what_is_no_published_file_of_these_images_is_refused(tmp_path, images):
    model = network("convnet")
    with pytest.raises(ValueError, match=r"absent.slnc': expected a published file"):
        restore.apply(tmp_path / "absent.slnc", images)
    with pytest.raises(ValueError, match="of digits, seed 1: expected digits, seed 0"):
        restore.apply(listed(tmp_path, model, seed=1), images)
    with pytest.raises(ValueError, match="of cifar10, seed 0: expected digits, seed 0"):
        restore.apply(listed(tmp_path, model, dataset="cifar10"), images)
    path = listed(tmp_path, model)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not the file that was published"):
        restore.apply(path, images)
    path = listed(tmp_path, model)
    about = json.loads((tmp_path / "models.json").read_text())
    del about[path.name]["seed"]
    (tmp_path / "models.json").write_text(json.dumps(about))
    with pytest.raises(files.CheckpointError, match=r"models.json: .* without seed: expected all of dataset, seed"):
        restore.apply(path, images)
    path = listed(tmp_path, model)
    path.rename(tmp_path / "other.slnc")
    with pytest.raises(ValueError, match=r"other.slnc': expected a published file, one that .*models.json lists"):
        restore.apply(tmp_path / "other.slnc", images)


@pytest.mark.parametrize("content", BAD_LISTS)
def test_a_damaged_list_is_named(tmp_path, images, content):
    path = listed(tmp_path, network("convnet"))
    (tmp_path / restore.LIST).write_bytes(content)
    with pytest.raises(files.CheckpointError, match=f"{tmp_path / restore.LIST}: "):
        restore.apply(path, images)


def test_a_factorized_network_is_refused(tmp_path, images):
    from studylib.techniques import svd

    factorized = svd.apply(network("convnet"), delta=1)
    with pytest.raises(blocks.SpecError, match=r"first.*expected a network not factorized"):
        restore.apply(listed(tmp_path, factorized), images)


def test_a_file_of_other_images_of_the_same_name_is_refused(tmp_path, images):
    model = shipped.apply(network("convnet", seed=3))
    restore.published(listed(tmp_path, model, data_sha256=images.digest), images)
    labels = images.validation.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    other = dataclasses.replace(images, validation=datasets.Split(images.validation.images, labels))
    with pytest.raises(ValueError, match=r"small\.slnc: of other images"):
        restore.published(listed(tmp_path, model, data_sha256=images.digest), other)
    restore.published(listed(tmp_path, model), other)  # of an earlier version, which does not say
