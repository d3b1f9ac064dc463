"""Named problems to measure on: each has n rows, p columns, a few true coefficients, and a seed."""

import numpy as np
from scipy import sparse
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

NAMES = ("gaussian", "correlated", "text", "cancer")


def problem(name: str, rows: int = 2000, columns: int = 6000, seed: int = 0):
    """X (rows × columns, float64) and y (rows,), centred noise in it.

    "gaussian" has independent normal columns; in "correlated" neighbours correlate by 0.9. "text" is CSR: logarithms of
    counts, columns of a power law. "cancer" is scikit-learn's: 569 tumours, products of up to three of 30 measurements
    (5,455 columns). Its sizes are fixed.

    Raises:
        ValueError: an unknown name, or sizes below 2.
    """
    if name not in NAMES or rows < 2 or columns < 2:
        raise ValueError(f"problem {name!r} of {rows} × {columns}: expected {', '.join(NAMES)}, and 2 × 2 at least")
    draw = np.random.default_rng(seed)
    if name == "cancer":
        X, labels = load_breast_cancer(return_X_y=True)
        X = PolynomialFeatures(3, include_bias=False).fit_transform(StandardScaler().fit_transform(X))
        return np.ascontiguousarray(StandardScaler().fit_transform(X)), 2.0 * labels - 1
    if name == "text":
        share = np.minimum(0.5, 20 / np.arange(1, columns + 1) ** 0.7)
        counts = draw.poisson(share * rows * 0.2) + 1
        column = np.repeat(np.arange(columns), counts)
        row = draw.integers(0, rows, len(column))
        X = sparse.csr_array((np.ones(len(column)), (row, column)), shape=(rows, columns))
        X.sum_duplicates()
        X.data = np.log1p(X.data)
    else:
        X = draw.standard_normal((rows, columns))
        if name == "correlated":
            for j in range(1, columns):
                X[:, j] = 0.9 * X[:, j - 1] + np.sqrt(1 - 0.81) * X[:, j]
    true = np.zeros(columns)
    chosen = draw.choice(columns, max(2, min(100, columns // 60)), replace=False)
    true[chosen] = draw.standard_normal(len(chosen))
    y = X @ true
    y = y - y.mean()
    return X, y + 0.1 * y.std() * draw.standard_normal(rows)
