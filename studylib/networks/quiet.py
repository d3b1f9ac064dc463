"""torchao imported and run without what it says."""

import contextlib
import logging
import warnings


@contextlib.contextmanager
def quiet_torchao():
    """Silences what torchao says of its own and torch's insides, at its import and after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
    finally:
        logging.disable(before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
