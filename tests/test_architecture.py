"""docs/architecture.md names files, classes and functions that there are, and every room."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "curvwatch"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```python\n.*?```", "", PAGE, flags=re.DOTALL)
FIGURE = re.search(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)[1]
CODE = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))
# files that a recipe tells to write
NEW = {"negative_curvature.py", "test_negative_curvature.py", "x.py", "test_x.py"}
# classes of recipes and of other packages, and a word of Python
OTHERS = {"Trainer", "Adam", "NegativeCurvature", "MyOptimizer", "True"}
CAMEL = re.compile(r"\b[A-Z]\w*[a-z]\w*\b")


def names_of_package() -> tuple[set[str], set[str]]:
    """Classes, and all other names that the package defines, and what a recipe adds a line to."""
    classes, others = set(), set()
    elsewhere = (ROOT / "docs" / "quantities.py", ROOT / "tests" / "stability" / "test_law_edges.py")
    for file in (*PACKAGE.rglob("*.py"), *elsewhere):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes.add(node.name)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                others.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                others.add(node.id)
            elif isinstance(node, ast.arg):
                others.add(node.arg)
    return classes, others


CLASSES, OTHER_NAMES = names_of_package()
PATHS = sorted(
    text
    for text in CODE
    if re.fullmatch(r"[\w./]+", text) and (text.endswith((".py", "/", ".md", ".toml")))
)


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_is_named_is_there(path: str) -> None:
    if path.rsplit("/", 1)[-1] in NEW:
        assert (ROOT / path).parent.is_dir()
    else:
        assert any((folder / path).exists() for folder in (ROOT, PACKAGE))


def test_classes_that_are_named_are_there() -> None:
    named = {word for text in CODE for word in CAMEL.findall(re.sub(r"\(.*|[\"'].*", "", text))}
    named = {word for word in named if not word.isupper()}
    assert len(named) > 20
    assert named - CLASSES - OTHERS == set()


def test_attributes_and_functions_that_are_named_are_there() -> None:
    names = {text.split("(")[0] for text in CODE if re.fullmatch(r"[\w.]+(\(.*\))?", text)}
    names -= {n for n in names if n.endswith((".py", ".md", ".toml"))}
    parts = {part for name in names if name != "..." for part in name.split(".") if part}
    from_outside = {"param_groups", "training_step", "__post_init__", "log", "self", "pg1", "__init__"}
    parts = {p for p in parts if not re.fullmatch(r"[A-Z]\w*[a-z]\w*", p)} - from_outside
    modules = {path.stem for path in PACKAGE.rglob("*")}
    assert parts - OTHER_NAMES - CLASSES - modules == set()


def test_the_figure_has_classes_that_there_are() -> None:
    texts = re.findall(r'"([^"]+)"', FIGURE)
    named = {word for text in texts for word in CAMEL.findall(text.replace("<br>", " "))}
    assert {"LightningRun", "LoopRun", "Session", "Reader", "Recorder", "AlertEngine"} <= named
    assert named - CLASSES - {"Trainer", "Hv"} == set()


def test_every_room_is_in_the_table() -> None:
    table = PAGE.split("## Rooms")[1].split("## The path")[0]
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    modules = {p.name for p in PACKAGE.glob("*.py") if not p.name.startswith("__")}
    first = {
        cell
        for row in re.findall(r"^\| (`.*?) \|", table, re.M)
        for cell in re.findall(r"`([^`]+)`", row)
    }
    assert first == rooms | modules
    inner = {
        f"{path.parent.name}/{path.name}/"
        for path in PACKAGE.glob("*/*")
        if (path / "__init__.py").exists()
    }
    assert {room for room in inner if f"`{room}`" not in table} == set()


def test_the_order_of_the_rooms_is_that_of_the_contract() -> None:
    """A room that is named after another in pyproject.toml comes after it in the table."""
    layers = re.search(r"^layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.DOTALL)
    levels = [re.findall(r"\w+", line) for line in re.findall(r'"([^"]+)"', layers[1])]
    level = {name: i for i, names in enumerate(levels) for name in names}
    table = PAGE.split("## Rooms")[1].split("## The path")[0]
    rows = [re.findall(r"`(\w+)(?:/|\.py)`", row) for row in re.findall(r"^\| (`.*?) \|", table, re.M)]
    order = [level[name] for names in rows for name in names]
    assert order == sorted(order)
    assert sorted(name for names in rows for name in names) == sorted(level)


def test_links_lead_to_files() -> None:
    for page in (*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 180
