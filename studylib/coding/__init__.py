"""A network as one small file and back: shipped form, range coder, codec, sizes. Every chapter."""

from studylib.coding.state import compress, decode

__all__ = ["compress", "decode"]
