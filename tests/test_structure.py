"""The shape of the package: names of classes, and where Lightning's private attributes are touched."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest
from lightning.pytorch import LightningModule, Trainer
from torch import nn

ROOT = Path(__file__).parents[1] / "curvwatch"
MODULES = sorted(ROOT.rglob("*.py"))
# the one room that may touch them, below `ROOT`
ADAPTER = Path("training", "lightning")
# variables that hold an object of Lightning's, as whose attribute or by whose name they come
LIGHTNING_OBJECTS = {
    "trainer",
    "pl_module",
    "fit_loop",
    "epoch_loop",
    "batch_loop",
    "automatic_optimization",
    "manual_optimization",
    "optimizer_loop",
    "loops",
    "strategy",
    "lightning",
}


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("__")


# a module's own attribute of such a name is no use of Lightning's
LIGHTNING_NAMES = {
    name for owner in (LightningModule, Trainer) for name in dir(owner) if is_private(name)
} - set(dir(nn.Module))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_no_two_classes_share_a_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: where for name, where in places.items() if len(where) > 1}


def private_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each use of a private name of Lightning's.

    That is an attribute `_x` of a name or an attribute in `LIGHTNING_OBJECTS`, also by `getattr`, or of
    a name that is imported from lightning; a private name or module in such an import; and one of
    `LIGHTNING_NAMES` as a string, or as an attribute of anything but `self`.
    """
    known = LIGHTNING_OBJECTS | {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and is_lightning(node)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if is_private_use(node, known):
            yield node.lineno, ast.unparse(node)


def is_private_use(node: ast.AST, known: set[str]) -> TypeGuard[ast.expr | ast.stmt]:
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        owner = last_name(node.value)
        return owner in known or (node.attr in LIGHTNING_NAMES and owner != "self")
    if isinstance(node, ast.Constant):
        return node.value in LIGHTNING_NAMES
    if isinstance(node, ast.Call) and last_name(node.func) in {"getattr", "setattr", "hasattr"}:
        name = node.args[1]
        is_hidden = isinstance(name, ast.Constant) and is_private(name.value)
        return is_hidden and last_name(node.args[0]) in known
    if isinstance(node, (ast.Import, ast.ImportFrom)) and is_lightning(node):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        parts = ".".join([module, *(alias.name for alias in node.names)]).split(".")
        return any(map(is_private, parts))
    return False


def is_lightning(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    return any(name.split(".")[0] in {"lightning", "pytorch_lightning"} for name in names)


def last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, of `c` and of `a.c()`; "" of anything else."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def test_private_attributes_of_lightning_are_touched_in_one_room() -> None:
    uses = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in MODULES
        if ADAPTER not in path.relative_to(ROOT).parents
        for line, text in private_uses(tree_of(path))
    ]
    assert not uses


@pytest.mark.parametrize(
    "text",
    [
        "trainer._x",
        "self.trainer._x.y",
        "trainer.fit_loop._x",
        "pl_module._x = 1",
        "getattr(trainer, '_x', None)",
        "from lightning.pytorch.trainer import call\ncall._x()",
        "from lightning.pytorch import loops\nloops._x",
        "from lightning.pytorch.utilities._pytree import x",
        "import lightning.pytorch._graveyard",
        "from lightning.pytorch.trainer.call import _x",
        "hooks = ('_on_before_batch_transfer',)",
        "module._on_before_batch_transfer()",
    ],
)
def test_private_uses_are_found(text: str) -> None:
    assert len(list(private_uses(ast.parse(text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "trainer.x",
        "self._trainer.x",
        "self._x",
        "self._run()",
        "trainer.__class__",
        "from torch import _C",
    ],
)
def test_other_uses_are_not(text: str) -> None:
    assert not list(private_uses(ast.parse(text)))
