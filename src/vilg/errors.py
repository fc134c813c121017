"""The one error family that users see: a sentence that says what is wrong and what to do."""


class VilgError(ValueError):
    """Bad input or a bad setting; the command line prints it as one line and exits with 2."""


def how_to_install(extra: str) -> str:
    """Return what brings an extra; no index has vilg itself."""
    return (
        f"run `make install` in a clone of vilg, or pip install 'PLACE[{extra}]', "
        "where PLACE is the clone's folder or the wheel"
    )
