"""What runs the study and publishes it by the Makefile's commands: Snakemake over papermill. No chapter uses it."""

import sys

# papermill validates notebooks by jsonschema, which compiles a grammar for internationalized addresses at import. That
# takes 1.6 of 2.2 s, once per node. Notebooks have no such addresses; without the module that check is left out.
sys.modules.setdefault("rfc3987_syntax", None)
