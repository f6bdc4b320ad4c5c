"""Doing something around the first import of another package."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any


class AroundImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls a function in place of the first import of a package.

    Args:
        package: such as "keras".
        around: given the import, to be called once, and the module.
    """

    def __init__(
        self, package: str, around: Callable[[Callable[[], None], Any], None]
    ):
        self._package = package
        self._around = around
        self._is_looking = False

    def find_spec(self, fullname, path=None, target=None):
        """Takes part in the import; some only look for the package."""
        if fullname != self._package or self._is_looking:
            return None
        self._is_looking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_looking = False
        if spec is None or spec.loader is None:
            return spec
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec):
        """As the package's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Leaves the rest to the function."""
        sys.meta_path.remove(self)
        module.__spec__.loader = module.__loader__ = self._loader
        self._around(lambda: self._loader.exec_module(module), module)
