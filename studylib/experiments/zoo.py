"""The survey's claims on torchvision's classifiers: bytes under dynamic and static int8, whatever the weights.

python -m studylib.experiments.zoo --out runs/zoo [MODEL …]

Weights are random. Sizes are those of ``torch.save(model.state_dict())``, as the survey measures them. Dynamic int8 is
``torch.ao.quantization.quantize_dynamic`` of linear layers, the survey's; torchao's stands beside it. Static int8 is
torchvision's own where it has one, else FX graph mode with the x86 configuration. Each model is in a process alone.
"""

import argparse
import io
import json
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
import torchvision
from torch import nn

from studylib.disk import files
from studylib.experiments import zoo_models
from studylib.networks.quiet import quiet_torchao
from studylib.results import claims
from studylib.tree.rows import once

MOST = 4 * 2**30  # bytes of memory that a model may take
SAVED = {"dynamic": "bytes_dynamic", "torchao": "bytes_torchao", "static": "bytes_static"}
WAYS = {"dynamic": (nn.Linear,), "static": (nn.Linear, nn.modules.conv._ConvNd)}  # what becomes int8 by either


def predicted(name: str) -> dict:
    """What arithmetic says of a model, without memory for its weights.

    A float32 weight that becomes int8 saves three of four bytes. ``nn.MultiheadAttention`` is left as it is by both.

    Returns:
        parameters; dynamic and static: shares of the bytes that each is to save (0…1).
        largest: share of the parameters in the largest layer.

    Raises:
        ValueError: torchvision has no model of that name.
    """
    with torch.device("meta"):
        model = zoo_models.built(name)
    total = sum(weight.numel() for weight in model.parameters())
    inside = {
        id(part) for each in model.modules() if isinstance(each, nn.MultiheadAttention) for part in each.modules()
    }
    sizes = [part.weight.numel() for part in model.modules() if isinstance(part, WAYS["static"])]
    row = {"parameters": total, "largest": max(sizes, default=0) / total}
    for way, kinds in WAYS.items():
        held = [part for part in model.modules() if isinstance(part, kinds) and id(part) not in inside]
        row[way] = 0.75 * sum(part.weight.numel() for part in held) / total
    return row


def measured(name: str) -> dict:
    """Bytes of a model of random weights: as it is, in dynamic int8 by torch and torchao, in static int8.

    Returns:
        bytes, bytes_dynamic, bytes_torchao, bytes_static; ``api`` of the last; seconds; peak memory in bytes.
    """
    started = time.monotonic()
    torch.manual_seed(0)
    with warnings.catch_warnings(), quiet_torchao():
        warnings.simplefilter("ignore")  # the survey's API is deprecated
        row = {"bytes": saved_bytes(zoo_models.built(name))}
        row["bytes_dynamic"] = saved_bytes(dynamic(zoo_models.built(name)))
        row["bytes_torchao"] = saved_bytes(torchao_dynamic(zoo_models.built(name)))
        small, row["api"] = static(name)
        row["bytes_static"] = saved_bytes(small)
    return row | {"seconds": round(time.monotonic() - started, 1), "peak_bytes": _peak()}


def _peak() -> int:
    """Bytes of memory that this process took at most. getrusage would begin with those of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])


def dynamic(model: nn.Module) -> nn.Module:
    """``model`` with the weights of its linear layers in int8; activations are rounded as they come."""
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def torchao_dynamic(model: nn.Module) -> nn.Module:
    """The same by torchao, whose API replaces it."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def static(name: str) -> tuple[nn.Module, str]:
    """A model with weights and activations in int8, and by which API; calibrated on one random image."""
    if name.startswith(zoo_models.PREFIX):
        return zoo_models.built(name, quantize=True), "torchvision"
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    image = torch.rand(1, 3, 224, 224)
    prepared = quantize_fx.prepare_fx(zoo_models.built(name), get_default_qconfig_mapping("x86"), (image,))
    with torch.no_grad():
        prepared(image)
    return quantize_fx.convert_fx(prepared), "FX graph mode"


