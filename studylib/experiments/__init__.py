"""What chapters 1 to 8 measure, a file or two a chapter: settings, rows that are kept as they are made, claims."""
