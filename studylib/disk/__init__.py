"""Files on disk: written whole, checked when read; models, and where numbers come from. Every chapter."""
