"""Losses f(z, y) of a row's score z = xᵀw + b and its label y, with what their duals need.

``curvature``: the bound L of f''. ``value``: the sum of f. ``residual``: ρ = −f'. ``dual``: the sum of −f*(−u).
"""

import numpy as np
from scipy.special import entr, expit


class Squared:
    """f = (y − z)²/2: the Lasso."""

    curvature = 1.0

    @staticmethod
    def value(z, y) -> float:
        return float((y - z) @ (y - z)) / 2

    @staticmethod
    def residual(z, y):
        return y - z

    @staticmethod
    def dual(u, y) -> float:
        return float(u @ y - u @ u / 2)


class Logistic:
    """f = log(1 + exp(−yz)), y = ±1."""

    curvature = 0.25

    @staticmethod
    def value(z, y) -> float:
        return float(np.logaddexp(0, -y * z).sum())

    @staticmethod
    def residual(z, y):
        return y * expit(-y * z)

    @staticmethod
    def dual(u, y) -> float:
        u = np.clip(u * y, 0, 1)
        return float((entr(u) + entr(1 - u)).sum())


LOSSES = {"squared": Squared, "logistic": Logistic}
