"""Import stubs for torchvision, torchaudio and av, on PYTHONPATH of the ComfyUI that the harness starts.

Their wheels need another torch than the CPU build, and no node under test uses them. Every import succeeds; whatever is
called raises, so that nothing can seem to work.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOTS = ("torchvision", "torchaudio", "av")


class _Stub(ModuleType):
    __version__ = "0.0.0"
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(_self: object, *_args: object, **_kwargs: object) -> None:
            raise NotImplementedError(f"{self.__name__}.{name}: only an import stub is installed")

        return type(name, (), {"__init__": absent, "__module__": self.__name__})


class _Finder:
    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Finder, is_package=True) if name.split(".")[0] in ROOTS else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    @staticmethod
    def exec_module(_module: ModuleType) -> None: ...


sys.meta_path.append(_Finder)
