"""Bytes and speed of the coded file, over the nodes of the digits run and a DenseNet-40 with 5 % of its weights.

Standard networks stand beside them: trained for an epoch on MNIST, nine tenths of the weights pruned, in int8.

codec_over_entropy: the file over its entropy bound + 600 bytes, worst of the int8 networks of at least 20 kB.
codec_over_entropy_few_bits: the same of the weights of DenseNet-40 and the teacher at 2, 3 and 4 bits, of any size.
codec_over_zstd: the file over the same tensors in safetensors through Zstandard at level 19, worst of all networks.
codec_over_nncodec: the file over the reference coder of ISO/IEC 15938-17 (where it is installed), worst of int8.
codec_encode, codec_decode: seconds on one core, DenseNet-40, beside Zstandard's for the safetensors file.
"""

import json

import nncodec
import safetensors.torch
import torch
import zstandard
from harness import pair, seconds
from torch import nn

from studylib.coding import codec, shipped, size
from studylib.data import datasets
from studylib.disk import files, models
from studylib.networks import layers, spec
from studylib.techniques import int8, prune
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree import names

HEADER = 600  # bytes that the bound allows for the spec and the counts
LEAST = 20_000  # bytes: of smaller files the spec is too much
DENSITIES = (0.3, 0.05)
STANDARD = ("resnet 20-16", "mobilenetv2 0.5", "vgg16 16", "gated 48")


def run() -> dict:
    threads = torch.get_num_threads()
    images, pruned = datasets.load("digits", 0), densenet40()
    networks = {"densenet40-5%": int8.apply(pruned, images)} | nodes() | standard()
    floats = {"densenet40-5%": pruned} | {name: m for name, m in networks.items() if name == names.TEACHER}
    few = {f"{n}, {b} bits": int8.apply(m, images, bits=b) for n, m in floats.items() for b in (2, 3, 4)}
    rows = sizes(networks | few)
    torch.set_num_threads(1)
    try:
        return rows | speeds(networks["densenet40-5%"])
    finally:
        torch.set_num_threads(threads)


def nodes() -> dict[str, nn.Module]:
    """Every node of the first seed of the digits run; none where it was not run."""
    folders = sorted((files.root() / "runs" / "digits" / "seed0").glob(f"{names.TEACHER}*"))
    if not folders:
        print("runs/digits is missing (make study): only DenseNet-40 is coded")
    return {folder.name: models.load_model(folder) for folder in folders}


def densenet40() -> nn.Module:
    """DenseNet-40 on the digits, trained and pruned to a twentieth in two steps."""
    images = datasets.load("digits", 0)
    model = spec.create("densenet", 0, **images.model_args, depth=40)
    recipe = Recipe(epochs=4, batch_size=32)
    loop.fit(model, images, recipe, seed=0)
    for density in DENSITIES:
        masks = layers.masks_of(model)
        alive = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
        masks = prune.shrink_masks(layers.prunable(model), masks, 1 - density / alive)
        loop.fit(model, images, recipe, seed=1, masks=masks)
    return model.eval()


def standard() -> dict[str, nn.Module]:
    """Each of :data:`STANDARD`, pruned to a tenth in one step and in int8, and, in float, as it was trained."""
    images, found = datasets.load("mnist_5k", 0), {}
    recipe = Recipe(epochs=1, batch_size=64, augmentation="none")
    for words in STANDARD:
        kind, args = spec.described(words, {"name": "", "args": {}}, images.model_args)
        model = spec.create(kind, 0, data=images, **args)
        loop.fit(model, images, recipe, seed=0)
        found[f"{words}, float"] = spec.with_change(model.eval(), "teacher", {"epochs": 1})
        (few,) = prune.trajectory(model, images, [0.9], method="one_shot", recipe=recipe, seed=0)
        found[f"{words}, 10 %, int8"] = int8.apply(few, images)
    return found


def sizes(networks: dict[str, nn.Module]) -> dict:
    found, of_int8 = {}, {n: m for n, m in networks.items() if m.spec["changes"][-1]["technique"] == "int8"}
    for name, model in networks.items():
        counted, file = size.accountings(model), len(codec.encode(model))
        found.setdefault("codec_over_zstd", []).append((file, counted["bytes_zstd"], name))
        if name.endswith(" bits") or (name in of_int8 and file >= LEAST):
            which = "codec_over_entropy" + ("_few_bits" if name.endswith(" bits") else "")
            found.setdefault(which, []).append((file, counted["bytes_entropy"] + HEADER, name))
    if nncodec.available():
        theirs = nncodec.coded_bytes(of_int8)
        found["codec_over_nncodec"] = [(len(codec.encode(m)), theirs[n], n) for n, m in of_int8.items()]
    else:
        print("codec_over_nncodec is left out: make nncodec installs it")
    rows = {}
    for name, all_of_it in found.items():
        for ours, other, node in all_of_it:
            print(f"  {name}  {node}: {ours:,} over {other:,} bytes, {ours / other:.4f}")
        ours, other, _ = max(all_of_it, key=lambda row: row[0] / row[1])
        rows[name] = {"ours": ours, "other": other, "ratio": ours / other, "unit": "bytes", "n": len(all_of_it)}
    return rows


def speeds(model: nn.Module) -> dict:
    form = shipped.apply(model)
    plain = safetensors.torch.save(form.state_dict(), {"spec": json.dumps(form.spec)})
    ours, other = codec.encode(model), zstandard.ZstdCompressor(level=19).compress(plain)

    def load():
        safetensors.torch.load(zstandard.ZstdDecompressor().decompress(other))

    def compress():
        zstandard.ZstdCompressor(level=19).compress(plain)

    def both(one, two):
        return pair(lambda: seconds(one), lambda: seconds(two), n=7, unit="s")

    return {
        "codec_encode": both(lambda: codec.encode(model), compress),
        "codec_decode": both(lambda: codec.decode(ours), load),
    }
