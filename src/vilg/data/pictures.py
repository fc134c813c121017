"""Pictures in any folder: all that an image tokenizer needs to be trained on."""

from pathlib import Path

from vilg.data.shards import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def is_data_set(folder: Path) -> bool:
    """Say whether a folder is a data set of shards (`shards.py`)."""
    return (folder / "manifest.json").is_file()


def list_pictures(folder: Path) -> list[Path]:
    """Return the picture files in a folder and below it, sorted by path.

    Raises:
        DataError: no folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give a data set or a folder of pictures")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")
    return files
