"""Sparse convex models that discard features while they train, on many workers. Chapter 12."""
