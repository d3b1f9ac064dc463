"""`make bench`: every benchmark, a line each, and runs/benchmarks.json. Nothing else should be running."""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from studylib.disk import files


def main(wanted: list[str]) -> None:
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        sys.exit(f"benchmark {unknown[0]!r}: expected some of {', '.join(names)}")
    path = files.root() / "runs" / "benchmarks.json"
    results = files.read_json(path) if path.exists() else {}
    for name in wanted or names:
        for benchmark, row in importlib.import_module(f"bench_{name}").run().items():
            results[benchmark] = row
            files.write_json(path, results)
            print(
                f"{benchmark}: ours {row['ours']:.4g} {row['unit']}, other {row['other']:.4g} {row['unit']}, "
                f"ratio {row['ratio']:.3f}, n = {row['n']}" + (f" ({row['of']})" if "of" in row else ""),
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
