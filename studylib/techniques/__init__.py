"""A technique a module, each with ``apply``, more in docs/techniques.md. Chapters 1 to 5, 8 to 11, 13 and 14."""
