import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.json_text import MOST_DEPTH, load_json

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)
SOME_TEXT = st.text(alphabet='[]{}":,\\ a\n1')


def nested(levels: int, before: str, after: str) -> str:
    return before + "[" * levels + "]" * levels + after


@given(ANY_JSON, st.booleans())
def test_it_reads_what_the_standard_reader_reads(value, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert value == load_json(text)
    assert value == load_json(text.encode("utf-8", "surrogatepass") if escaped else json.dumps(value).encode())


@given(SOME_TEXT)
def test_what_is_no_json_is_none_here_too(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(json.JSONDecodeError):
            load_json(text)
    else:
        assert expected == load_json(text)


@pytest.mark.parametrize(
    ("before", "outer", "after"),
    [("", 0, ""), ('{"a":', 1, "}"), ('["[[[[", "\\"[[", "\\\\",', 1, "]"), (" \n[[],[[]],[", 2, "]]")],
)
def test_the_last_level_that_is_read_is_the_one_that_is_named(before: str, outer: int, after: str) -> None:
    fits, deeper = (nested(MOST_DEPTH - outer + extra, before, after) for extra in (0, 1))
    assert json.loads(fits) == load_json(fits)
    assert json.loads(deeper)  # the standard reader goes on
    with pytest.raises(ValueError, match="deeper than 200 levels"):
        load_json(deeper)


@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("text", ["[", '{"a":', "[[],", '{"":{"":[', '["",['])
def test_what_would_exhaust_the_stack_is_not_gone_into(text: str, size: int) -> None:
    for told in (text * size, (text * size).encode()):
        with pytest.raises(ValueError, match="deeper than 200 levels"):
            load_json(told)


@pytest.mark.parametrize("wide", ["[" + "[]," * 10_000 + "[]]", json.dumps(["[{" * 9_000]), json.dumps({"[" * 500: 1})])
def test_what_is_wide_but_not_deep_is_read(wide: str) -> None:
    assert json.loads(wide) == load_json(wide)


@pytest.mark.parametrize("text", ['"' + '\\"' * 50_000, '["' * 50_000 + "\\", "\\" * 50_000 + '"[' * 500])
def test_a_text_that_never_ends_is_measured_once(text: str) -> None:
    """Were it gone through again from each quote, this would take minutes."""
    with pytest.raises(ValueError, match=r"deeper|Unterminated|Expecting value"):
        load_json(text)


@pytest.mark.parametrize("data", [b"\xff", '{"a":1}'.encode("utf-16"), b'"\xed\xa0\x80"'])
def test_bytes_are_utf8(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        load_json(data)


def test_a_mark_in_front_of_the_bytes_says_nothing() -> None:
    assert load_json(b'\xef\xbb\xbf{"a":1}') == {"a": 1}
