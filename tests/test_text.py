"""Text as blocks of characters: where it comes from, how it is cut, what is drawn of it and what is to beat."""

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from studylib.data import sources, text
from studylib.experiments import gpt_rivals
from studylib.networks import spec
from studylib.settings import SettingError, read


@pytest.fixture(scope="module")
def pages():
    return text.load(text.Corpus(characters=40_000, context=32))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is STUDY_DATA; nothing can be downloaded."""
    monkeypatch.setenv("STUDY_DATA", str(tmp_path))

    def refuse(url, *args, **kwargs):
        raise OSError(f"no way to {url}")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path


def words(split, data) -> list[str]:
    return ["".join(data.classes[i] for i in block) for block in split.images.tolist()]


def test_blocks_follow_one_another_through_three_parts_of_the_text(pages):
    whole = text.SOURCES["pydoc"]()[:40_000]
    assert pages.sizes == {"train": 1124, "validation": 62, "test": 62}  # 35,999 and 1,999 over 32
    for split, start in ((pages.train, 0), (pages.validation, 36_000), (pages.test, 38_000)):
        joined = "".join(words(split, pages))
        assert whole[start:].startswith(joined)
        following = "".join(pages.classes[i] for i in split.labels.flatten().tolist())
        assert whole[start + 1 :].startswith(following)
    assert "".join(pages.classes) == "".join(sorted(set(whole)))


def test_no_paragraph_of_the_help_pages_comes_twice():
    paragraphs = text.SOURCES["pydoc"]().split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs) > 1000


def test_a_model_is_told_characters_and_context_and_a_file_the_alphabet(pages):
    assert pages.model_args == {"characters": len(pages.classes), "context": 32}
    assert pages.scaling == {"alphabet": "".join(pages.classes)}
    assert pages.to("cpu").normalize(pages.train.images) is pages.train.images
    assert pages.identity != text.load(text.Corpus(characters=40_000, context=16)).identity


@pytest.mark.parametrize(
    "given, said",
    [
        ({"name": "tinyshakespear"}, r"text.name='tinyshakespear'; did you mean 'tinyshakespeare'\?"),
        ({"context": 1}, "text.context=1: expected at least 2"),
        ({"characters": 100}, "text.characters=100: expected 0 or at least 3900, for 3 test blocks"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(given, said):
    with pytest.raises(SettingError, match=said):
        read(text.Corpus, given, "text")


def test_shakespeare_is_read_from_the_folder_of_data_and_known_by_its_checksum(here, monkeypatch):
    plays = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 100).encode()
    (here / "tinyshakespeare.txt").write_bytes(plays)
    corpus = text.Corpus("tinyshakespeare", context=8)
    with pytest.raises(ValueError, match=rf"tinyshakespeare.txt: SHA-256 .*: expected {text.SHA256}"):
        text.load(corpus)
    monkeypatch.setattr(text, "SHA256", hashlib.sha256(plays).hexdigest())
    assert words(text.load(corpus).train, text.load(corpus))[:2] == ["First Ci", "tizen:\nB"]


def test_without_file_and_network_both_ways_to_have_it_are_named(here):
    with pytest.raises(
        FileNotFoundError, match=r"STUDY_DATA to a folder with tinyshakespeare\.txt.*no way to https://"
    ):
        text.load(text.Corpus("tinyshakespeare"))


def test_what_is_downloaded_is_held_against_the_checksum(here, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **how: asked.append((args, how)))
    with pytest.raises(FileNotFoundError):
        text.load(text.Corpus("tinyshakespeare"))
    ((url, file), how) = asked[0]
    assert url == text.SHAKESPEARE and file == str(here / "tinyshakespeare.txt") and how["hash_prefix"] == text.SHA256


def test_more_characters_than_a_byte_has_are_refused(monkeypatch):
    monkeypatch.setitem(text.SOURCES, "pydoc", lambda: "".join(map(chr, range(300))) * 100)
    with pytest.raises(ValueError, match="pydoc: 300 different characters: expected at most 256"):
        text.load(text.Corpus())


def test_bits_are_of_the_probabilities_that_a_model_gives(pages):
    model = spec.create("gpt", 0, **pages.model_args, width=8, depth=1, heads=2).eval()
    found = text.bits(model, pages.test, pages)
    with torch.no_grad():
        chances = model(pages.test.images).softmax(-1).gather(2, pages.test.labels[..., None])[..., 0]
    assert found.shape == (62, 32) and torch.allclose(found, -chances.log2(), atol=1e-4)
    assert pages.task.scores(found, pages.test.labels)["bits_per_char"] == found.double().mean().item()
    each = pages.task.batch_score(model(pages.test.images), pages.test.labels)
    assert each.item() == pytest.approx(found.mean(1).sum().item(), rel=1e-4)


def test_the_bigram_model_is_a_table_of_counts(pages):
    rows = {row["name"]: row[text.BITS] for row in gpt_rivals.to_beat(pages)}
    best = f"{gpt_rivals.ngram(pages)[0]}-gram model"
    assert list(rows) == ["bigram model", best, "zlib", "bz2", "xz", "xz after the training text"]
    assert rows[best] < rows["bigram model"]
    single = np.bincount(pages.train.images.flatten().numpy(), minlength=len(pages.classes)) + 0.1
    alone = -np.log2(single / single.sum())[pages.test.labels.flatten().numpy()].mean()
    assert rows["xz after the training text"] < rows["xz"] < 8 and rows["bigram model"] < alone
    knows = dataclasses.replace(pages, validation=pages.train, test=pages.train)
    pairs = pages.train.images.flatten().long() * 1000 + pages.train.labels.flatten()
    _, counts = pairs.unique(return_counts=True)
    _, firsts = pages.train.images.flatten().unique(return_counts=True)
    exact = (firsts * firsts.log2()).sum() - (counts * counts.log2()).sum()  # the entropy of what follows, in bits
    assert gpt_rivals.bigram(knows) == pytest.approx((exact / counts.sum()).item(), abs=0.02)


def test_the_n_gram_model_interpolates_discounted_counts(pages):
    train, test = (gpt_rivals._stream(part.take(slice(40))).tolist() for part in (pages.train, pages.test))
    counts, followers, size, discount = Counter(), defaultdict(set), len(pages.classes), 0.7
    for order in (1, 2, 3):
        for end in range(order, len(train) + 1):
            *start, last = train[end - order : end]
            counts[*start, last] += 1
            followers[tuple(start)].add(last)

    def share(start: tuple, last: int) -> float:
        lower = share(start[1:], last) if start else 1 / size
        if not (after := followers[start]):
            return lower
        total = sum(counts[*start, letter] for letter in after)
        return (max(counts[*start, last] - discount, 0) + discount * len(after) * lower) / total

    firsts = [(end - 1) // 32 * 32 for end in range(1, len(test))]  # of the target's block: no more is seen
    starts = [tuple(test[max(first, end - 2) : end]) for end, first in enumerate(firsts, 1)]
    exact = [-np.log2(share(start, test[end])) for end, start in enumerate(starts, 1)]
    few = dataclasses.replace(pages, train=pages.train.take(slice(40)), test=pages.test.take(slice(40)))
    seen = [gpt_rivals._counted(gpt_rivals._stream(few.train), order, size, few.test) for order in (1, 2, 3)]
    assert gpt_rivals._cost(seen, size, discount) == pytest.approx(np.mean(exact), rel=1e-12)
    assert sum(share((test[0],), letter) for letter in range(size)) == pytest.approx(1)


@pytest.fixture(scope="module")
def writer(pages):
    model = spec.create("gpt", 0, **pages.model_args, width=8, depth=1, heads=2).eval()
    model.spec = {**model.spec, "input": pages.scaling}
    return model


def test_what_is_written_depends_on_prompt_seed_and_temperature_alone(writer):
    torch.manual_seed(1)
    first = text.sampled(writer, "The ", 50, seed=3)
    torch.manual_seed(2)
    assert text.sampled(writer, "The ", 50, seed=3) == first and len(first) == 50
    others = [text.sampled(writer, "The ", 50, 4), text.sampled(writer, "An ", 50, 3)]
    assert first not in others and text.sampled(writer, "The ", 20, 3) == first[:20]
    likeliest = [text.sampled(writer, "The ", 50, seed, temperature=0) for seed in (0, 1)]
    assert likeliest[0] == likeliest[1]


def test_characters_come_as_often_as_the_model_says(writer, pages, monkeypatch):
    chances = torch.linspace(1, 3, len(pages.classes)).softmax(0)
    monkeypatch.setattr(type(writer), "forward", lambda self, x: chances.log().expand(*x.shape, -1))
    found = text.sampled(writer, "T", 20_000, 0)
    counts = torch.tensor([found.count(letter) for letter in pages.classes])
    assert (counts / 20_000 - chances).abs().max() < 5 * math.sqrt(chances.max() / 20_000)


@pytest.mark.parametrize(
    "asked, said",
    [(("", 5, 0), "prompt='': '': expected"), (("Ж", 5, 0), "'Ж': expected characters of"), (("a", 5, 0, -1), "-1")],
)
def test_what_cannot_be_written_after_is_refused(writer, asked, said):
    with pytest.raises(ValueError, match=said):
        text.sampled(writer, *asked)


def test_the_folder_of_data_is_that_of_images(here):
    assert sources.data_folder() == here
