"""A network as one small file and back: shipped form, range coder, codec, sizes. Every chapter."""
