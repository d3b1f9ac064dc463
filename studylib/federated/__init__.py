"""Clients that train a small network together, a large teacher beside them. Chapter 13."""
