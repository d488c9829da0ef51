from __future__ import annotations

import struct
from datetime import datetime

import pytest

from farebox.stores.postgres_text import asking, asking_for_many, translated


def test_a_parameter_has_one_number_however_often_it_is_there() -> None:
    statement = translated("SELECT :b, :a, :b")
    assert ("SELECT $1, $2, $1", ("b", "a")) == (statement.text, statement.names)


def test_a_cast_and_a_time_of_day_are_no_parameters() -> None:
    assert "SELECT $1::text, '12:30'" == translated("SELECT :it::text, '12:30'").text


def test_values_for_one_travel_as_text_whose_type_the_server_finds_out_and_bytes_as_they_are() -> None:
    given = {"a": 7, "b": b"\0\xff", "c": True, "d": None, "e": "é"}
    asked = asking(translated("SELECT :a, :b, :c, :d, :e"), given)
    assert [b"7", b"\0\xff", b"t", None, "é".encode()] == asked.values
    assert [0, 1, 0, 0, 0] == asked.formats


def test_values_for_many_travel_as_arrays() -> None:
    asked = asking_for_many(translated("SELECT unnest(:a), unnest(:b)"), [{"a": 7, "b": b"x"}, {"a": -1, "b": None}])
    numbers = struct.pack(">iiIii", 1, 0, 20, 2, 1) + struct.pack(">iq", 8, 7) + struct.pack(">iq", 8, -1)
    octets = struct.pack(">iiIii", 1, 1, 17, 2, 1) + struct.pack(">i", 1) + b"x" + struct.pack(">i", -1)
    assert [numbers, octets] == asked.values
    assert [1, 1] == asked.formats


def test_a_statement_that_reads_from_arrays_is_for_many() -> None:
    assert translated("SELECT * FROM unnest(CAST(:a AS BIGINT[])) AS asked (a)").many
    assert not translated("SELECT :a").many


def test_text_that_postgresql_can_not_keep_is_refused_and_not_cut_short() -> None:
    with pytest.raises(ValueError, match="NUL"):
        asking(translated("SELECT :a"), {"a": "a\0b"})
    with pytest.raises(ValueError, match="NUL"):
        asking_for_many(translated("SELECT unnest(:a)"), [{"a": "a\0b"}])


def test_what_has_no_type_there_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match="datetime"):
        asking(translated("SELECT :a"), {"a": datetime(2026, 1, 1)})