def saved_bytes(model: nn.Module) -> int:
    """Bytes of ``torch.save(model.state_dict())``."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def rows(names: Iterable[str], folder: Path | None, most: int = MOST, say=lambda text: None) -> pd.DataFrame:
    """A row per model: :func:`predicted` and :func:`measured`, or why it was left out; each is kept in ``folder``.

    Args:
        most: bytes of memory that a model may take; what takes more is left out.
        say: called with a line as each model is done.

    Returns:
        model, parameters, predicted_dynamic, predicted_static (0…1), what :func:`measured` gives, left_out.

    Raises:
        ValueError: torchvision has no model of that name.
    """
    names = zoo_models.named(names)
    plans = {name: predicted(name) for name in names}
    found = []
    for i, (name, plan) in enumerate(plans.items(), start=1):
        key = [name, most, torch.__version__, torchvision.__version__]
        row = once(folder / f"{name}.json" if folder else None, key, lambda name=name: _apart(name, most))
        expected = {"parameters": plan["parameters"], **{f"predicted_{way}": plan[way] for way in WAYS}}
        found.append({"model": name, **expected, **row})
        said = row["left_out"] or f"{row['bytes'] / 1e6:.1f} MB in {row['seconds']} s"
        say(f"[{i}/{len(plans)}] {name}: {said}")
    return pd.DataFrame(found)


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Of rows of :func:`rows` the percent of bytes saved, as arithmetic has it and as measured: a row per model."""
    shown = table[["model", "parameters"]].assign(MB=table["bytes"] / 1e6)
    for way, column in SAVED.items():
        if f"predicted_{way}" in table:
            shown[f"{way}, by arithmetic %"] = 100 * table[f"predicted_{way}"]
        shown[f"{way} %"] = 100 * (1 - table[column] / table["bytes"])
    return shown


def listed(table: pd.DataFrame) -> pd.DataFrame:
    """Of rows of :func:`rows` the bytes and the percent saved, for a reader: a row per model."""
    found = shares(table)
    kept = found[["model"]].assign(**{"million parameters": (found["parameters"] / 1e6).map("{:.1f}".format)})
    columns = ["MB", *(f"{way} %" for way in SAVED)]
    return kept.join(found[columns].astype(float).map(lambda value: "–" if pd.isna(value) else f"{value:.1f}"))


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of :func:`shares` that are of each of :func:`lists`, or of neither, by what to call them."""
    found, titles = shares(table), {"families": "of many families", "quantizable": "that torchvision quantizes"}
    whole = {f"of 12 models {titles[name]}": found["model"].isin(names) for name, names in zoo_models.lists().items()}
    whole["other models"] = ~pd.DataFrame(whole).any(axis=1)
    return {f"{of.sum()} {title}": found[of] for title, of in whole.items() if of.any()}


def of_all() -> pd.DataFrame:
    """:func:`predicted` of every classifier of torchvision: model, parameters, largest, dynamic, static (0…1).

    RegNets are left out: they cannot be built without memory for their weights.
    """
    names = [name for name in zoo_models.classifiers() if not name.startswith(zoo_models.REGNETS)]
    return pd.DataFrame({"model": name, **predicted(name)} for name in names)


def said_of_twelve(known: pd.DataFrame) -> pd.DataFrame:
    """Means of :func:`of_all` over lists of twelve models, in percent: a row per list, the survey's last."""
    share = known.set_index("model")[["dynamic", "static"]]
    lists = {f"all {len(share)}": list(share.index)} | zoo_models.LISTS
    lists["the twelve with the largest share of linear layers"] = list(share["dynamic"].nlargest(12).index)
    lists["the twelve with the smallest"] = list(share["dynamic"].nsmallest(12).index)
    rows = [{"models": title, **(100 * share.loc[list(names)].mean())} for title, names in lists.items()]
    published = {way: claims.CLAIMS[f"zoo_{way}"].value for way in ("dynamic", "static")}
    return pd.DataFrame([*rows, {"models": "the survey's, unnamed", **published}])


