"""Comparisons that train many networks, each a source of tasks whose rows are kept (:mod:`studylib.tree.rows`)."""
