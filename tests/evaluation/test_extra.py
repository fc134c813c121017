"""A package that is not installed is one sentence, whichever it is."""

import sys

import pytest

from vilg.errors import VilgError
from vilg.evaluation.extra import PACKAGES, import_extra


@pytest.mark.parametrize("package", PACKAGES)
def test_any_missing_package_is_named_with_the_extra_that_brings_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python takes for a package that is not there.
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    for wanted in PACKAGES:
        with pytest.raises(VilgError, match=rf"^{package} not found: .*make install.*\[eval\]'.*$"):
            import_extra(wanted)


def test_what_is_installed_is_imported() -> None:
    assert import_extra("torchmetrics.functional.image").__name__ == "torchmetrics.functional.image"
