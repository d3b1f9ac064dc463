"""Safe screening on one worker: against other libraries, no unsafe discard, estimators, faults."""

import importlib.util
import re
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso, LassoCV, LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from studylib.screening.communicate import Alone
from studylib.screening.data import Shard
from studylib.screening.estimators import ScreenedClassifier, ScreenedRegressor, ScreenedRegressorCV
from studylib.screening.groups import Groups, shrink
from studylib.screening.path import lambdas, path
from studylib.screening.problems import NAMES, problem
from studylib.screening.solvers import SOLVERS, _Gram, solve

CLOSE = 1e-6  # to other libraries, of coefficients


def drawn(seed=0, rows=60, columns=150, loss="squared"):
    """Columns of mean 1 and unlike scales, labels of ten of them; the same rows for a seed."""
    draw = np.random.default_rng(seed)
    X = (draw.standard_normal((rows, columns)) + 1) * draw.uniform(0.5, 2, columns)
    y = X[:, :10] @ draw.standard_normal(10) + draw.standard_normal(rows) + 3
    return X, np.where(y > np.median(y), 1.0, -1.0) if loss == "logistic" else y


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_the_lasso_is_that_of_scikit_learn(form, solver, intercept):
    X, y = drawn()
    data = Shard(sparse.csr_array(X) if form == "csr" else X, y, intercept=intercept)
    lam = 0.3 * data.largest()
    theirs = Lasso(lam, fit_intercept=intercept, tol=1e-13, max_iter=100_000).fit(X, y)
    ours = solve(data, lam, solver=solver, tol=1e-11)
    assert ours.gap <= 1e-11 and np.abs(ours.coef - theirs.coef_).max() < CLOSE
    assert abs(ours.intercept - theirs.intercept_) < CLOSE
    assert np.count_nonzero(theirs.coef_) <= ours.kept.sum() < 150  # it has discarded, and not too much


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_elastic_net_is_that_of_scikit_learn(solver):
    X, y = drawn(1)
    theirs = ElasticNet(0.5, l1_ratio=0.6, tol=1e-13, max_iter=100_000).fit(X, y)
    ours = solve(Shard(X, y, intercept=True), 0.3, ridge=0.2, solver=solver, tol=1e-11)
    assert np.abs(ours.coef - theirs.coef_).max() < CLOSE and ours.kept.sum() < 150


@pytest.mark.parametrize("solver", SOLVERS)
def test_logistic_regression_is_that_of_scikit_learn(solver):
    X, y = drawn(loss="logistic")
    data = Shard(X, y, "logistic")
    lam = 0.3 * data.largest()
    other = {"l1_ratio": 1.0, "solver": "liblinear", "fit_intercept": False, "tol": 1e-12, "max_iter": 100_000}
    theirs = LogisticRegression(C=1 / (lam * len(y)), random_state=0, **other).fit(X, y)
    ours = solve(data, lam, solver=solver, tol=1e-12)
    assert np.abs(ours.coef - theirs.coef_[0]).max() < CLOSE and ours.kept.sum() < 150


