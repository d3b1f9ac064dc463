"""A network as one small file and back: range coder, codec, sizes. Every chapter."""

from studylib.coding.state import compress, decode

__all__ = ["compress", "decode"]
