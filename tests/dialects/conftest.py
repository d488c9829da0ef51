"""The shipped suite is a library to pytest; this lets a failing assert in it say what it compared."""

import pytest

pytest.register_assert_rewrite("farebox.testing.dialects")
