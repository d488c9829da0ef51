"""Types, money, time and the environment: what stands where."""

import ast
import re

import pytest

MONEYED = ("core", "gate", "payer", "catalog", "dialects", "stores", "lightning")
THE_ONE_THAT_CONVERTS = "farebox.core.amount"


@pytest.mark.parametrize("room", ["core", "gate", "payer"])
def test_nothing_is_of_any_type_in_the_ground_and_the_front_rooms(modules, room: str) -> None:
    rooms = [module for module in modules.values() if module.room == room]
    offenders = [
        f"{module.where}:{node.lineno}"
        for module in rooms
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")
    ]
    assert rooms
    assert offenders == []


@pytest.mark.parametrize("room", MONEYED)
def test_only_the_amount_knows_how_many_millisatoshis_a_satoshi_has(modules, room: str) -> None:
    offenders = []
    for module in modules.values():
        if module.room != room or module.name == THE_ONE_THAT_CONVERTS:
            continue
        lines = module.text.splitlines()
        offenders += [
            f"{module.where}:{node.lineno}"
            for node in ast.walk(module.tree)
            # `# ms` marks a count of milliseconds or of something else that is no money.
            if isinstance(node, ast.Constant)
            and type(node.value) in (int, float)
            and node.value in (1000, 100_000_000_000)
            and not re.search(r"#.*\bms\b", lines[node.lineno - 1])
        ]
    assert offenders == []


def test_only_the_command_line_reads_the_environment(modules) -> None:
    offenders = [
        f"{module.where}:{node.lineno}"
        for module in modules.values()
        if module.room != "cli"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and ast.unparse(node) in ("os.environ", "os.getenv", "environ", "getenv")
    ]
    assert offenders == []


OUR_OWN_JSON = ("testing", "stores")
WRITTEN_BY_US = ("farebox.cli.demo", "farebox.cli.state", "farebox.nostr.link")


def test_what_strangers_write_as_json_is_read_to_a_bounded_depth(modules) -> None:
    """`farebox.core.json_text` reads it; the rest is what was written by this very program."""
    offenders = [
        f"{module.where}:{node.lineno}"
        for module in modules.values()
        if module.room not in OUR_OWN_JSON and module.name not in WRITTEN_BY_US
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load")
    ]
    assert offenders == []


def test_no_error_is_defined_outside_the_tree(modules) -> None:
    tree = {node.name for node in modules["farebox.core.errors"].tree.body if isinstance(node, ast.ClassDef)}
    tree.add("FareboxError")  # its root, which stands by itself
    offenders = [
        f"{module.where}:{node.lineno} {node.name}"
        for module in modules.values()
        if module.name != "farebox.core.errors"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and tree & {ast.unparse(each).rpartition(".")[2] for each in node.bases}
    ]
    assert offenders == []
