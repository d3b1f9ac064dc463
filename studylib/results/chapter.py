"""What a chapter shows: its rows and claims, read where they are published, made and kept where they are not."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from studylib import settings
from studylib.disk import files, models
from studylib.results import style, tables, verdicts
from studylib.tree.names import METRICS
from studylib.tree.node import Node
from studylib.tree.published import FILE, Published, frame, plain
from studylib.tree.rows import once

WHERE = ("threads", "device")  # settings of the study: where it is computed, not what


class Chapter:
    """A chapter in the making, or as it is published: the same cells show both::

        chapter = Chapter(node, reads=[parent], recipe=recipe, pruning=pruning)
        rounds = chapter.rows("accuracy_by_round", lambda: by_round(node.model))
        chapter.figure("accuracy_by_round", draw(rounds), rounds)
        chapter.verdicts("prune", lambda: {"imp_saved": claims.Measured(…)})

    Args:
        node: its folder, data and, where it is shown as published, that study.
        reads: folders of the models, or published files, that the rows are of, beside the node's own.
        about: where the rows come from, or what gives that, if it is not what the node says.
        key: gives JSON data of what else the rows stand on; called once, and only where nothing is published.
        records: the settings by their names in the parameters cell; SettingError if the published study has others.
    """

    def __init__(
        self,
        node: Node,
        reads: Sequence[str] = (),
        about: dict | Callable[[], dict] | None = None,
        key: Callable[[], list] = list,
        **records: Any,
    ):
        self.node, self.published, self.reads = node, node.published, [folder for folder in reads if folder]
        self.settings = {"study": node.study, **records}
        self._about, self._more, self._rows, self._claims = about, functools.cache(key), {}, {}
        style.style()
        if getattr(records.get("recipe"), "epochs", 1) == 0:
            raise settings.SettingError("recipe.epochs=0: expected at least 1 where a chapter is run")
        if self.published:
            _same(self.settings, self.published)

    @property
    def about(self) -> dict:
        """Where the rows come from: data, seeds, commit, hardware, date."""
        if self.published or self._about is None:
            return self.node.about
        return self._about() if callable(self._about) else self._about

    def show(self) -> None:
        """Says which study the page shows, and the settings in force: name, value, default, meaning."""
        tables.show_study(self.about, str(self.published.folder) if self.published else "")
        table = pd.DataFrame(settings.table(self.settings)).to_html(index=False, border=0)
        display(HTML(f"<details><summary>Settings in force</summary>{table}</details>"))

    def rows(self, name: str, make: Callable[[], list[dict] | pd.DataFrame], *key: Any) -> pd.DataFrame:
        """The table ``name``: as published, or as ``make`` gives it, which is then kept for the next time.

        Args:
            make: gives rows, dictionaries of JSON values or a table; called only where nothing is published. What it
                trains that takes minutes it keeps one by one itself (:func:`studylib.tree.rows.every`).
            key: JSON data of what decides them beside the settings, such as the digest of a function of the notebook's.
        """
        if self.published:
            return self.published.rows(name)
        path = self.node.out / "rows" / f"{name}.json"
        self._rows[name] = once(path, [name, *self._key(), *key], lambda: plain(make()))
        return frame(self._rows[name])

    def one(self, name: str, make: Callable[[], dict], *key: Any) -> dict:
        """A table of one row, as a dictionary."""
        return self.rows(name, lambda: [make()], *key).to_dict("records")[0]

    def figure(self, name: str, figure: Figure, rows: pd.DataFrame) -> None:
        """Shows ``figure``, and saves it with the ``rows`` that it was drawn from."""
        style.save_figure(figure, self.node.out / "figures" / name, rows, self.about)
        _show(figure)

    def table(self, rows: pd.DataFrame, digits: int = 2) -> None:
        """Shows ``rows`` in Markdown."""
        display(Markdown(tables.markdown_rows(rows, digits)))

    def verdicts(self, stage: str, make: Callable[[], verdicts.Found]) -> None:
        """Shows what the paper says, what was measured and the verdict, and saves the chapter: its last cell's work.

        The claims are those of ``stage`` (:data:`studylib.results.claims.CLAIMS`). ``make`` gives claim → what was
        measured, one or several; called only where nothing is published. It says where seeds are too few.
        """
        if self.published:
            _show_verdicts(stage, verdicts.from_json(self.published.content["claims"]), self.about)
            return
        self._claims = {key: found for key, found in make().items() if found is not None}
        self._save()
        if trial := verdicts.too_few_seeds(self._claims, self.about["data"]["name"]):
            display(Markdown(f"*{trial}*"))
        _show_verdicts(stage, self._claims, self.about)

    def _key(self) -> list:
        specs = [_identity(files.resolve(path)) for path in self.reads]
        made = {name: _values(record) for name, record in self.settings.items()}
        made["study"] = {key: value for key, value in made["study"].items() if key not in WHERE}
        own = self.node.model.spec["changes"] if self.node.model is not None else []
        return [made, self.node.data.identity, specs, plain(own), *self._more()]

    def _save(self) -> None:
        seeds = {row["seed"] for rows in self._rows.values() for row in rows if isinstance(row.get("seed"), int)}
        content = {
            "chapter": self.node.chapter,
            "about": {"seeds": sorted(seeds) or [self.node.study.seed], **self.about},
            "settings": {name: _values(record) for name, record in self.settings.items()},
            "metrics": {} if self.node.model is None else files.read_json(self.node.out / METRICS),
            "rows": self._rows,
            "claims": verdicts.to_json(self._claims),
        }
        files.write_json(self.node.out / FILE, content)


def _show(figure: Figure) -> None:
    display(figure)
    style.plt.close(figure)


def _show_verdicts(stage: str, measured: verdicts.Found, about: dict) -> None:
    other = about.get("other_network", "")
    display(Markdown(verdicts.table(stage, measured, about["data"]["name"], other)))


def _identity(path: Path) -> str | dict:
    """Of a published file its SHA-256, of a node's folder its spec with the checksum of the weights."""
    if path.is_file():
        return files.file_digest(path)
    models.verify(path)
    return files.read_json(path / models.SPEC)


