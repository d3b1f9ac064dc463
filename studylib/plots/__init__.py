"""Figures, a file a chapter, each drawn from a table of rows; style and saving are those of studylib.report."""