def test_the_intercept_of_logistic_regression_is_not_penalized():
    X, y = drawn(2, loss="logistic")
    y[:20] = 1.0
    data = Shard(X, y, "logistic", intercept=True)
    found = solve(data, 0.3 * data.largest(), tol=1e-12)
    rho = data.loss.residual(X @ found.coef + found.intercept, y)
    correlations = X.T @ rho / len(y)
    assert abs(rho.sum()) < 1e-8 and np.abs(correlations).max() < found.lam * (1 + 1e-5)
    used = found.coef != 0
    assert used.any() and np.allclose(correlations[used], found.lam * np.sign(found.coef[used]), rtol=1e-4)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_coefficients_are_those_of_celer_and_skglm(loss):
    if not (importlib.util.find_spec("celer") and importlib.util.find_spec("skglm")):
        pytest.skip("the extra screening (celer and skglm) is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their own imports
        import celer
        import skglm

        X, y = drawn(3, loss=loss)
        data = Shard(X, y, loss)
        lam = 0.3 * data.largest()
        ours = solve(data, lam, tol=1e-12).coef
        if loss == "squared":
            models = [
                celer.Lasso(lam, fit_intercept=False, tol=1e-12),
                skglm.Lasso(lam, fit_intercept=False, tol=1e-12),
            ]
        else:
            models = [
                celer.LogisticRegression(C=1 / (lam * len(y)), fit_intercept=False, tol=1e-12),
                skglm.SparseLogisticRegression(lam, fit_intercept=False, tol=1e-12),
            ]
        for model in models:
            assert np.abs(np.ravel(model.fit(X, y).coef_) - ours).max() < CLOSE, model


def test_the_group_lasso_meets_its_conditions_of_optimality_and_discards_whole_groups():
    X, y = drawn(4)
    groups = Groups(np.arange(150) // 5)
    data = Shard(X, y)
    lam = 0.4 * data.largest(groups)
    found, all_kept = (solve(data, lam, groups=groups, tol=1e-12, screen=screen) for screen in (True, False))
    assert np.abs(found.coef - all_kept.coef).max() < CLOSE
    assert all_kept.kept.all() and found.kept.sum() < 150 and set(found.kept.reshape(-1, 5).sum(axis=1)) == {0, 5}
    correlations = groups.norms(X.T @ (y - X @ found.coef)) / (len(y) * lam * groups.weights)
    used = groups.norms(found.coef) > 0
    assert used.any() and np.allclose(correlations[used], 1, atol=1e-4) and correlations.max() < 1 + 1e-4


def unsafe(seed: int) -> list[int]:
    """Features of random problem ``seed`` that are discarded and yet not zero at gap 1e-10."""
    draw = np.random.default_rng(seed)
    loss, intercept = ("squared", "logistic")[seed % 2], bool(seed // 2 % 2)
    X, y = drawn(seed, int(draw.integers(10, 60)), int(draw.integers(12, 80)), loss)
    if seed % 3 == 0:
        X = X * (draw.random(X.shape) < 0.3)
    groups = Groups(np.sort(np.arange(X.shape[1]) % max(2, X.shape[1] // 4))) if seed % 5 == 0 else None
    data = Shard(X, y, loss, intercept)
    lam = draw.uniform(0.1, 0.9) * data.largest(groups)
    ridge = lam * draw.uniform(0, 1) * (seed % 4 == 0)
    exact = solve(data, lam, ridge=ridge, groups=groups, screen=False, tol=1e-10)
    rough = solve(data, lam, ridge=ridge, groups=groups, tol=1e-3 * data.largest(groups), every=3)
    # at gap g a coefficient of a feature whose bound is not met can still be about √g
    return [j for j in np.flatnonzero(~rough.kept) if abs(exact.coef[j]) > 1e-5]


@pytest.mark.parametrize("seeds", [range(i, i + 10) for i in range(0, 50, 10)])
def test_no_discard_is_unsafe(seeds):
    assert {seed: unsafe(seed) for seed in seeds if unsafe(seed)} == {}


@pytest.mark.long
def test_no_discard_is_unsafe_in_a_thousand_problems():
    assert {seed: found for seed in range(1000) if (found := unsafe(seed))} == {}


def test_a_radius_that_is_too_small_is_found_out_by_that_test(monkeypatch):
    monkeypatch.setattr("studylib.screening.state.State.radius", lambda state: 0.0)
    assert any(unsafe(seed) for seed in (1, 7, 11, 13, 17, 19, 23, 29, 31, 37))


def test_a_path_from_solution_to_solution_gives_what_each_value_gives_alone():
    X, y = drawn(5)
    data = Shard(X, y, intercept=True)
    values = lambdas(data, 5, 0.2)
    for solution in path(data, values, solver="gram", tol=1e-11):
        alone = solve(Shard(X, y, intercept=True), solution.lam, tol=1e-11)
        assert np.abs(solution.coef - alone.coef).max() < CLOSE
    assert values[0] == pytest.approx(data.largest()) and values[-1] == pytest.approx(0.2 * data.largest())


def test_a_path_that_was_stopped_repeats_no_finished_value(tmp_path, monkeypatch):
    X, y = drawn(6)
    data, solved = Shard(X, y), []
    values = lambdas(data, 4, 0.3)
    whole = path(data, values)

    def counting(data, lam, **settings):
        solved.append(lam)
        if len(solved) == 3:
            raise KeyboardInterrupt
        return solve(data, lam, **settings)

    monkeypatch.setattr("studylib.screening.path.solve", counting)
    with pytest.raises(KeyboardInterrupt):
        path(data, values, folder=tmp_path)
    again = path(data, values, folder=tmp_path)
    assert len(solved) == 3 + 2
    assert all(np.array_equal(a.coef, b.coef) and a.sent == b.sent for a, b in zip(whole, again, strict=True))
    with pytest.raises(ValueError, match="a path of other data or settings"):
        path(Shard(X, y + 1), values, folder=tmp_path)


def test_the_chosen_penalty_predicts_about_as_well_as_that_of_scikit_learn():
    X, y = drawn(7, 100, 40)
    ours, theirs = ScreenedRegressorCV(alphas=10).fit(X, y), LassoCV(alphas=10, eps=0.01, cv=5).fit(X, y)
    assert np.allclose(ours.alphas_, theirs.alphas_)
    assert ours.mse_path_.mean(axis=1).min() == pytest.approx(theirs.mse_path_.mean(axis=1).min(), rel=0.15)
    assert np.abs(ours.coef_ - ScreenedRegressor(ours.alpha_).fit(X, y).coef_).max() < 1e-3
    assert ours.score(X, y) > 0.9
    given = ScreenedRegressorCV(alphas=ours.alphas_[::-1].tolist()).fit(X, y)  # the values themselves, in any order
    assert np.array_equal(given.coef_, ours.coef_) and given.alpha_ == ours.alpha_


@parametrize_with_checks([ScreenedRegressor(), ScreenedClassifier(), ScreenedRegressorCV(alphas=5)])
def test_the_estimators_are_those_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # data of the checks that asks for more than rounding allows
        check(estimator)


class Counted(Alone):
    """One worker that counts what it would send."""

    def __init__(self):
        self.sent, self.sizes = 0, []

    def sum(self, *arrays):
        found = super().sum(*arrays)
        self.sizes.append(sum(array.size for array in found))
        self.sent += 8 * self.sizes[-1]
        return found


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("name", ["gaussian", "correlated", "text"])
def test_working_sets_add_few_numbers_and_end_in_the_same_coefficients(name, loss):
    X, y = problem(name, 400, 1500)
    y = np.where(y > 0, 1.0, -1.0) if loss == "logistic" else y
    found = {}
    for solver, screen in (("gram", True), ("fista", False)):
        data = Shard(X, y, loss, workers=Counted())
        tol = 1e-10 * data.loss.value(np.zeros(400), data.y) / 400
        found[solver] = solve(data, 0.3 * data.largest(), solver=solver, screen=screen, tol=tol)
        found[solver].sent += data.sent if screen else 0
    assert found["gram"].sent < (0.3 if loss == "squared" else 0.4) * found["fista"].sent
    assert np.abs(found["gram"].coef - found["fista"].coef).max() < 1e-5


def test_each_product_of_two_columns_is_added_once():
    X, y = drawn(12)
    data = Shard(X, y, intercept=True, workers=Counted())
    gram = _Gram(data)
    for wanted in ([3, 8, 20], [8, 3, 11, 40], [20]):
        gram.add(data, np.array(wanted))
    assert data.workers.sizes[-2:] == [3 * 4 // 2, 3 * 2 + 2 * 3 // 2]
    centred = X[:, gram.columns] - X[:, gram.columns].mean(axis=0)
    assert gram.columns.tolist() == [3, 8, 20, 11, 40] and np.allclose(gram.Q, centred.T @ centred)


def test_a_start_that_uses_discarded_features_is_left_by_working_sets():
    X, y = drawn(13)
    data = Shard(X, y)
    lam = 0.5 * data.largest()
    best = solve(data, lam, solver="gram", tol=1e-12)
    start = best.coef + np.where(best.kept, 0.0, 1e-7)
    assert np.abs(solve(data, lam, solver="gram", start=start, tol=1e-12).coef - best.coef).max() < CLOSE


def test_screening_ends_in_fewer_numbers_added_and_the_same_coefficients():
    X, y = problem("gaussian", 200, 1000)
    data = Shard(X, y)
    with_it, without = (solve(data, 0.3 * data.largest(), screen=screen, tol=1e-10) for screen in (True, False))
    assert np.abs(with_it.coef - without.coef).max() < CLOSE
    assert with_it.trace[-1]["features"] < 50 and without.trace[-1]["features"] == 1000
    gaps = [row["gap"] for row in with_it.trace]
    assert gaps[-1] <= 1e-10 < gaps[0] and [row["features"] for row in with_it.trace] == sorted(
        (row["features"] for row in with_it.trace), reverse=True
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_above_the_largest_penalty_all_is_zero_at_once(solver):
    data = Shard(*drawn(8), intercept=True)
    for factor in (1 + 1e-12, 2.0):
        found = solve(data, factor * data.largest(), solver=solver)
        assert not found.coef.any() and found.steps <= 1 and found.intercept == pytest.approx(drawn(8)[1].mean())


@pytest.mark.parametrize("solver", SOLVERS)
def test_columns_of_zeros_and_constants_stay_zero_beside_an_intercept(solver):
    X, y = drawn(9)
    X[:, 3], X[:, 4], X[:, 5], X[:, 6] = 0, 7, 1e6, 1e140
    data = Shard(X, y, intercept=True)
    found = solve(data, 0.2 * data.largest(), solver=solver, tol=1e-9)
    assert not found.coef[3:7].any() and np.isfinite(found.coef).all() and found.gap <= 1e-9
    others = Shard(np.delete(X, range(3, 7), axis=1), y, intercept=True)
    assert others.largest() == pytest.approx(data.largest())
    alone = solve(others, 0.2 * data.largest(), solver=solver, tol=1e-9)
    assert np.abs(np.delete(found.coef, range(3, 7)) - alone.coef).max() < 1e-4


def test_columns_that_rounding_hides_are_refused_by_number():
    X, y = drawn(9)
    for change, message in (
        (X + 1e8 * (np.arange(X.shape[1]) == 2), r"column 2 of X varies by .* around 1e\+08: expected a constant or"),
        (X * np.where(np.arange(X.shape[1]) == 4, 1e200, 1.0), "column 4 of X: expected numbers whose squares"),
    ):
        for each in (change, sparse.csr_array(change)):
            with pytest.raises(ValueError, match=message):
                Shard(each, y, intercept=True)
    Shard(X + 1e5, y, intercept=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_rows_than_features_and_one_row_are_solved(solver):
    for rows in (100, 1):
        data = Shard(*drawn(10, rows, 20))
        assert solve(data, 0.5 * data.largest(), solver=solver, tol=1e-9).gap <= 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X.astype("float32"), y), "dtype float32: expected float64"),
        (lambda X, y: (np.where(X.max() - 1e-9 < X, np.nan, X), y), "X holds NaN or infinity"),
        (lambda X, y: (sparse.csr_array(np.where(X.max() - 1e-9 < X, np.inf, X)), y), "X holds NaN or infinity"),
        (lambda X, y: (X, np.where(y > 0, np.nan, y)), "y holds NaN"),
        (lambda X, y: (X, y[:-1]), "expected (rows, p) and (rows,)"),
        (lambda X, y: (X[:0], y[:0]), "no rows"),
        (lambda X, y: (X, y + 1), "labels are 0, 2: expected -1 and 1"),
        (lambda X, y: (X, np.ones(len(y))), "labels are all 1: expected both"),
        (lambda X, y: (sparse.csc_array(X), y), "format csc: expected csr"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused_by_name(change, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        Shard(*change(*drawn(loss="logistic")), "logistic")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam": 0.0}, "lam=0.0: expected a finite number, positive"),
        ({"ridge": -1.0}, "ridge=-1.0: expected a finite number, not negative"),
        ({"solver": "newton"}, "solver='newton': expected one of fista, svrg, gram"),
        ({"tol": 0.0}, "expected all to be positive"),
        ({"solver": "gram", "groups": Groups(np.zeros(150, dtype=int))}, "expected no groups"),
        ({"groups": Groups([0, 1])}, "groups have 2 features: expected 150"),
    ],
)
def test_settings_that_have_no_meaning_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(Shard(*drawn()), **({"lam": 1.0} | settings))


def test_groups_that_are_not_numbered_are_refused_and_shrinking_is_the_proximal_step():
    for labels in ([0.5], [0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="expected"):
            Groups(labels)
    assert shrink(np.array([3.0, -1, 0.5]), 1.0).tolist() == [2, 0, 0]
    groups = Groups([0, 0, 1], weights=[1, 1])
    assert np.allclose(shrink(np.array([3.0, 4, 0.5]), 1.0, groups, groups.labels), [2.4, 3.2, 0])


def test_a_gap_that_is_not_reached_is_warned_of():
    with pytest.warns(ConvergenceWarning, match="after 2 steps, expected at most 1e-12"):
        solve(Shard(*drawn()), 0.1, tol=1e-12, steps=2)


def test_named_problems_are_as_large_as_asked_and_the_same_for_a_seed():
    for name in set(NAMES) - {"cancer"}:
        (X, y), (again, _) = problem(name, 50, 80), problem(name, 50, 80)
        assert X.shape == (50, 80) and y.shape == (50,) and (again != X).sum() == 0
        assert np.isfinite(y).all() and sparse.issparse(X) == (name == "text")
    X, y = problem("cancer")
    assert X.shape == (569, 5455) and set(y) == {-1, 1}
    with pytest.raises(ValueError, match="problem 'mnist'"):
        problem("mnist")
