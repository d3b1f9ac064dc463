"""Sparse convex models that discard features for certain while they train, on one or many workers. Chapter 12."""
