"""Figures, a file per chapter, named for its key, each drawn from a table of rows. Chapters 1 to 14."""
