"""Combinations: names, nodes on disk, table, published rows. Every chapter."""
