"""The one error family that users see: a sentence that says what is wrong and what to do."""


class VilgWarning(UserWarning):
    """Something that a caller should know of and that is no error; the command says it on stderr."""


class VilgError(ValueError):
    """Bad input or a bad setting; the command line prints it as one line and exits with 2."""


def how_to_install(extra: str) -> str:
    """Return what brings an extra; no index has vilg itself."""
    return (
        f"run `make install` in a clone of vilg, or pip install 'PLACE[{extra}]', "
        "where PLACE is the clone's folder or the wheel"
    )


class SettingError(VilgError):
    """A setting that there is not, or a value outside its range."""


def require(holds: bool, message: str) -> None:
    """Raise `SettingError` with the message unless the condition holds."""
    if not holds:
        raise SettingError(message)
