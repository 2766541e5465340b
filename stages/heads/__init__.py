"""All head families by name, in display order: those of every module here that defines `FAMILY` or `FAMILIES`.

To add a family, add a file.
"""

from importlib import import_module
from pkgutil import iter_modules

from stages.heads.family import Family

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
_FOUND = [
    family for m in _MODULES for family in [*getattr(m, "FAMILIES", ()), *filter(None, [getattr(m, "FAMILY", 0)])]
]
FAMILIES: dict[str, Family] = {family.name: family for family in sorted(_FOUND, key=lambda family: family.order)}
