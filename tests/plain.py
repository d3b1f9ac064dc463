"""Plain English, as far as a program can see it: sentences of Markdown and docstrings, and those that are too long."""

import inspect
import re
from collections.abc import Iterator

import mistune

MOST_WORDS = 20  # a sentence
_parse = mistune.create_markdown(renderer="ast", plugins=["table", "math"])
GENERATED = re.compile(r"<!-- ([\w ]+): made by make figures -->.*?<!-- end of \1 -->", flags=re.S)
SKIPPED = ("block_code", "table", "block_html", "block_math", "thematic_break", "blank_line")
END = re.compile(r"(?<=[.!?])[\"”’)*]*\s+(?=[^a-z\s])")
ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|al|cf|vs|resp|approx|[Ff]ig|[Ee]q|[Nn]o|M\.Sc|Dr)|(?<![\w.])[A-Z])\.$")
# A clause; "that" begins one before a verb or a subject, and points (that file, than that of) before anything else.
AFTER_THAT = "is|are|was|were|has|have|had|does|do|did|can|may|must|will|would|should"
AFTER_THAT += (
    r"|the|a|an|it|they|we|you|its|each|every|all|both|no|not|nothing|nobody|others|only|\w*[^\W_suia]s(?![’'])"
)
CLAUSE = re.compile(rf"\b(?:which|who|whose|whom)\b|(?<=[\w)`,]) that(?= (?:{AFTER_THAT})\b)")


def sentences(markdown: str) -> Iterator[str]:
    """The sentences of ``markdown``, list items and headings among them; not of code, tables, formulas or HTML.

    A code span or a formula has no spaces, so that it is one word; a link is its text, a picture nothing.
    """
    for block in _blocks(_parse(markdown)):
        start = ""
        for part in END.split(" ".join(block.split())):
            start = f"{start} {part}".strip()
            if not ABBREVIATED.search(start):
                yield start
                start = ""
        if start:
            yield start


def words(sentence: str) -> int:
    """How many words it has: signs that stand alone are none."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def clauses(sentence: str) -> int:
    """How many clauses of ``sentence`` begin with which, who or that; a "that" which points is none."""
    return len(CLAUSE.findall(sentence))


def long_sentences(markdown: str, most: int = MOST_WORDS) -> list[str]:
    """The sentences of more than ``most`` words, each after its number of words."""
    found = ((words(sentence), sentence) for sentence in sentences(markdown))
    return [f"{count} words: {sentence}" for count, sentence in found if count > most]


def nested_sentences(markdown: str) -> list[str]:
    """The sentences of two clauses and more that begin with which, who or that."""
    return [sentence for sentence in sentences(markdown) if clauses(sentence) > 1]


def without_generated(markdown: str) -> str:
    """``markdown`` without what `make figures` writes between its markers."""
    return GENERATED.sub("", markdown)


def of_docstring(text: str) -> str:
    """A docstring as Markdown: an item an argument, literal blocks, tables and examples left out."""
    lines, literal, example, section, table = [], False, False, False, False
    for line in inspect.cleandoc(text).splitlines():
        indented = line.startswith("    ")
        if re.fullmatch(r"=+( +=+)+", line):
            table = not table
            lines.append("")
        if table or line.startswith("=="):
            continue
        if literal and line.strip() and not indented:
            lines.append("")
        if not line.strip():
            example = False
        elif not indented:
            literal = section = False
        example = example or line.lstrip().startswith(">>>")
        if literal or example:
            continue
        if re.fullmatch(r"[A-Z]\w+:", line):
            section = True
            lines += ["", line, ""]
        elif section and re.match(r"    [\w*][\w*, .]*: ", line):
            lines.append(f"- {line.strip()}")
        else:
            lines.append(line.strip() if section else line)
        literal = line.endswith("::")
    return "\n".join(lines)


def _blocks(tokens: list[dict]) -> Iterator[str]:
    for token in tokens:
        if token["type"] in ("paragraph", "block_text", "heading"):
            yield _text(token["children"])
        elif token["type"] not in SKIPPED:
            yield from _blocks(token["children"])


def _text(tokens: list[dict]) -> str:
    found = []
    for token in tokens:
        kind = token["type"]
        if kind in ("codespan", "inline_math"):
            found.append(f"`{'␣'.join(token['raw'].split())}`")
        elif kind in ("softbreak", "linebreak"):
            found.append(" ")
        elif kind not in ("image", "inline_html"):
            found.append(_text(token["children"]) if "children" in token else token["raw"])
    return "".join(found)
