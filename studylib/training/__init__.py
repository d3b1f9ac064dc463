"""The training loop: recipe, step, checkpoint, deadline. Chapters 1 to 11, 13 and 14."""