def _values(record: Any) -> Any:
    return plain(dataclasses.asdict(record) if dataclasses.is_dataclass(record) else record)


def _same(ours: Mapping[str, Any], published: Published) -> None:
    """Raises SettingError where a setting is another than the published study's, which may have fewer."""
    for name, record in ours.items():
        known = published.content["settings"].get(name, {})
        for key, value in _values(record).items() if isinstance(known, dict) else ():
            if key in known and key not in WHERE and known[key] != value:
                raise settings.SettingError(
                    f"{name}.{key}={value!r}: {published.folder} was made with {known[key]!r}; expected that, or "
                    "published='' to make the rows here"
                )


class Beside:
    """Figures of another published study of the chapter; each caption names the study."""

    def __init__(self, folder: str, chapter: str):
        self.folder = folder
        self.published = Published(folder, chapter) if (files.resolve(folder) / f"{chapter}.json").exists() else None

    def figure(self, name: str, make: Callable[..., Figure | pd.DataFrame | str], caption: str, *more: str) -> None:
        """Shows the figure, table or HTML that ``make`` gives of its rows ``name`` and ``more``, and of which study."""
        there = self.published.content["rows"] if self.published else {}
        if not {name, *more} <= set(there):
            display(Markdown(f"*{caption}: not in this copy of {self.folder}.*"))
            return
        made = make(*(self.published.rows(each) for each in (name, *more)))
        if isinstance(made, Figure):
            _show(made)
        else:
            display(HTML(made) if isinstance(made, str) else Markdown(tables.markdown_rows(made)))
        display(Markdown(f"*{f'{caption}. {tables.where_from(self.published.about)}'.strip()}*"))

    table = figure  # so that a cell says what it shows

    def verdicts(self, stage: str) -> None:
        """What it measured for the paper's claims, if anything."""
        if self.published and self.published.content["claims"]:
            display(Markdown(f"*{tables.where_from(self.published.about)}*"))
            _show_verdicts(stage, verdicts.from_json(self.published.content["claims"]), self.published.about)
