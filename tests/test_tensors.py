import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studylib.coding import positions
from studylib.coding.magnitudes import Magnitudes, class_edges
from studylib.coding.range_coder import CodeError, Reader, Writer
from studylib.coding.tensors import Tensors

SHAPES = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([[0], [3, 0], [0, 4, 3, 3], [1], [40, 70, 1, 1]]),
)


@st.composite
def int8_tensors(draw):
    """Random shape, density, bits; some columns and rows dead, some tensors empty, all zero or full."""
    rng, shape = np.random.default_rng(draw(st.integers(0, 999))), draw(SHAPES)
    reach = 2 ** (draw(st.integers(2, 8)) - 1)
    values = rng.integers(-reach, reach, shape).astype(np.int8)
    values[rng.random(shape) >= draw(st.sampled_from([0, 0.01, 0.1, 0.5, 0.99, 1]))] = 0
    if len(shape) > 1 and draw(st.booleans()):
        values[:, rng.random(shape[1]) < 0.5] = 0
        values[rng.random(shape[0]) < 0.3] = 0
    return values


def written(tensors, code):
    """The words of ``tensors``, each written by ``code(Tensors, tensor)``, and the edges that reading needs."""
    writer = Writer()
    edges = class_edges([t for t in tensors if t.dtype == np.int8])
    model = Tensors(writer, edges)
    for tensor in tensors:
        assert np.array_equal(code(model, tensor), tensor)  # what is written is returned, too
    return writer.words(), edges


@given(tensors=st.lists(int8_tensors(), min_size=1, max_size=4))
def test_integers_come_back(tensors):
    words, edges = written(tensors, lambda model, tensor: model.integers(tensor, tensor.shape))
    reader = Reader(words)
    model = Tensors(reader, edges)
    for tensor in tensors:
        found = model.integers(None, tensor.shape)
        assert found.dtype == np.int8 and np.array_equal(found, tensor)
    reader.finish()


@given(
    bits=st.lists(st.integers(0, 2**32 - 1), max_size=200),
    width=st.sampled_from([16, 32]),
    seed=st.integers(0, 99),
)
def test_floats_come_back_bit_for_bit(bits, width, seed):
    """Whatever the 16 or 32 bits are: signed zeros, subnormals and NaN too."""
    kind = np.uint16 if width == 16 else np.uint32
    smooth = np.random.default_rng(seed).normal(size=100).astype(f"float{width}").view(kind)
    for values in (np.array(bits, np.uint64).astype(kind), smooth):
        writer = Writer()
        Tensors(writer, [0, 0, 0]).floats(values.view(f"float{width}"), len(values), f"bias {width}")
        found = Tensors(Reader(writer.words()), [0, 0, 0]).floats(None, len(values), f"bias {width}")
        assert np.array_equal(found.view(kind), values)


@pytest.mark.parametrize("values", [[], [0], [255, 0, 255, 7]])
def test_bytes_come_back(values):
    writer = Writer()
    model = Tensors(writer, [0, 0, 0])
    for value in values:
        model.byte(value)
    model = Tensors(Reader(writer.words()), [0, 0, 0])
    assert [model.byte(None) for _ in values] == values


def size_of(*tensors):
    return 4 * len(written(tensors, lambda model, tensor: model.integers(tensor, tensor.shape))[0])


def bound(tensor):
    nonzeros = tensor[tensor != 0]
    positions = np.array([len(nonzeros), tensor.size - len(nonzeros)]) / tensor.size
    values = np.unique(nonzeros, return_counts=True)[1] / max(1, len(nonzeros))
    cells, numbers = (-(p[p > 0] * np.log2(p[p > 0])).sum() for p in (positions, values))
    return (tensor.size * cells + len(nonzeros) * numbers) / 8


def gaussian(seed, shape=(64, 64, 3, 3), density=0.1):
    rng = np.random.default_rng(seed)
    values = np.clip(np.round(rng.normal(size=shape) * 40), -127, 127).astype(np.int8)
    values[rng.random(shape) >= density] = 0
    return values


def test_random_weights_take_little_more_than_their_entropy():
    tensor = gaussian(0)
    assert bound(tensor) < size_of(tensor) < 1.03 * bound(tensor)


@pytest.mark.parametrize("reach", [1, 3, 7, 15])
def test_few_levels_take_little_more_than_their_entropy(reach):
    """Nothing is spent on magnitudes that never occur."""
    rng = np.random.default_rng(0)
    tensor = np.clip(np.round(rng.normal(size=(64, 30, 3, 3)) * reach / 2), -reach, reach).astype(np.int8)
    assert size_of(tensor) < 1.02 * bound(tensor) + 80


