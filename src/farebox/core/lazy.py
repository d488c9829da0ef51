"""Names that are imported when they are first used, so that `import farebox` stays quick; and what extras bring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module


def lazily(package: str, homes: Mapping[str, str], *, needs: str | None = None) -> Callable[[str], object]:
    """A module-level `__getattr__` (PEP 562): each name is taken from its home module, or is a submodule of its own.

    needs: the extra that all of them need.
    """

    def find(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with nullcontext() if needs is None else extra(needs):
            module = import_module(home)
        value: object = module if home == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find


@contextmanager
def extra(name: str) -> Iterator[None]:
    """For what an extra brings: where it can't be imported, the ModuleNotFoundError says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        told = f"{error.msg}; it comes with: pip install 'farebox[{name}]'"
        raise ModuleNotFoundError(told, name=error.name, path=error.path) from None
