"""Networks and their layers: built from a spec, in floats or int8, sliced, measured. Every chapter."""
