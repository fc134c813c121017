"""What verbs share: the app they register with, types of options, and JSON."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg
from tyro.extras import SubcommandApp

from vilg.errors import VilgError
from vilg.model.defaults import MOST
from vilg.progress import say

if TYPE_CHECKING:
    import torch

    from vilg.api import Vilg

APP = SubcommandApp()

DataFolder = Annotated[
    Path, arg(metavar="DIR", help_behavior_hint="(default: datasets/emoji of the clone)")
]
ModelName = Annotated[
    str | None,
    arg(
        metavar="NAME|FOLDER|HUB_ID",
        help="a shipped model's name, a model folder, or a Hugging Face Hub id",
        help_behavior_hint="(default: emoji-64)",
    ),
]
Setting = Annotated[float | None, arg(metavar="X", help_behavior_hint="(default: the model's)")]
Count = Annotated[int | None, arg(metavar="K", help_behavior_hint="(default: the model's)")]
Number = Annotated[int, arg(name="n", aliases=["-n"], metavar="K")]
PrecisionName = Annotated[
    Literal["fp32", "bf16", "int8"] | None,
    arg(metavar="fp32|bf16|int8", help_behavior_hint="(default: bf16 on CUDA, else fp32)"),
]
DeviceName = Annotated[
    str,
    arg(
        metavar="auto|cpu|cuda[:N]|mps",
        help="where to compute; auto takes an accelerator where there is one",
        help_behavior_hint="(default: auto)",
    ),
]
Adapters = Annotated[
    tuple[str, ...],
    UseAppendAction,
    arg(
        metavar="ADAPTER[=WEIGHT]",
        help="add what an adapter has learnt, by vilg finetune or by peft; may be repeated",
        help_behavior_hint="",
    ),
]
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source of pairs is read and which of its pairs: options of every verb that reads pairs."""

    format: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: recognised)")
    ] = None
    """how the pairs are kept, where it should not be guessed; an unknown name lists the known ones"""
    pictures: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the source)")
    ] = None
    """folder that the pictures lie in or below"""
    ids: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: all)")] = None
    """only the pairs whose ids stand in this file, one a line, such as kept.txt of vilg data filter"""
    translations: Annotated[
        Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")
    ] = None
    """adds the captions of a file that vilg data translate wrote of this source"""


class UsageError(VilgError):
    """Arguments that are well formed but make no sense together."""


def load(
    name: str | None,
    device: str,
    precision: str | None = None,
    lora: tuple[str, ...] = (),
) -> "Vilg":
    from vilg.api import Vilg

    return Vilg.from_pretrained(name, device=choose(device), dtype=precision, lora=lora)


def choose(name: str) -> "torch.device":
    """Return the device of a name, and say which it is where that is not the CPU.

    Of workers that torchrun started on a machine, each takes a device of its own.
    """
    from vilg.device import HOST, choose_device, described

    device = choose_device(name, int(os.environ.get("LOCAL_RANK", "0")))
    if device != HOST:
        say(f"computing on {described(device)}")
    return device


def check_number(n: int) -> None:
    if n < 1:
        raise UsageError(f"-n must be at least 1, not {n}")
    if n > MOST:
        raise UsageError(f"-n must be at most {MOST}, not {n}")


def clean(text: str) -> str:
    """Return an argument without lone surrogates, which stand for bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def print_json(values: dict[str, Any]) -> None:
    """Print one line of JSON, with escapes where the stream does not speak UTF-8."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(json.dumps(values, ensure_ascii=not is_unicode), flush=True)
