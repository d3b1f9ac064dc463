"""Sphinx's settings for the book. Its sources are what stage.py wrote, and no page asks for anything outside."""

import dataclasses
import functools
import inspect
import itertools
import pydoc
import re
import tomllib
import typing

from docutils import nodes
from latex2mathml.converter import convert
from pydantic.fields import FieldInfo
from sphinx.errors import ExtensionError

from book import check
from book.stage import BOOK, ROOT, RST, Cited
from studylib import settings

project = "Neural-network compression, every combination"
author = "The authors of the study"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_nb", "sphinxcontrib.bibtex", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["README.md", "figures"]  # of which index.md includes parts, and pages show pictures
numfig = True
numfig_format = {"figure": "Figure %s", "table": "Table %s"}
nitpicky = True  # a name of the package that nothing answers to is an error
nitpick_ignore = [("py:class", "studylib.settings.T"), ("py:class", "studylib.tree.rows.Found")]  # stand for any type
nitpick_ignore_regex = [("py:.*", r"(?!studylib\.).*")]

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_block"]
myst_heading_anchors = 4

bibtex_bibfiles = [str(BOOK / "references.bib")]
bibtex_reference_style = "author_year"

add_module_names = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_mock_imports = ["flwr"]  # an extra, which the book does without

html_theme = "furo"
html_title = project.partition(",")[0]  # it fits beside a phone's buttons
html_static_path = [str(BOOK / "style.css")]
html_css_files = ["style.css"]
html_show_copyright = html_copy_source = html_show_sourcelink = False
html_show_search_summary = False  # a summary would be fetched, and a file asks for nothing
html_math_renderer = "mathml"


def draw_math(writer, node) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    writer.body.append(convert(node.astext(), display="block" if isinstance(node, nodes.math_block) else "inline"))
    raise nodes.SkipNode


def is_record(thing) -> bool:
    """Whether ``thing`` is a record of settings."""
    made = inspect.isclass(thing) and thing.__dict__.get("__post_init__")
    return dataclasses.is_dataclass(thing) and bool(made) and made.__module__ == settings.__name__


def with_sources(app, what, name, thing, options, lines: list[str]) -> None:
    """Makes a docstring what Sphinx reads: sources cited, signs as they stand; a record's settings are listed."""
    if getattr(thing, "__module__", name).startswith("studylib") or what == "module":
        places = [*itertools.accumulate(name.split("."), "{}.{}".format), getattr(thing, "__module__", name)]
        as_it_stands = functools.partial(_as_it_stands, places)
        text = "\n".join(line if line.startswith("    ") else MEANT.sub(as_it_stands, line) for line in lines)
        lines[:] = cited.link(text, RST).split("\n")
    for field in dataclasses.fields(thing) if is_record(thing) else ():
        marks = getattr(typing.get_type_hints(thing, include_extras=True)[field.name], "__metadata__", ())
        meaning = next((mark.description for mark in marks if isinstance(mark, FieldInfo)), "")
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = "" if made is dataclasses.MISSING else f" = {made!r}"
        lines += ["", f"* ``{field.name}{default}``: {meaning}"]


def without_marks(app, what, name, thing, options, signature, returned):
    """A record's signature without the bounds of its types, which its settings list."""
    return ("(…)", None) if is_record(thing) else None


def checked(app, error) -> None:
    """Ends the build where a link of a page leads nowhere, or a page asks for something outside."""
    if not error and (found := check.wrong(app.outdir)):
        raise ExtensionError("\n".join(found))


def _as_it_stands(places: list[str], found: re.Match) -> str:
    """A sign that is no markup here as such; a constant, which has no entry, by its name if a place has it."""
    if constant := found["constant"]:
        if all(pydoc.locate(place) is None for place in (constant, *(f"{place}.{constant}" for place in places))):
            raise ExtensionError(f"{places[-2]}: {found[0]}: nothing has that name")
        return f"``{constant.rpartition('.')[2]}``"
    return f"\\{found[0]}" if found["sign"] else found[0]


cited = Cited()
MEANT = re.compile(r"``.*?``|:data:`(?P<constant>[\w.]+)`|:[\w:]+:`.*?`|(?P<sign>\||(?<=\w)_(?!\w))")


def of_scikit_learn(app, what, name, thing, skip, options) -> bool | None:
    """Leaves out what scikit-learn hangs on an estimator; its docstrings name pages of its own."""
    return True if getattr(thing, "__module__", "").startswith("sklearn.") else None


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (draw_math, None), (draw_math, None))
    app.connect("autodoc-process-docstring", with_sources)
    app.connect("autodoc-process-signature", without_marks)
    app.connect("autodoc-skip-member", of_scikit_learn)
    app.connect("build-finished", checked)
