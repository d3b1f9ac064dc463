"""Estimators with scikit-learn's face: ``fit`` on the rows of this worker, all workers' coefficients the same.

Started by torchrun, with a group of torch.distributed, each worker fits its own rows. Without, it is one worker.
"""

from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from studylib.screening import communicate
from studylib.screening.data import Shard
from studylib.screening.groups import Groups
from studylib.screening.path import lambdas, path
from studylib.screening.solvers import solve

READ = {"accept_sparse": "csr", "dtype": np.float64}


class _Screened(BaseEstimator):
    """What all share: settings, and scores Xw + b."""

    _parameter_constraints: ClassVar[dict] = {
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "l1_ratio": [Interval(Real, 0, 1, closed="right")],
        "groups": ["array-like", None],
        "fit_intercept": ["boolean"],
        "screen": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "solver": [StrOptions({"auto", "fista", "svrg", "gram"})],
    }

    def __init__(
        self, alpha=1.0, *, l1_ratio=1.0, groups=None, fit_intercept=True, screen=True, tol=1e-8, max_iter=100_000,
        solver="auto",
    ):  # fmt: skip
        self.alpha, self.l1_ratio, self.groups = alpha, l1_ratio, groups
        self.fit_intercept, self.screen, self.tol = fit_intercept, screen, tol
        self.max_iter, self.solver = max_iter, solver

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _settings(self, data: Shard) -> dict:
        """Of a solver; ``tol`` is a share of the objective at zero coefficients."""
        self._validate_params()
        rho, b, _ = data.at_zero()
        (value,) = data.workers.sum([data.loss.value(b if data.intercept else np.zeros(len(rho)), data.y)])
        solver = self.solver
        if solver == "auto":
            solver = "gram" if self.groups is None else "fista"
        tol = self.tol * max(float(value[0]) / data.n, 1e-300)
        return {"solver": solver, "screen": self.screen, "tol": tol, "steps": self.max_iter}

    def _grouped(self) -> Groups | None:
        return None if self.groups is None else Groups(self.groups)

    def _fit(self, data: Shard):
        given = self._settings(data)
        lam, ridge = self.alpha * self.l1_ratio, self.alpha * (1 - self.l1_ratio)
        found = solve(data, lam, ridge=ridge, groups=self._grouped(), **given)
        self.n_iter_, self.dual_gap_, self.kept_ = max(1, found.steps), found.gap, found.kept
        return found

    def _scores(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, **READ)
        return X @ self.coef_.ravel() + np.ravel(self.intercept_)[0]


class ScreenedRegressor(RegressorMixin, _Screened):
    """Lasso, elastic net, group lasso: scikit-learn's ``Lasso`` and ``ElasticNet``, on any number of workers.

    Args:
        alpha, l1_ratio, fit_intercept: as in scikit-learn's ``ElasticNet``.
        groups: (p,) integers from 0 on: features of a group are zero together, with weight √size.
        screen: whether features are discarded.
        tol: duality gap, as a share of the objective at zero coefficients.
        max_iter: steps at most; a warning says that ``tol`` was not reached.
        solver: "auto" is "gram", with groups "fista"; see :func:`studylib.screening.solvers.solve`.
    """

    def fit(self, X, y):
        """Fits the rows of this worker, X (rows, p) and y (rows,), together with those of the others."""
        X, y = validate_data(self, X, y, y_numeric=True, **READ)
        found = self._fit(Shard(X, y, "squared", self.fit_intercept, communicate.current()))
        self.coef_, self.intercept_ = found.coef, found.intercept
        return self

    def predict(self, X):
        """Predictions for X (rows, p), shape (rows,)."""
        return self._scores(X)


