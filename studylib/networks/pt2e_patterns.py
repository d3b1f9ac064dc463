"""torchao's patterns of a convolution and its batch norm, each traced once a process."""

import contextlib
import copy
import functools

TRACE = "_get_aten_graph_module_for_pattern"  # a private function of torchao's
_traced: dict[tuple, object] = {}


@contextlib.contextmanager
def remembered():
    """Spares a training with rounding 8 seconds: torchao traces the same forty patterns anew for each network.

    Without that private function, preparation and conversion take their time.
    """
    from torchao.quantization.pt2e import qat_utils, utils

    trace, modules = getattr(utils, TRACE, None), (qat_utils, utils)
    for module in modules if trace else ():
        setattr(module, TRACE, functools.partial(_once, trace))
    try:
        yield
    finally:
        for module in modules if trace else ():
            setattr(module, TRACE, trace)


def _once(trace, pattern, example_inputs, is_cuda=False, **kwargs):
    """A copy of what ``trace`` made of ``pattern``, known by its code and what it closes over."""
    function = pattern.fn
    closed = tuple(cell.cell_contents for cell in function.__closure__ or ())
    key = function.__code__, closed, tuple(x.shape for x in example_inputs), is_cuda, tuple(sorted(kwargs))
    if key not in _traced:
        _traced[key] = trace(pattern, example_inputs, is_cuda, **kwargs)
    return copy.deepcopy(_traced[key])
