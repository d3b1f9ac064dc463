"""Figures, a file a chapter (1 to 8), each drawn from a table of rows; :mod:`studylib.report` has style and saving."""
