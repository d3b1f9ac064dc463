"""Figures, a file a chapter, each drawn from a table of rows. Chapters 1 to 8."""
