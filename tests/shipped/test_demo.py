"""The demo: everything fixed is shown, beside what is truly nearest, in files that stay the same."""

import json
import re
import shutil
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vilg.shipped.demo
from vilg.api import Vilg
from vilg.cli import main
from vilg.data.pairs import DataError
from vilg.shipped.demo import Demo, make_demo, nearest

FIXED = json.loads((Path(vilg.__file__).parent / "assets/demo_prompts.json").read_text("utf-8"))
EMOJI = Path(__file__).parents[2] / "datasets" / "emoji"


@pytest.fixture(scope="module")
def model(toy_folder: Path) -> Vilg:
    return Vilg.from_pretrained(toy_folder)


@pytest.fixture(scope="module")
def demo(model: Vilg, toy_data: Path) -> Demo:
    return make_demo(model, toy_data, lambda line: None)


class Page(HTMLParser):
    """Collects what a test asks about a page, and checks that its tags are closed in order."""

    VOID = ("meta", "img")

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_prompts_are_the_agreed_ones_and_their_splits_are_true() -> None:
    assert [prompt["lang"] for prompt in FIXED["prompts"]] == ["zh"] * 6 + ["en"] * 6
    assert sum(prompt["split"] != "train" for prompt in FIXED["prompts"]) == 4
    members = {
        split: set((EMOJI / "splits" / f"{split}.txt").read_text().split())
        for split in ("train", "unseen_combination")
    }
    assert len(FIXED["pictures"]) == 6
    for picture in FIXED["pictures"]:
        assert picture["id"] in members[picture["split"]]


def test_all_prompts_and_pictures_are_on_the_page(demo: Demo, toy_data: Path) -> None:
    for prompt in FIXED["prompts"]:
        assert f'<h3 lang="{prompt["lang"]}">{prompt["text"]}</h3>' in demo.page
        assert prompt["gloss"] in demo.page
    for picture in FIXED["pictures"]:
        style, _, concept = picture["id"].partition("-")
        assert f"square {concept}, {style}" in demo.page
        assert f"方块{concept}，{style}" in demo.page
    assert demo.page.count('class="split unseen_combination"') == 4 + 3
    assert "$" not in demo.page


def test_the_page_is_well_formed_and_needs_nothing_from_outside(demo: Demo) -> None:
    page = Page(demo.page)
    assert page.open == []
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * 12 + 6
    for image in images:
        assert (image["src"] or "").startswith("data:image/png;base64,")
        assert image["alt"]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", demo.page)


def test_the_sheet_shows_every_picture_drawn(demo: Demo, model: Vilg) -> None:
    prompts = [prompt["text"] for prompt in FIXED["prompts"]]
    pictures = model.pictures(model.draw(prompts, [FIXED["seed"]] * len(prompts)))
    sheet = np.asarray(demo.sheet)
    for i, picture in enumerate(pictures):
        tile = np.asarray(picture.resize((128, 128), Image.Resampling.NEAREST))
        left = 20 + i % 4 * (2 * 128 + 2 * 12)
        column = sheet[:, left : left + 128]
        assert any(
            np.array_equal(column[top : top + 128], tile) for top in range(len(column) - 127)
        )


def test_nearest_is_the_smallest_mean_squared_distance() -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (23, 4, 5, 3), dtype=np.uint8)
    targets = random.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    targets[1] = pictures[7] = pictures[9]
    indices, distances = nearest(pictures, targets, chunk=5)
    for target, index, distance in zip(targets, indices, distances, strict=True):
        naive = [np.mean((target / 255 - picture / 255) ** 2) for picture in pictures]
        assert index == int(np.argmin(naive))
        assert distance == pytest.approx(min(naive), rel=1e-12)
    assert (indices[1], distances[1]) == (7, 0.0)


def test_a_data_set_without_the_fixed_pictures_is_an_error(
    model: Vilg, toy_data: Path, tmp_path: Path
) -> None:
    manifest = json.loads((toy_data / "manifest.json").read_text())
    shutil.copytree(toy_data / "splits", tmp_path / "splits")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"shards": []}))
    (tmp_path / "splits" / "train.txt").write_text("")
    with pytest.raises(DataError, match="noto-1F34C"):
        make_demo(model, tmp_path, print)


def test_the_command_writes_the_same_bytes_twice_and_says_how_long_it_took(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    toy_folder: Path,
    toy_data: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in ("demo", "again/deeper"):
        arguments = ["demo", "--out", out, "--model", str(toy_folder), "--data", str(toy_data)]
        assert main(arguments) == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines() == [f"{out}/demo.png", f"{out}/index.html"]
        assert len(re.findall(r"\d\.\d s$", captured.err, flags=re.MULTILINE)) == 4
    for name in ("demo.png", "index.html"):
        assert Path("demo", name).read_bytes() == Path("again/deeper", name).read_bytes()
    assert sorted(path.name for path in Path("demo").iterdir()) == ["demo.png", "index.html"]


@pytest.mark.parametrize("best_of", [1, 3])
def test_page_and_sheet_say_what_the_pictures_were_drawn_with(
    model: Vilg, toy_data: Path, best_of: int
) -> None:
    settings = replace(model.model.sampling, best_of=best_of, temperature=0.25)
    other = Vilg(replace(model.model, sampling=settings), model.weights_hash)
    made = make_demo(other, toy_data, lambda line: None)
    for field in fields(settings):
        value = getattr(settings, field.name)
        assert f"{field.name.replace('_', ' ')} {'off' if value is None else value}" in made.page
    assert ("the first and only one drawn" in made.page) == (best_of == 1)
    assert ("the one of 3 drawn" in made.page) == (best_of == 3)
    # The sheet's last lines are another's as soon as its settings are.
    foot = [np.asarray(sheet)[-60:] for sheet in (made.sheet, make_demo_sheet(model, toy_data))]
    assert not np.array_equal(*foot)


def make_demo_sheet(model: Vilg, data: Path) -> Image.Image:
    return make_demo(model, data, lambda line: None).sheet
