"""The five pinned npm packages that the emoji data set is made of.

Apart from the build itself because everything that touches the network or trusts a download is
here: a package is used only if its bytes have the integrity hash written below.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class BuildError(ValueError):
    """The data set cannot be built from what is there; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One npm package at one version.

    `integrity` is npm's own `dist.integrity`: "sha512-" and the base64 of the archive's SHA-512.
    """

    name: str
    version: str
    integrity: str

    @property
    def file_name(self) -> str:
        """The name that `npm pack` gives the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NAMES = Package(
    name="emojibase-data",
    version="17.0.0",
    integrity="sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2"
    "SEmItljHsTygjA==",
)
NOTO = Package(
    name="@iconify-json/noto",
    version="1.2.9",
    integrity="sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rc"
    "KF0mqHYeZVAuaw==",
)
FLUENT_3D = Package(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5"
    "wRBv60lUAG3h7g==",
)
FLUENT_FLAT = Package(
    name="@iconify-json/fluent-emoji-flat",
    version="1.2.6",
    integrity="sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYv"
    "uaSYM1M4fRXlUw==",
)
TWEMOJI = Package(
    name="@twemoji/svg",
    version="15.0.0",
    integrity="sha512-ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90"
    "CcvYp1wFoQpo/w==",
)
PACKAGES = (NAMES, NOTO, FLUENT_3D, FLUENT_FLAT, TWEMOJI)


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's archive in `folder`, downloading it with npm if it is not there.

    Its integrity is checked either way: an archive that lay there already may be another build of
    the same version.
    """
    path = folder / package.file_name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _npm_pack(package, folder)
    digest = hashlib.sha512(path.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode("ascii")
    if found != package.integrity:
        raise BuildError(
            f"{path} is not {package.name} {package.version}: its integrity is {found}, expected"
            f" {package.integrity}; delete the file and run again"
        )
    return path


def _npm_pack(package: Package, folder: Path) -> None:
    wanted = f"{package.name}@{package.version}"
    command = ["npm", "pack", wanted, "--pack-destination", str(folder), "--silent"]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise BuildError(
            f"npm is not installed: install it, or put {package.file_name} into {folder}"
        ) from error
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f"npm pack {wanted} failed with exit status {error.returncode}; put"
            f" {package.file_name} into {folder} by hand"
        ) from error


def read_members(path: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """Return the archive's files whose names end in one of `suffixes`, by path in the package."""
    members: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None and member.name.endswith(suffixes):
                # npm puts every file under one top folder, most often "package/".
                members[member.name.partition("/")[2]] = stream.read()
    return members


def read_json(members: dict[str, bytes], name: str) -> Any:
    """Return the parsed JSON file `name` of a package."""
    if name not in members:
        raise BuildError(f"the package has no file {name}; its pinned version must be wrong")
    return json.loads(members[name])
