"""The marks of the house: its folders, which way imports go, and how large each part may be."""

import ast
import re
from pathlib import Path

import pytest
from projects import ROOT

import studylib
from engine.settings import chapters
from studylib.networks import spec

PACKAGE = ROOT / "studylib"
ORDER = (  # a folder imports itself and those before it
    *("settings", "data", "networks", "disk", "training", "descent", "coding", "techniques", "tree", "results"),
    *("plots", "experiments"),
)
OF_CHAPTERS = {"plots", "experiments"}  # of single chapters; the rest is the core
WINGS = {"screening", "federated"}  # rooms of their own, which the core does not need
MOST = {"core": 11_000, "engine": 1_700, "profiles": 6, "figures": 136, "README": 130, "README's bytes": 11_000}
IN_FILES = {"inference", "lowrank", "quantize"}  # words of published files: they stay
BY_NAME = {"import_module", "__import__", "importlib", "eval", "exec"}  # what could run a word of a file


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names below studylib that a module imports anywhere, in functions too: ``data.datasets``, …"""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("studylib.") for name in found if name.partition(".")[0] == "studylib"}


def lines(paths) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def folders() -> list[str]:
    return [path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py"))]


def said() -> dict[str, str]:
    """Folder → what studylib's docstring says of it, in its order."""
    return dict(re.findall(r"^(\w+): (.+)$", studylib.__doc__, flags=re.M))


def test_imports_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "x.py").write_text(
        "import studylib.data.tasks\nimport os\ndef f():\n    from studylib.coding import codec as c, size\n"
    )
    assert imported(tmp_path / "x.py") == {"data.tasks", "coding.codec", "coding.size"}


def test_every_module_lives_in_a_folder_that_is_known():
    assert {folder_of(path) for path in modules()} - {"__init__"} - WINGS == set(ORDER)
    assert [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"] == ["settings"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_folder_imports_only_those_before_it(path):
    own = folder_of(path)
    allowed = set(ORDER[: ORDER.index(own) + 1]) if own in ORDER else {*ORDER, own}
    assert {name.partition(".")[0] for name in imported(path)} - allowed == set()


def test_techniques_never_import_each_other():
    for path in (PACKAGE / "techniques").glob("*.py"):
        assert not [name for name in imported(path) if name.startswith("techniques")], path.name


def test_nothing_in_studylib_knows_the_engine():
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(snakemake|papermill|engine)\b(?!_params)", text, flags=re.I), path


def test_no_word_of_a_file_is_imported_or_run():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            if isinstance(node, ast.Call):
                named = {getattr(node.func, "id", None) or ast.unparse(node.func).rpartition(".")[2]}
                named -= {"eval"} if isinstance(node.func, ast.Attribute) else set()  # a module's mode
            assert not named & BY_NAME, f"{path}: {named & BY_NAME}"


def test_what_a_stored_spec_names_is_of_a_dictionary_and_lives_below_it():
    assert spec.RESTRUCTURE.keys() >= IN_FILES
    ours = [kind for kind in spec.ARCHITECTURES.values() if not kind.__module__.startswith("test")]  # tests add others
    for named in (*ours, *spec.RESTRUCTURE.values()):
        assert named.__module__.startswith("studylib.networks."), named


def test_every_change_of_structure_that_is_recorded_can_be_built():
    written = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                pairs = {getattr(key, "value", None): value for key, value in zip(node.keys, node.values, strict=True)}
                if "module" in pairs:
                    written.add(ast.literal_eval(pairs["module"]))
    assert written == set(spec.RESTRUCTURE)


def test_the_package_says_what_lives_in_each_folder_in_the_order_of_imports():
    assert [name for name in said() if name not in WINGS] == [name for name in ORDER if name != "settings"]
    assert set(said()) == set(folders()) and "``settings``" in studylib.__doc__


@pytest.mark.parametrize("folder", folders())
def test_a_folder_says_in_a_line_what_it_holds_and_which_chapters_use_it(folder):
    docstring = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")))
    assert docstring and len(docstring.splitlines()) == 1 and docstring == said()[folder]
    assert re.search(r"\b(Every chapter|Chapters? \d[\d, and to]*)\.$", docstring)


def test_the_core_is_small():
    core = [path for path in modules() if folder_of(path) not in OF_CHAPTERS | WINGS]
    assert lines(core) < MOST["core"]


def test_the_engine_is_small():
    assert lines((ROOT / "engine").rglob("*.py")) <= MOST["engine"]


def test_profiles_are_few():
    found = [path for path in (ROOT / "papermill_params").glob("*.yaml") if path != chapters.FILE]
    assert len(found) <= MOST["profiles"]


def test_published_files_are_few():
    assert len([path for path in (ROOT / "figures").rglob("*") if path.is_file()]) <= MOST["figures"]


def test_the_readme_is_short():
    readme = ROOT / "README.md"
    assert lines([readme]) <= MOST["README"] and readme.stat().st_size <= MOST["README's bytes"]
