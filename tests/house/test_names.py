"""Public names: listed, and explained."""

import ast
import importlib
import types
from collections.abc import Iterator

import pytest

Function = ast.FunctionDef | ast.AsyncFunctionDef


def exported(module) -> list[str] | None:
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def imported_names(body: list[ast.stmt]) -> Iterator[str]:
    """What a module takes from farebox at its top, also for type checkers only."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("farebox"):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imported_names(node.body)


def is_package(module) -> bool:
    return module.where.endswith("__init__.py")


def test_only_packages_list_what_they_export(modules) -> None:
    assert [name for name, module in modules.items() if exported(module) is not None and not is_package(module)] == []


# That the lists are sorted is a rule of the linter's (RUF022).
def test_a_package_lists_all_it_takes_and_defines_and_nothing_else(modules) -> None:
    wrong = {}
    for name, module in modules.items():
        if not is_package(module):
            continue
        defined = {node.name for node in module.tree.body if isinstance(node, Function | ast.ClassDef)}
        public = {each for each in {*imported_names(module.tree.body), *defined} if not each.startswith("_")}
        differing = (public - {"lazily"}) ^ set(exported(module) or ())
        if differing:
            wrong[name] = differing
    assert wrong == {}


def test_every_exported_name_is_there_and_explains_itself(modules) -> None:
    silent = []
    for name, module in modules.items():
        for each in exported(module) or ():
            package = importlib.import_module(name)
            value = getattr(package, each)
            if isinstance(value, type | types.FunctionType | types.ModuleType) and not (value.__doc__ or "").strip():
                silent.append(f"{name}.{each}")
    assert silent == []


def test_the_face_has_about_twenty_names_and_defines_none(modules) -> None:
    face = modules["farebox"]
    assert 15 <= len(exported(face) or ()) <= 30
    assert not [node for node in face.tree.body if isinstance(node, Function | ast.ClassDef)]


def without_docstring(node: ast.AST, owner: str, spoken_for: set[str]) -> Iterator[str]:
    for each in ast.iter_child_nodes(node):
        if not isinstance(each, Function | ast.ClassDef) or each.name.startswith(("_", "test_")):
            continue  # the sentences of a conformance suite are their names
        name = f"{owner}.{each.name}"
        overloaded = any("overload" in ast.unparse(decorator) for decorator in each.decorator_list)
        if ast.get_docstring(each) is None and not overloaded and each.name not in spoken_for:
            yield name
        if isinstance(each, ast.ClassDef):
            yield from without_docstring(each, name, spoken_for)


def test_every_public_class_function_and_method_has_a_docstring(modules) -> None:
    # What implements a port is explained there.
    ports = {
        method.name
        for port in modules["farebox.core.ports"].tree.body
        if isinstance(port, ast.ClassDef)
        for method in port.body
        if isinstance(method, Function)
    }
    silent = [name for module in modules.values() for name in without_docstring(module.tree, module.name, ports)]
    assert silent == []


def test_every_module_with_something_in_it_says_what_it_is(modules) -> None:
    assert [
        name for name, module in modules.items() if module.tree.body and ast.get_docstring(module.tree) is None
    ] == []


@pytest.mark.parametrize("word", ["utils", "util", "helpers", "helper", "common", "manager", "base", "misc"])
def test_no_module_has_a_name_that_is_no_noun_of_its_own(modules, word: str) -> None:
    assert [name for name in modules if word in name.split(".")] == []