def test_a_row_on_an_edge_is_of_the_class_above():
    """A part of the format: reader and writer must agree, and those of another day."""
    magnitudes = Magnitudes([3, 9, 50])
    rows = [[2, 3], [3, 3], [8, 9], [9, 9], [50], [127]]
    assert [magnitudes.class_of(np.array(row)) for row in rows] == [0, 1, 1, 2, 3, 3]


def test_blocks_are_limited_for_a_whole_file(monkeypatch):
    """A few bytes may not ask for updates without end."""
    rng, tensor = np.random.default_rng(0), gaussian(0, density=1.0)
    tensor[rng.random(tensor.shape) < rng.beta(0.3, 0.3, size=(1, 64, 1, 1))] = 0
    both = size_of(tensor, tensor)
    monkeypatch.setattr(positions, "BLOCKS", 64 * 36)  # one tensor by columns
    assert both < size_of(tensor, tensor) < both + size_of(tensor)
    words, edges = written([tensor, tensor], lambda model, t: model.integers(t, t.shape))
    model = Tensors(Reader(words), edges)
    assert all(np.array_equal(model.integers(None, tensor.shape), tensor) for _ in range(2))
    assert 0 <= model._positions.blocks < 64 * 36


def test_a_weight_that_int8_does_not_hold_is_refused():
    with pytest.raises(CodeError, match="a weight of 128"):
        Tensors(Writer(), [0, 0, 0]).integers(np.array([128], np.int16), (1,))


def test_earlier_tensors_teach_later_ones():
    small = [gaussian(seed, shape=(12, 20, 3, 3)) for seed in range(8)]
    assert size_of(*small) < 0.99 * sum(size_of(tensor) for tensor in small)


def test_rows_of_their_own_density_take_less_than_the_entropy_of_the_tensor():
    rng = np.random.default_rng(0)
    tensor = gaussian(0, density=1.0)
    tensor[rng.random(tensor.shape) < rng.beta(0.3, 0.3, size=(64, 1, 1, 1))] = 0
    assert size_of(tensor) < 0.97 * bound(tensor)


def test_columns_of_their_own_density_take_less_than_the_entropy_of_the_tensor():
    rng = np.random.default_rng(0)
    tensor = gaussian(0, density=1.0)
    tensor[rng.random(tensor.shape) < rng.beta(0.3, 0.3, size=(1, 64, 1, 1))] = 0
    assert size_of(tensor) < 0.97 * bound(tensor)


def test_rows_of_their_own_spread_take_less_than_the_entropy_of_the_tensor():
    rng = np.random.default_rng(0)
    tensor = np.clip(rng.normal(size=(256, 90)) * rng.choice([2, 40], size=(256, 1)), -127, 127).astype(np.int8)
    assert size_of(tensor) < 0.97 * bound(tensor)


def test_dead_columns_cost_nearly_nothing():
    tensor = gaussian(0, density=0.5)
    wide = np.zeros((64, 640, 3, 3), np.int8)
    wide[:, ::10] = tensor
    assert size_of(wide) < size_of(tensor) + 640 / 8


@pytest.mark.parametrize("shape", [(1,), (10, 10), (64, 64, 3, 3)])
def test_nothing_but_zeros_costs_a_word_or_two(shape):
    assert size_of(np.zeros(shape, np.int8)) <= 8


def test_more_nonzeros_than_bits_are_not_read():
    tensor = gaussian(0)
    words, edges = written([tensor], lambda model, t: model.integers(t, t.shape))
    with pytest.raises(CodeError, match="more numbers than the file has bits for"):
        Tensors(Reader(words[:1]), edges).integers(None, tensor.shape)


def test_words_left_over_are_noticed():
    tensor = gaussian(0)
    words, edges = written([tensor], lambda model, t: model.integers(t, t.shape))
    reader = Reader(words)
    Tensors(reader, edges).positions(None, tensor.shape)
    with pytest.raises(CodeError, match="do not end where the model does"):
        reader.finish()


@given(seed=st.integers(0, 10_000))
def test_random_words_give_numbers_or_a_clear_error(seed):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**32, rng.integers(0, 40), dtype=np.uint32)
    try:
        found = Tensors(Reader(words), [3, 9, 50]).integers(None, (20, 30, 3))
        assert found.shape == (20, 30, 3) and (found != 0).sum() <= 32 * len(words) + 64
    except CodeError:
        pass
