"""A technique a module, each with ``apply``: teacher, distill, prune, svd, int8, qat, bits. Chapters 1 to 5 and 8."""
