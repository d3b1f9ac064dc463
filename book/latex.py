"""LaTeX of Markdown: text, a figure, a table by booktabs. pdflatex compiles it with the packages of :data:`NEEDS`."""

import re
import textwrap
import unicodedata

import pandas as pd

from book.text import Picture, Table

NEEDS = "array, booktabs, graphicx, longtable"
GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "λ": "lambda", "μ": "mu", "σ": "sigma", "τ": "tau"}
GREEK |= {"Δ": "Delta", "Σ": "Sigma"}
IN_MATH = {"±": "pm", "×": "times", "·": "cdot", "≤": "leq", "≥": "geq", "≈": "approx", "→": "to", "ℓ": "ell", **GREEK}
NAMED = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar"}
SIGNS = {  # sign → LaTeX
    **{sign: f"\\{sign}" for sign in "&%$#{}"},
    **{sign: f"\\text{name}{{}}" for sign, name in {**NAMED, "µ": "mu"}.items()},
    **{sign: f"$\\{name}$" for sign, name in IN_MATH.items()},
    **{"_": "\\_\\allowbreak{}", "−": "$-$", "²": "$^2$", "–": "--", "—": "---", "…": "\\ldots{}", "\u00a0": "~"},
    **{"’": "'", "‘": "`", "“": "``", "”": "''", '"': "''"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # which the end of a row would take for its own
}
MARKUP = re.compile(  # of Markdown
    r"`(?P<code>[^`]+)`|\$(?P<math>[^$]+)\$|\[(?P<link>[^\]]+)\]\([^)]*\)"
    r"|\*\*(?P<textbf>[^*]+)\*\*|\*(?P<emph>[^*\s][^*]*)\*"
)
QUOTED = re.compile(r'"([^"]*)"')
MINUS = re.compile(r"(?<![\w)])-(?=\d)")
WORD = re.compile(r"[ _/]|(?<=-)")  # where a text may break
UNIT = re.compile(r",? (%|kB|ms|points|ratio)$")  # at the end of a head
LONG = 20  # rows from which on a table goes on over the next page
LINE, CELL = 85, 30  # signs of a line of a page in footnotesize; signs of a cell that may break
HEAD = 9  # signs of a line of a head that it may have over narrow cells


def escaped(text: str) -> str:
    """Plain text as LaTeX: ValueError for a sign that is no Latin letter and that :data:`SIGNS` lacks."""

    def of(sign: str) -> str:
        if sign not in SIGNS and not sign.isascii() and not unicodedata.name(sign, "").startswith("LATIN"):
            raise ValueError(f"{sign!r} (U+{ord(sign):04X}) in {text!r}: expected a sign of SIGNS in book/latex.py")
        return SIGNS.get(sign, sign)

    return "".join(map(of, QUOTED.sub(r"“\1”", MINUS.sub("−", text))))


def inline(text: str) -> str:
    """A line of Markdown as LaTeX: code, formulas and emphasis; a link is its text."""
    made, end = [], 0
    for found in MARKUP.finditer(text):
        kind, inner = found.lastgroup, found[found.lastgroup]
        made.append(escaped(text[end : found.start()]))
        if kind == "code":  # may break where a name has a sign
            made.append("\\texttt{" + re.sub("(?<=[/-])", r"\\allowbreak{}", escaped(inner)) + "}")
        elif kind == "math":
            made.append(found[0])
        else:
            made.append(inline(inner) if kind == "link" else f"\\{kind}{{{inline(inner)}}}")
        end = found.end()
    return "".join([*made, escaped(text[end:])])


def figure(picture: Picture, notes: str) -> str:
    """A picture as a figure of the file <name>.pdf; ``notes`` are LaTeX and stand below the caption."""
    short = inline(picture.title)
    lines = ["\\begin{figure}[htbp]", "\\centering", f"\\includegraphics[width=\\linewidth]{{{picture.name}.pdf}}"]
    lines += [f"\\caption[{short}]{{{short}. {inline(picture.said)}}}", f"\\label{{fig:{picture.name}}}"]
    return "\n".join([*lines, _below(notes), "\\end{figure}"]) + "\n"


def table(table: Table, notes: str) -> str:
    """A table; its notes and ``notes``, which are LaTeX, stand below.

    Too wide, it shrinks, or long texts in it break over lines. Too long, it breaks over pages.
    """
    notes, label = f"{inline(table.notes)} {notes}".strip(), f"tab:{table.name}"
    heads, widths = [UNIT.sub(r" (\1)", head) for head in table.heads], _widths(table.rows)
    long, texts = len(table.rows) > LONG, sum(widths) > LINE and max(widths) > CELL
    if long or texts:
        columns, heads = _sharing([table.heads, *table.rows], table.right), [inline(head) for head in heads]
    else:
        columns = "".join("lr"[right] for right in table.right)
        heads = [_stacked(*each) for each in zip(heads, widths, table.right, strict=True)]
    frame = pd.DataFrame([[inline(cell) for cell in row] for row in table.rows], columns=heads)
    shape = {"index": False, "escape": False, "column_format": columns}
    start = ["\\footnotesize", "\\setlength{\\tabcolsep}{4pt}"]
    if long:
        made = frame.to_latex(**shape, longtable=True, caption=inline(table.title), label=label).strip()
        return "\n".join(["\\begingroup", *start, made, f"{{\\raggedright\\noindent {notes}\\par}}", "\\endgroup", ""])
    made = frame.to_latex(**shape).strip()
    if not texts:
        made = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{made}}}"
    lines = ["\\begin{table}[htbp]", "\\centering", f"\\caption{{{inline(table.title)}}}", f"\\label{{{label}}}"]
    return "\n".join([*lines, *start, made, _below(notes), "\\end{table}", ""])


def _below(notes: str) -> str:
    return f"\\par\\smallskip\\parbox{{\\linewidth}}{{\\footnotesize\\raggedright {notes}}}"


def _widths(rows: list[list[str]]) -> list[int]:
    """The signs of each column's widest cell."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _stacked(head: str, width: int, right: bool) -> str:
    """A head in lines that are no wider than the cells below it, as far as its words allow."""
    lines = [inline(line) for line in textwrap.wrap(head, max(width, HEAD), break_long_words=False)]
    stack = " \\\\ ".join(lines)
    return f"\\begin{{tabular}}[b]{{@{{}}{'lr'[right]}@{{}}}}{stack}\\end{{tabular}}" if len(lines) > 1 else stack


def _sharing(rows: list[list[str]], right: list[bool]) -> str:
    """Columns that share a line: each has room for its longest word, and of the rest by its widest cell."""
    words = [[max(map(len, WORD.split(cell))) for cell in row] for row in rows]
    least = [max(column) + 2 for column in zip(*words, strict=True)]  # 2 for the space between columns
    wanted = [min(width, CELL) - word + 2 for width, word in zip(_widths(rows), least, strict=True)]
    spare = max(LINE - sum(least), 0) / max(sum(max(each, 0) for each in wanted), 1)
    widths = [word + spare * max(more, 0) for word, more in zip(least, wanted, strict=True)]
    kinds = [f">{{\\ragged{'left' if each else 'right'}\\arraybackslash}}p" for each in right]
    shares = [f"\\dimexpr {width / sum(widths):.3f}\\linewidth-2\\tabcolsep\\relax" for width in widths]
    return "".join(f"{kind}{{{share}}}" for kind, share in zip(kinds, shares, strict=True))
