"""How long things are."""

import ast

MOST_LINES = 400
MOST_LINES_IN_A_FUNCTION = 60


def test_no_file_is_longer_than_four_hundred_lines(modules) -> None:
    lengths = {module.where: len(module.text.splitlines()) for module in modules.values()}
    assert {where: length for where, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_is_longer_than_sixty_lines(modules) -> None:
    too_long = [
        f"{module.where}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MOST_LINES_IN_A_FUNCTION
    ]
    assert too_long == []
