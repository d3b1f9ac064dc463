"""The tree of combinations: names, nodes on disk, their table, rows kept and published. Every chapter."""
