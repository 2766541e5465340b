"""All head families by name, in display order: every module here that defines `FAMILY` is one.

To add a family, add a file.
"""

from importlib import import_module
from pkgutil import iter_modules

from stages.heads.family import Family

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in sorted((m.FAMILY for m in _MODULES if hasattr(m, "FAMILY")), key=lambda family: family.order)
}
