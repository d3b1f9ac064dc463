import math
import shutil

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor
from torch._inductor.utils import run_and_get_code

from studylib.networks import cost, layers

ARGS = {"in_channels": 1, "image_size": 8, "classes": 10}


@pytest.mark.filterwarnings("ignore")
def test_a_machine_that_cannot_compile_says_why(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    assert cost.why_not_compile() == "torch.compile does not work here (no C++ compiler)"


@pytest.mark.filterwarnings("ignore")  # of Inductor's own insides
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_where_there_is_a_compiler_it_works():
    assert cost.why_not_compile() is None


@pytest.mark.filterwarnings("ignore")  # of Inductor's own insides
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_int8_model_runs_in_int8_kernels(int8_model, monkeypatch):
    code, plain = [], torch.compile

    def spy(model, **options):
        compiled = plain(model, **options)

        def run(images):
            result, found = run_and_get_code(compiled, images)
            code.extend(found)
            return result

        return run

    monkeypatch.setattr(torch, "compile", spy)
    torch.compiler.reset()
    cost.timer(int8_model, cost.example(ARGS, 64))
    text = "\n".join(code)
    assert "qconv" in text and "qlinear" in text
    assert "extern_kernels.convolution" not in text
    assert not inductor.freezing  # the setting is put back


def test_latency_is_the_median_of_the_passes_after_the_first_three(monkeypatch):
    now, passes = 0.0, iter([9, 9, 9, 1, 2, 3, 4, 100])

    class Slow(nn.Module):
        def forward(self, images):
            nonlocal now
            assert not self.training and not torch.is_grad_enabled()
            now += next(passes)
            return images

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now)
    monkeypatch.setattr(cost.layers, "duplicate", lambda model: model)
    assert cost.in_turn([cost.timer(Slow(), torch.zeros(1, 1, 8, 8), compiled=False)], 5) == [3000]


@pytest.mark.parametrize("name", ["student_model", "int8_model"])
def test_latency_leaves_the_model_alone(name, request, same_tensors):
    model = request.getfixturevalue(name)
    before = layers.duplicate(model)
    [found] = cost.in_turn([cost.timer(model, cost.example(ARGS, 2), compiled=False)], 2)
    assert 0 < found < math.inf
    assert same_tensors(model, before)
