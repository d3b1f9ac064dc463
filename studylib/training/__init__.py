"""The training loop: recipe, step, checkpoint, deadline. Chapters 1 to 9 and 14."""
