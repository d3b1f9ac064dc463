"""A chapter on disk, for every chapter: its rows as they are made, ``chapter.json``, and what is published of it."""
