"""The cffi extension, loaded from the cache of native output as ``knhk_hot._native``."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from typing import Any

from knhk_hot.toolchain import NotBuilt, built

NAME = "knhk_hot._native"


def _load() -> Any:
    if NAME in sys.modules:
        return sys.modules[NAME]
    folder = built("engine")
    if folder is None:
        raise NotBuilt("native parts are missing or older than their sources: run `make setup` or `python -m knhk_hot.build`")
    path = str(next(folder.glob("_native.*.so")))
    loader = importlib.machinery.ExtensionFileLoader(NAME, path)
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    if spec is None:
        raise NotBuilt(f"{path} cannot be loaded: run `python -m knhk_hot.build --force`")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    return module


_module = _load()
ffi: Any = _module.ffi
lib: Any = _module.lib
