"""Several objectives at once: objectives, aggregators of gradients, steps. Chapters 1, 6, 8, 10 and 11."""
