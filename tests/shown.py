"""Pages whose outputs are made by their code: a Python block's output stands in the text block behind it.

python tests/shown.py docs/why.md

writes the outputs anew.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"(^```python\n(.*?)^```\n\n```text\n)(.*?)(^```$)", flags=re.M | re.S)


def shown(page: str) -> str:
    """``page`` with the outputs that its blocks give, one after the other in one namespace."""
    namespace: dict = {}

    def run(block: re.Match) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(block[2], namespace)
        return block[1] + output.getvalue() + block[4]

    return BLOCK.sub(run, page)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(shown(file.read_text(encoding="utf-8")), encoding="utf-8")
