"""torchao's patterns are traced once a process, and a network trained with rounding does not notice."""

import torch
import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401  (before anything of it is replaced)
from torchao.quantization.pt2e import qat_utils, utils

from studylib.networks import pt2e_patterns
from studylib.networks.layers import weight_layers
from studylib.techniques import qat


def converted(model, digits):
    bits = dict.fromkeys(weight_layers(model), 4)
    graph = qat.prepare(model, digits.normalize(digits.train.images[:16]), bits).converted()
    return graph.code, graph.state_dict()


def codes():
    return {key: traced.code for key, traced in pt2e_patterns._traced.items()}


def test_a_second_network_traces_no_pattern_and_comes_out_the_same(student_model, digits, monkeypatch):
    asked, trace = [], utils._get_aten_graph_module_for_pattern

    def counting(*args, **kwargs):
        asked.append(1)
        return trace(*args, **kwargs)

    monkeypatch.setattr(utils, pt2e_patterns.TRACE, counting)
    monkeypatch.setattr(pt2e_patterns, "_traced", {})
    first, before = converted(student_model, digits), codes()
    assert len(asked) == len(before) > 30  # each once
    asked.clear()
    again = converted(student_model, digits)
    assert not asked and codes() == before  # nothing is traced, and nothing that was is changed by its use
    assert again[0] == first[0] and first[1].keys() == again[1].keys()
    assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])


def test_torchaos_own_function_is_there_again_afterwards():
    before = utils._get_aten_graph_module_for_pattern
    with pt2e_patterns.remembered():
        assert qat_utils._get_aten_graph_module_for_pattern is not before
    assert utils._get_aten_graph_module_for_pattern is before is qat_utils._get_aten_graph_module_for_pattern


def test_without_that_private_function_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(pt2e_patterns, "TRACE", "no_such_function")
    with pt2e_patterns.remembered():
        assert not hasattr(utils, "no_such_function") and not hasattr(qat_utils, "no_such_function")
