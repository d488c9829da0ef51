"""Everything that one shop sells."""

from datetime import timedelta

import pytest

from farebox.catalog.catalog import Catalog
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError


async def summarise(text: str) -> str:
    """Summarise a text."""
    return text


def rank(user: str) -> int:
    """Rank a user."""
    return len(user)


def test_selling_leaves_the_function_as_it_is() -> None:
    assert summarise is Catalog().sell(price="21 sat")(summarise)


def test_what_is_sold_is_listed_in_order_and_found_by_name() -> None:
    catalog = Catalog()
    catalog.sell(price="21 sat")(summarise)
    catalog.sell(price=Amount.sats(1), path="/api/rank", name="rank_user", timeout=timedelta(seconds=5), rerun=True)(
        rank
    )
    assert [capability.name for capability in catalog] == ["summarise", "rank_user"]
    assert len(catalog) == 2
    found = catalog.find("rank_user")
    assert found is not None
    assert (found.path, found.timeout, found.rerun, found.function) == ("/api/rank", timedelta(seconds=5), True, rank)
    assert catalog.find("rank") is None


def test_its_routes_are_its_price_list() -> None:
    catalog = Catalog()
    catalog.sell(price="21 sat")(summarise)
    route = catalog.routes.lookup("POST", "/summarise")
    assert route is not None
    assert (route.price, route.title) == (Amount.sats(21), "summarise")


@pytest.mark.parametrize(("name", "path"), [("summarise", "/other"), ("other", "/summarise")])
def test_a_name_or_a_place_that_is_taken_is_a_configuration_error(name: str, path: str) -> None:
    catalog = Catalog()
    catalog.sell(price="21 sat")(summarise)
    with pytest.raises(ConfigError, match="already"):
        catalog.sell(price="21 sat", name=name, path=path)(rank)
    assert len(catalog) == 1


def test_one_place_can_sell_under_several_methods() -> None:
    catalog = Catalog()
    catalog.sell(price="21 sat", path="/x")(summarise)
    catalog.sell(price="21 sat", path="/x", method="PUT")(rank)
    assert {"POST", "PUT", "HEAD"} == catalog.routes.methods("/x")
