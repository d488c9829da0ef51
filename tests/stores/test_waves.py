from __future__ import annotations

from collections.abc import Sequence

import pytest

from farebox.stores.engine import Operation, Row, Step, Work
from farebox.stores.group_commit import Asked
from farebox.stores.waves import grouped, run_in_step


class Server:
    """Answers each statement with a row that repeats it, and remembers what came together."""

    def __init__(self) -> None:
        self.waves: list[list[str]] = []

    def __call__(self, steps: Sequence[Step]) -> list[list[Row]]:
        self.waves.append([statement for statement, _ in steps])
        return [[(f"row of {statement}",)] for statement, _ in steps]


def asks(*statements: str, about: str, fails: bool = False) -> Asked:
    """An operation that asks these, one after the other, and returns the rows it got and the time it was told."""

    def operation(now_ms: int) -> Operation[tuple[int, list[Row]]]:
        rows: list[Row] = []
        for statement in statements:
            rows += yield statement, {}
        if fails:
            raise ValueError("refused")
        return now_ms, rows

    work: Work[tuple[int, list[Row]]] = operation
    return Asked(work, about.encode())


def test_what_operations_ask_next_is_asked_together() -> None:
    server = Server()
    run_in_step([asks("a1", "a2", about="a"), asks("b1", about="b"), asks("c1", "c2", "c3", about="c")], 7, server)
    assert [["a1", "b1", "c1"], ["a2", "c2"], ["c3"]] == server.waves


def test_each_operation_gets_its_own_rows_and_its_result_has_its_place() -> None:
    results = run_in_step([asks("b1", "b2", about="b"), asks("a1", about="a")], 7, Server())
    assert [(7, [("row of b1",), ("row of b2",)]), (7, [("row of a1",)])] == results


def test_operations_about_one_thing_run_one_after_the_other() -> None:
    server = Server()
    run_in_step([asks("x1", "x2", about="x"), asks("y1", about="y"), asks("x3", about="x")], 7, server)
    assert [["x1", "y1"], ["x2"], ["x3"]] == server.waves


def test_the_statements_of_a_wave_are_in_the_order_of_what_they_are_about() -> None:
    server = Server()
    run_in_step([asks("c", about="c"), asks("a", about="a"), asks("b", about="b")], 7, server)
    assert [["a", "b", "c"]] == server.waves


def test_one_that_may_be_about_anything_runs_in_step_with_nobody() -> None:
    server = Server()
    run_in_step([asks("b", about="b"), asks("anything", about=""), asks("a", about="a")], 7, server)
    assert [["b"], ["anything"], ["a"]] == server.waves


def test_whoever_only_reads_runs_in_step_with_everybody() -> None:
    server = Server()
    run_in_step([asks("1", about=""), asks("2", about=""), asks("3", about="x")], 7, server, only_reading=True)
    assert [["1", "2", "3"]] == server.waves


def test_an_operation_that_asks_nothing_is_done_and_the_next_one_has_its_turn() -> None:
    server = Server()
    results = run_in_step([asks(about="a"), asks("a1", about="a"), asks(about="a")], 7, server)
    assert [(7, []), (7, [("row of a1",)]), (7, [])] == results
    assert [["a1"]] == server.waves


def test_what_an_operation_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="refused"):
        run_in_step([asks("a", about="a", fails=True), asks("b", about="b")], 7, Server())


def test_equal_statements_of_a_wave_are_told_with_their_places() -> None:
    assert {"x": [0, 2], "y": [1]} == grouped([("x", {}), ("y", {}), ("x", {})])
