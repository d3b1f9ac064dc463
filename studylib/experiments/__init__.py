"""What chapters measure, a file or two a chapter: settings, rows, claims. Chapters 1 to 8."""
