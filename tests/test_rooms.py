"""The structure that CONTRIBUTING.md describes: imports in one direction, classes that do not call in circles."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from trvae_scvi import TRVAE

sys.path.append(str(Path(__file__).resolve().parent.parent / "docs"))
rooms, commands = (importlib.import_module(name) for name in ("rooms", "commands"))

LONGEST_FILE = 400
MIXINS = [cls for cls in TRVAE.__mro__[1:] if cls.__module__.startswith("trvae_scvi")]
UPSTREAM = [cls for cls in TRVAE.__mro__ if not cls.__module__.startswith("trvae_scvi")]


def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def test_every_file_is_in_a_room_of_the_table():
    assert {rooms.room_of(file) for file in rooms.files()} == set(rooms.rooms())


@pytest.mark.parametrize("file", rooms.files(), ids=lambda file: str(file.relative_to(rooms.PACKAGE)))
def test_no_import_goes_against_the_order(file):
    place = {name: i for i, name in enumerate(rooms.rooms())}
    above = {name for name in rooms.imports(file) if place[name] > place[rooms.room_of(file)]}
    assert not above


def test_the_picture_is_that_of_the_code():
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(), "run `python docs/rooms.py`"


def test_the_page_of_the_command_line_is_that_of_the_commands():
    assert commands.PAGE.read_text(encoding="utf-8") == commands.page(), "run `python docs/commands.py`"


def test_no_two_files_have_one_name_and_none_is_long():
    names = Counter(file.name for file in rooms.files() if not file.name.startswith("__"))
    assert [name for name, n in names.items() if n > 1] == []
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in rooms.files()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


# ---- classes


def own_members(cls):
    return {name for name in vars(cls) if not (name.startswith("__") and name.endswith("__"))}


def is_itself(owner):
    """Whether an expression is `self`, `cls` or `super()`."""
    if isinstance(owner, ast.Call):
        return isinstance(owner.func, ast.Name) and owner.func.id == "super"
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def used_of_itself(cls):
    """Attributes that a class's methods take of themselves."""
    source = ast.parse(inspect.getsource(cls).strip())
    return {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute) and is_itself(node.value)}


def test_the_model_has_few_mixins():
    assert len(MIXINS) <= 3


@pytest.mark.parametrize("cls", MIXINS)
def test_a_mixin_uses_what_it_brings_itself_or_scvi_tools_declares(cls):
    """What another mixin of ours, or the model, adds to scvi-tools' classes is not called by a mixin."""
    declared = own_members(cls).union(*(dir(base) for base in UPSTREAM))
    foreign = set().union(*(own_members(other) for other in (TRVAE, *MIXINS) if other is not cls)) - declared
    assert used_of_itself(cls) & foreign == set()


def test_no_class_borrows_attributes():
    """A class says what it has, and not under `if TYPE_CHECKING` what another one will bring."""
    for file in rooms.files():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef):
                assert not any(isinstance(part, ast.If) for part in node.body), f"{file.name}: {node.name}"


class _Names(ast.NodeVisitor):
    """Names that a definition uses when it runs: those in annotations are none."""

    def __init__(self):
        self.found = set()

    def visit_Name(self, node):
        self.found.add(node.id)

    def visit_arg(self, node):
        pass

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node):
        for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]:
            self.visit(part)


def calls():
    """Classes and functions of the package, by module and name, with those they name and so may call."""
    graph = {}
    for file in rooms.files():
        module = ".".join(["trvae_scvi", *file.relative_to(rooms.PACKAGE).with_suffix("").parts])
        parsed = tree(file)
        known = {}
        for node in ast.walk(parsed):
            if isinstance(node, ast.ImportFrom):
                origin = node.module if not node.level else f"{module.rpartition('.')[0]}.{node.module}"
                known |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
        definitions = [n for n in parsed.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        known |= {node.name: f"{module}.{node.name}" for node in definitions}
        for node in definitions:
            names = _Names()
            for part in [*node.body, *getattr(node, "bases", [])]:
                names.visit(part)
            graph[f"{module}.{node.name}"] = {known[name] for name in names.found if name in known}
    return {name: {used for used in uses if used in graph and used != name} for name, uses in graph.items()}


def test_the_graph_of_calls_is_seen():
    """Else the next test would find no circle whatever there is."""
    graph = calls()
    assert "trvae_scvi.predict._predictor.Predictor" in graph["trvae_scvi.model._perturbation_mixin.PerturbationMixin"]
    assert "trvae_scvi.model._persistence_mixin.PersistenceMixin" in graph["trvae_scvi.model._trvae_model.TRVAE"]
    assert sum(map(len, graph.values())) > 500


def test_no_call_between_our_classes_goes_in_a_circle():
    graph = calls()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
        assert not circle, " -> ".join(circle)


# ---- private names


def private_names(parsed):
    """Names beginning with one underscore that are taken of something else than `self`, `cls` and `super()`."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith("trvae_scvi"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if part.startswith("_") and not part.startswith("__"))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if not is_itself(node.value):
                yield node.attr


def test_private_names_of_dependencies_are_in_one_place():
    ours = set()
    for file in rooms.files():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                ours.add(node.name)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_itself(node.value):
                ours.add(node.attr)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                ours.add(node.target.id)
    ours |= {"_fields", "_replace", "_asdict"}  # public, of named tuples
    upstream = {name for base in UPSTREAM for name in vars(base) if name.startswith("_")}
    elsewhere = {
        file.name: found
        for file in rooms.files()
        if file.name != "_compat.py" and (found := {n for n in private_names(tree(file)) if n not in ours - upstream})
    }
    assert elsewhere == {}
