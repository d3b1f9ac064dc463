"""A technique a module, each with ``apply``. Chapters 1 to 5 and 8, and docs/techniques.md."""
