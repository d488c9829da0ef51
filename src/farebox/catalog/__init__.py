"""What is for sale: prices, capabilities, routes, and the documents rendered from them. Pure."""

from farebox.catalog.capability import Capability
from farebox.catalog.catalog import Catalog
from farebox.catalog.path import canonical
from farebox.catalog.price import Price
from farebox.catalog.pricing import pricing_document
from farebox.catalog.routes import Route, RouteTable

__all__ = ["Capability", "Catalog", "Price", "Route", "RouteTable", "canonical", "pricing_document"]
