"""The tree of combinations: names, nodes on disk, table, published rows. Every chapter."""
