"""What a run leaves on disk: rows of a chapter, kept one by one as they are made (chapters 3, 4, 6 and 7)."""