def told(table: pd.DataFrame, known: pd.DataFrame) -> str:
    """What the models measured save, and what arithmetic says of the survey's averages, in words."""
    found, claimed = shares(table), claims.CLAIMS["zoo_dynamic"].value
    means = {title: [part[f"{way} %"].astype(float).mean() for way in WAYS] for title, part in parts(table).items()}
    saved = "; ".join(f"{title} {mean[0]:.1f} % and {mean[1]:.1f} %" for title, mean in means.items())
    apart = {
        f"{row['model']} by {way} int8": abs(row[f"{way} %"] - row[f"{way}, by arithmetic %"])
        for _, row in found.iterrows()
        for way in WAYS
    }
    most = max(apart, key=apart.get)
    low = found[found["static %"].astype(float) < claims.CLAIMS["zoo_static"].value - FAR]
    rest = found[~found["model"].isin(low["model"])]["static %"].astype(float).mean()
    why = f"Static int8 leaves much of {' and '.join(low['model'])} in float32; the others save {rest:.1f} %. "
    share = 100 * known["dynamic"].sort_values(ascending=False)
    above = int((share >= claimed).sum())
    reach = [k for k in range(min(above, TWELVE) + 1) if _best(share, above, k) >= claimed]
    few = (
        f"Others save less. At least {reach[0]} of its twelve must be of these."
        if reach
        else "No twelve of them average as much."
    )
    return (
        f"Saved by dynamic and by static int8: {saved}. "
        f"Half of these savings are within {pd.Series(apart).median():.1f} points of arithmetic. "
        f"The furthest is {most}, {apart[most]:.1f} from it. "
        f"{why if len(low) else ''}"
        f"Of {len(known)} models {above} save the survey's {claimed:g} % or more by dynamic int8. "
        f"{few}"
    )


def _best(share: pd.Series, above: int, k: int) -> float:
    """The greatest mean of twelve of the sorted ``share``, of which ``k`` are among the first ``above``."""
    return pd.concat([share[:k], share[above : above + TWELVE - k]]).mean()


def _apart(name: str, most: int) -> dict:
    """:func:`measured` in a process of at most ``most`` bytes; or left_out, which says why it was left out."""
    command = [sys.executable, "-m", __spec__.name, "--one", name, "--most", str(most)]
    done = subprocess.run(command, cwd=files.root(), capture_output=True, text=True)
    if done.returncode in (MEMORY, -signal.SIGKILL):
        return dict.fromkeys(["bytes", *SAVED.values()]) | {"left_out": f"it takes more than {most / 2**30:g} GiB"}
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"left_out": ""}


FAR = 10  # percentage points below the survey's average from which on a model is named
TWELVE = 12  # models in the survey's list
MEMORY = 3  # exit status of a process that asked for more memory than it may have


def _one(name: str, most: int) -> None:
    """Prints :func:`measured` as JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        print(json.dumps(measured(name)))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            sys.exit(MEMORY)
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = "default: twelve of many families, and the twelve that torchvision has static int8 forms of"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=usual)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="folder of the rows; what is there is kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, default=MOST, help="bytes of memory that a model may take")
    args = parser.parse_args()
    if args.most < 1:
        parser.error(f"--most {args.most}: expected bytes, 1 or more")
    if args.one:
        return _one(args.one, args.most)
    try:
        table = rows(args.models or zoo_models.lists(), args.out, args.most, lambda text: print(text, flush=True))
    except ValueError as error:
        sys.exit(str(error))
    report(table)


def report(table: pd.DataFrame) -> None:
    """Prints percent saved of each model of :func:`rows`, their means, and what arithmetic says of other lists."""
    whole = table[table["left_out"] == ""].astype(dict.fromkeys(["bytes", *SAVED.values()], float))
    print("\n" + shares(whole).round(1).to_string(index=False))
    for row in table[table["left_out"] != ""].itertuples():
        print(f"left out: {row.model}, {row.left_out}")
    for title, part in parts(whole).items():
        means = ", ".join(f"{way} {part[f'{way} %'].mean():.1f} %" for way in SAVED)
        print(f"mean saved by {title}: {means}")
    known = of_all()
    print(f"\nby arithmetic, means in %:\n{said_of_twelve(known).round(1).to_string(index=False)}")
    print("\n" + told(whole, known))


if __name__ == "__main__":
    main()
