"""What chapters measure, in files named for their keys: settings, rows, claims. Chapters 1 to 11 and 14."""
