"""The command `vilg`: reads the arguments, runs a verb, and turns errors into one line.

    vilg generate "green apple, 3D render" -o apple.png

Status 0 is success, 2 bad input or a full disk, 130 Ctrl-C, 141 a reader that closed the pipe.
Nothing heavy is imported before the arguments are understood, so that `--help` is quick.
"""

import io
import os
import sys
import warnings

from vilg import __version__
from vilg.errors import VilgError, VilgWarning
from vilg.progress import abandon, say

_SUMMARY = """\
Words to pictures and pictures to words, in Chinese and English, with one model.

Every verb has a --help of its own; --version says which vilg this is."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    # A stream that is closed (>&-) is None; whatever is opened next would take its number.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # A terminal that knows no Chinese gets escapes, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        abandon(sys.stdout)
        return 128 + 13  # SIGPIPE, as a shell counts
    except KeyboardInterrupt:
        say("vilg: interrupted")
        return 128 + 2  # SIGINT
    except VilgError as error:
        say(" ".join(f"vilg: error: {error}".split()))
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say(" ".join(f"vilg: error: {place}{error.strerror or error}".split()))
        abandon(sys.stdout)
        return 2


def _run(argv: list[str]) -> int:
    if os.environ.get("NO_COLOR"):  # https://no-color.org; tyro knows a variable of its own only
        os.environ["PYTHON_TYRO_ANSI_CODES"] = "False"
    from vilg.cli import (  # noqa: F401 - importing registers
        answer_verb,
        data_verbs,
        finetune_verb,
        picture_verbs,
        plan_verb,
        verbs,
    )
    from vilg.cli.options import APP

    if argv == ["--version"]:
        print("vilg", __version__)
        return 0
    try:
        verb = APP.cli(prog="vilg", description=_SUMMARY, args=argv)
    except SystemExit as stop:  # tyro has printed the help, or what is wrong with the arguments
        return stop.code if isinstance(stop.code, int) else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VilgWarning)  # the verbs say it in their own words
        # Pillow's, from 89 million pixels on; what is too large for us is an `ImageError`.
        warnings.filterwarnings("ignore", ".*decompression bomb", RuntimeWarning)
        # Not inside tyro: it takes a ValueError, which every VilgError is, for a bad argument.
        verb.run()
    return 0
