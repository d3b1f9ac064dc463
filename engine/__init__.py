"""What runs the study and publishes it by the Makefile's commands: Snakemake over papermill. No chapter uses it."""

import sys

# papermill's import of jsonschema compiles a grammar of addresses, for 1.6 of its 2.2 s; notebooks have no addresses.
sys.modules.setdefault("rfc3987_syntax", None)
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")  # ± and × become question marks where they cannot be said, not errors