class ScreenedClassifier(ClassifierMixin, _Screened):
    """Logistic regression of two classes with L1, elastic net or groups; arguments as in ``ScreenedRegressor``.

    ``alpha`` is 1/(C n) of scikit-learn's ``LogisticRegression``. The intercept is not penalized.
    """

    def __init__(
        self, alpha=0.01, *, l1_ratio=1.0, groups=None, fit_intercept=True, screen=True, tol=1e-8, max_iter=100_000,
        solver="auto",
    ):  # fmt: skip
        super().__init__(
            alpha, l1_ratio=l1_ratio, groups=groups, fit_intercept=fit_intercept, screen=screen, tol=tol,
            max_iter=max_iter, solver=solver,
        )  # fmt: skip

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X, y):
        """Fits the rows of this worker, X (rows, p) and y (rows,) of two classes, with those of the others.

        Raises:
            ValueError: the labels of all workers are not two classes.
        """
        X, y = validate_data(self, X, y, **READ)
        check_classification_targets(y)
        workers = communicate.current()
        self.classes_ = np.unique(np.concatenate(workers.gather(np.unique(y))))
        if len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported. y has {len(self.classes_)} classes")
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_[0]!r}")
        signs = np.where(y == self.classes_[1], 1.0, -1.0)
        found = self._fit(Shard(X, signs, "logistic", self.fit_intercept, workers))
        self.coef_, self.intercept_ = found.coef[None], np.array([found.intercept])
        return self

    def decision_function(self, X):
        """Scores of the second class for X (rows, p), shape (rows,)."""
        return self._scores(X)

    def predict(self, X):
        """Classes for X (rows, p), shape (rows,)."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int)]

    def predict_proba(self, X):
        """Probabilities of both classes for X (rows, p), shape (rows, 2)."""
        second = 1 / (1 + np.exp(-np.clip(self.decision_function(X), -700, 700)))
        return np.stack([1 - second, second], axis=1)


class ScreenedRegressorCV(ScreenedRegressor):
    """``ScreenedRegressor`` whose ``alpha_`` has the least mean squared error of ``cv`` folds, along a path.

    Fold k is every cv-th row of each worker from its k-th on. A fold's training rows are a copy.

    Args:
        alphas: how many values on the path, or the values themselves, positive numbers.
        eps: the smallest over the largest.
        cv: folds.
    """

    _parameter_constraints: ClassVar[dict] = {
        **{name: kinds for name, kinds in _Screened._parameter_constraints.items() if name != "alpha"},
        "alphas": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "eps": [Interval(Real, 0, 1, closed="neither")],
        "cv": [Interval(Integral, 2, None, closed="left")],
    }

    def __init__(
        self, alphas=30, *, eps=0.01, cv=5, l1_ratio=1.0, groups=None, fit_intercept=True, screen=True, tol=1e-8,
        max_iter=100_000, solver="auto",
    ):  # fmt: skip
        self.alphas, self.eps, self.cv, self.l1_ratio, self.groups = alphas, eps, cv, l1_ratio, groups
        self.fit_intercept, self.screen, self.tol = fit_intercept, screen, tol
        self.max_iter, self.solver = max_iter, solver

    def fit(self, X, y):
        """As of ``ScreenedRegressor``; ``alphas_`` and ``mse_path_`` (alphas, folds) say how ``alpha_`` was chosen."""
        X, y = validate_data(self, X, y, y_numeric=True, **READ)
        y = np.asarray(y, dtype=float)
        workers, groups = communicate.current(), self._grouped()
        data = Shard(X, y, "squared", self.fit_intercept, workers)
        given = self._settings(data) | {"groups": groups}
        (least,) = [min(workers.gather(len(y)))]
        if least < self.cv:
            raise ValueError(f"cv={self.cv} and {least} samples on a worker: expected cv to be at most that")
        if isinstance(self.alphas, Integral):
            self.alphas_ = lambdas(data, self.alphas, self.eps, groups, self.l1_ratio)
        else:
            self.alphas_ = np.sort(np.asarray(self.alphas, dtype=float).ravel())[::-1]
        fold, columns = np.arange(len(y)) % self.cv, []
        for k in range(self.cv):
            train, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            part = Shard(X[train], y[train], "squared", self.fit_intercept, workers)
            found = path(part, self.alphas_, ratio=self.l1_ratio, **given)
            wrong = [((y[held] - X[held] @ s.coef - s.intercept) ** 2).sum() for s in found]
            total, rows = workers.sum(wrong, [float(len(held))])
            columns.append(total / rows[0])
        self.mse_path_ = np.stack(columns, axis=1)
        best = int(self.mse_path_.mean(axis=1).argmin())
        self.alpha_ = float(self.alphas_[best])
        found = path(data, self.alphas_[: best + 1], ratio=self.l1_ratio, **given)[-1]
        self.n_iter_, self.dual_gap_, self.kept_ = max(1, found.steps), found.gap, found.kept
        self.coef_, self.intercept_ = found.coef, found.intercept
        return self


def rows_of(X, rank: int, size: int):
    """The rows of worker ``rank`` of ``size``: contiguous, of sizes that differ by one at most; dense ones a view."""
    edges = np.linspace(0, X.shape[0], size + 1).astype(int)
    part = X[edges[rank] : edges[rank + 1]]
    return part.tocsr() if sparse.issparse(part) else part
