"""What is loaded by importing what. Which way imports run is kept by the contracts in .importlinter."""

import ast
import subprocess
import sys

import pytest

# Prints which modules importing something adds to those that Python itself had loaded.
LOADED = "import sys; before = {*sys.modules}; %s; print(*sorted({*sys.modules} - before))"

# Imports each module as the first of farebox's in its process; what others ship is loaded once.
EACH_ALONE = """
import importlib, sys, traceback
failed = 0
for name in sys.argv[1:]:
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "farebox"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except BaseException:
        failed += 1
        print("importing", name, "first:", traceback.format_exc())
sys.exit(bool(failed))
"""


def loaded_by(statement: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", LOADED % statement], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_ground_loads_no_socket_store_loop_or_http_client(modules) -> None:
    ground = [name for name, module in modules.items() if module.room == "core"]
    loaded = loaded_by(f"import {', '.join(ground)}")
    assert set(ground) <= loaded
    assert not {"socket", "_socket", "ssl", "sqlite3", "asyncio", "httpx", "pydantic", "structlog"} & loaded


def test_the_face_is_light_until_a_name_of_it_is_used() -> None:
    loaded = loaded_by("import farebox")
    assert "farebox" in loaded
    assert (
        not {"asyncio", "coincurve", "httpx", "pydantic", "rich", "sqlite3", "ssl", "starlette", "structlog"} & loaded
    )


def test_the_buyer_loads_nothing_of_the_seller() -> None:
    loaded = loaded_by("import farebox; farebox.Client, farebox.AsyncClient, farebox.Auth")
    assert not {"farebox.gate", "farebox.catalog", "farebox.services", "pydantic", "uvicorn", "starlette"} & loaded


@pytest.mark.full  # a quarter of a minute
def test_each_module_can_be_the_first_to_be_imported(modules) -> None:
    names = [name for name in modules if not name.endswith("__main__")]  # which runs when it is imported
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", EACH_ALONE, *names], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_nothing_inside_imports_the_face(modules) -> None:
    offenders = [
        f"{module.where}:{node.lineno}"
        for module in modules.values()
        if module.room not in ("cli", "testing")
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Import) and any(alias.name == "farebox" for alias in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "farebox"
            and any(f"farebox.{alias.name}" not in modules for alias in node.names)
        )
    ]
    assert offenders == []


@pytest.mark.parametrize("room", ["core", "catalog", "dialects", "payer"])
def test_a_room_of_pure_rules_reads_no_clock(modules, room: str) -> None:
    offenders = [
        f"{module.where}:{node.lineno}"
        for module in modules.values()
        if module.room == room
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("datetime.now", "datetime.utcnow", "time.time")
    ]
    assert offenders == []
