"""Catalog: everything that one shop sells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

from farebox.catalog.capability import DEFAULT_TIMEOUT, Capability
from farebox.catalog.price import Price
from farebox.catalog.routes import RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError
from farebox.core.fiat import Fiat

F = TypeVar("F", bound=Callable[..., object])


class Catalog:
    """Capabilities in the order in which they were listed; the faces of a shop are rendered from it."""

    __slots__ = ("_by_name", "_by_resource")

    def __init__(self) -> None:
        self._by_name: dict[str, Capability] = {}
        self._by_resource: dict[str, Capability] = {}

    def sell(
        self,
        *,
        price: str | Amount | Fiat | Price,
        path: str | None = None,
        method: str = "POST",
        name: str | None = None,
        summary: str | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        rerun: bool = False,
        on_success: bool = False,
    ) -> Callable[[F], F]:
        """Put the decorated function on sale, and leave it as it is.

        Name, summary, path and schemas come from the function where they are not given. rerun: whether a paid call may
        be run again when nobody knows whether it ran. on_success: whether the node holds the money until a call has
        succeeded, where it can; else it is paid first, as ever. Raises ConfigError, and MalformedAmount for the price.
        """

        def listed(function: F) -> F:
            self.add(
                Capability.of(
                    function,
                    price=price,
                    name=name,
                    summary=summary,
                    method=method,
                    path=path,
                    timeout=timeout,
                    rerun=rerun,
                    on_success=on_success,
                )
            )
            return function

        return listed

    def add(self, capability: Capability) -> None:
        """List a ready-made capability. Raises ConfigError when its name, or its method and path, are taken."""
        resource = capability.route.resource
        if capability.name in self._by_name:
            raise ConfigError(f"The catalog has a capability called {capability.name} already.")
        if resource in self._by_resource:
            raise ConfigError(f"{self._by_resource[resource].name} is sold at {resource} already.")
        self._by_name[capability.name] = self._by_resource[resource] = capability

    def find(self, name: str) -> Capability | None:
        """The capability of this name."""
        return self._by_name.get(name)

    @property
    def routes(self) -> RouteTable:
        """The price list of this catalog."""
        return RouteTable(capability.route for capability in self)

    def __iter__(self) -> Iterator[Capability]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)
