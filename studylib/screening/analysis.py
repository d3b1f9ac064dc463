"""What the rows of chapter 12 come to: ratios over steps alone, slopes of the gap, latency, claims."""

import math

import numpy as np
import pandas as pd

from studylib.results import claims, statistics
from studylib.screening.chapter import MANY, RIGHT, SETS, SETS_ALONE, STEPS, STEPS_ALONE
from studylib.screening.compare import WAYS


def constants(times: pd.DataFrame) -> dict[str, float]:
    """Latency (seconds) and bandwidth (bytes a second) of a link, least squares.

    ``times`` are rows of :func:`studylib.screening.chapter.reduced`. A ring of k workers sends 2(k − 1) messages in
    turn, each 1/k of the bytes (Thakur et al. 2005).
    """
    k, size = times["workers"].to_numpy(float), 8 * times["numbers"].to_numpy(float)
    X = np.stack([2 * (k - 1), 2 * (k - 1) * size / k], axis=1)
    weight = 1 / times["seconds"].to_numpy(float)  # relative errors count
    latency, pace = np.linalg.lstsq(X * weight[:, None], np.ones(len(k)), rcond=None)[0]
    return {"latency": max(float(latency), 1e-9), "bandwidth": 1 / max(float(pace), 1e-15)}


def modelled(rows: pd.DataFrame, known: dict[str, float]) -> pd.DataFrame:
    """Seconds of each single λ by the model: one worker's, shared by k, and its all-reduces.

    Returns:
        problem, share, way, calls and MB of a worker, compute (seconds of one worker). By the model: two and many,
        seconds of two workers and of :data:`MANY`. Also measured, the seconds of two.
    """
    found = []
    single = rows[rows["lambdas"] == 1]
    for (name, share, way), part in single.groupby(["problem", "share", "way"], sort=False):
        at = part.set_index("workers")
        few = min(at.index)
        calls, size, alone = at.loc[few, "calls"], at.loc[few, "sent"], at.loc[few, "seconds"]
        said = {
            k: alone / k + 2 * (k - 1) * (calls * known["latency"] + size / k / known["bandwidth"]) for k in (2, MANY)
        }
        row = {"problem": name, "share": share, "way": way, "calls": int(calls), "MB": size / 1e6, "compute": alone}
        found.append(row | {"two": said[2], "measured": at["seconds"].get(2, math.nan), "many": said[MANY]})
    return pd.DataFrame(found)


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Bytes and seconds of each way over those of steps alone: problem, share, lambdas, workers, way, bytes, time.

    Bytes are exact. Screening's have the columns' norms, which it alone needs.
    """
    keys, found = ["problem", "share", "lambdas", "workers"], []
    for key, part in rows.groupby(keys, sort=False):
        at = part.set_index("way")
        for way in at.index:
            row, other = at.loc[way], at.loc[STEPS_ALONE]
            size = (row["sent"] + row["setup"]) / other["sent"]
            found.append(dict(zip(keys, key, strict=True)) | {
                "way": way, "bytes": float(size), "time": float(row["seconds"] / other["seconds"]),
                "steps": int(row["steps"]), "features": int(row["features"]), "nonzero": int(row["nonzero"]),
            })  # fmt: skip
    return pd.DataFrame(found)


def lines(checks: pd.DataFrame) -> pd.DataFrame:
    """A straight line through log₁₀ of the gap of steps with screening, by problem and λ.

    Returns:
        problem, share, slope (decades a hundred steps), explained (R², %), step (of the last check). Slopes early and
        late: until half of the features are gone, and from there. They are NaN of fewer than three checks. Also gone:
        of the features that end as zero, the percentage discarded before the last check.
    """
    found = []
    for (name, share), part in checks[checks["way"] == STEPS].groupby(["problem", "share"], sort=False):
        part = part[part["gap"] > 0]
        x, y = part["step"].to_numpy(float), np.log10(part["gap"].to_numpy(float))
        many = part["features"].to_numpy() > part["columns"].iloc[0] / 2
        slope, early, late = (_slope(x[which], y[which]) for which in (slice(None), many, ~many))
        explained = 100 * np.corrcoef(x, y)[0, 1] ** 2 if len(x) > 2 else math.nan
        zero = (part["columns"] - part["nonzero"]).iloc[0]
        before = part["features"].iloc[-2 if len(part) > 1 else -1]
        gone = 100 * (part["columns"].iloc[0] - before) / max(zero, 1)
        found.append({"problem": name, "share": share, "slope": 100 * slope, "explained": explained, "gone": gone})
        found[-1] |= {"early": 100 * early, "late": 100 * late, "step": int(x[-1])}
    return pd.DataFrame(found)


def _slope(x, y) -> float:
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 2 else math.nan


def claims_of(
    rows: pd.DataFrame, checks: pd.DataFrame, same: pd.DataFrame, many: pd.DataFrame
) -> dict[str, claims.Measured]:
    """The paper's and the maintainer's claims, over problems and λ; intervals are Student's over these.

    Args:
        rows: of :func:`studylib.screening.chapter.measured`.
        checks: of :func:`studylib.screening.chapter.traces`.
        same: of :func:`studylib.screening.chapter.lossless`.
        many: of :func:`studylib.screening.chapter.alike`.
    """
    table, straight = ratios(rows), lines(checks)
    few = min(size for size in table["workers"].unique() if size > 1 or len(table["workers"].unique()) == 1)
    single = table[(table["lambdas"] == 1) & (table["workers"] == few)]
    at = {way: single[single["way"] == way].reset_index(drop=True) for way in WAYS}
    paths = table[(table["lambdas"] > 1) & (table["workers"] == few) & (table["way"] == STEPS)]["time"]
    more = {"speed_path": _over(100 * (1 - paths))} if len(paths) else {}
    more |= {"workers": claims.Measured(100 * float((many["apart"] > RIGHT).mean()), n=len(many))} if len(many) else {}
    return more | {
        "linear": _over(straight["explained"]),
        "finite": _over(straight["gone"]),
        "lossless": claims.Measured(100 * float((same["apart"] > RIGHT).mean()), n=len(same)),
        "bytes_strict": _over(100 * (1 - at[STEPS]["bytes"])),
        "speed_strict": _over(100 * (1 - at[STEPS]["time"])),
        "bytes": _over(100 * (1 - at[SETS]["bytes"])),
        "speed": _over(100 * (1 - at[SETS]["time"])),
        "outside": _over(100 * (1 - at[SETS]["bytes"] / at[SETS_ALONE]["bytes"])),
    }


def _over(values: pd.Series) -> claims.Measured:
    values = values.dropna()
    return claims.Measured(float(values.mean()), *statistics.t_interval(values.to_numpy()), n=len(values))
