"""Cosines of tiny random CLIPs against the models' own forward, and names that are no CLIP."""

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from vilg.api import Vilg
from vilg.cli.picture_files import Order, Plan
from vilg.errors import VilgError
from vilg.randomness import uniforms
from vilg.sampling.clip import ClipRanker, RankerError
from vilg.sampling.rank import Ranker

FAMILIES = ["clip", "chinese_clip", "siglip"]
SIZE = 16  # pixels a side, as the models see them
LENGTH = 12  # tokens that the text sides read
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
}
PROMPTS = {"clip": "a red apple", "chinese_clip": "红苹果", "siglip": "red apple"}


def write_word_pieces(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"红绿苹果", "red", "green", "apple"]
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def tokenizer_of(family: str, folder: Path) -> Any:
    from transformers import BertTokenizerFast, CLIPTokenizer

    if family == "clip":
        letters = "abcdefghijklmnopqrstuvwxyz"
        merges = [("a", "p</w>"), ("r", "e"), ("re", "d</w>")]
        tokens = [*letters, *(f"{x}</w>" for x in letters), *(a + b for a, b in merges)]
        tokens += ["<|startoftext|>", "<|endoftext|>"]
        vocabulary, rules = folder / "vocab.json", folder / "merges.txt"
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        rules.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        return CLIPTokenizer(vocab=str(vocabulary), merges=str(rules), model_max_length=LENGTH)
    path = str(write_word_pieces(folder))
    if family == "chinese_clip":
        return BertTokenizerFast(vocab=path)  # only the model knows how much it reads
    # SigLIP's own wants sentencepiece; what counts is that its texts have no mask.
    return BertTokenizerFast(vocab=path, model_max_length=LENGTH, model_input_names=["input_ids"])


def model_of(family: str, vocabulary_size: int) -> Any:
    import transformers

    text = TEXT | {"vocab_size": vocabulary_size}
    if family == "clip":
        ends = {"bos_token_id": vocabulary_size - 2, "eos_token_id": vocabulary_size - 1}
        config: Any = transformers.CLIPConfig(
            text_config=text | ends, vision_config=VISION, projection_dim=24
        )
        return transformers.CLIPModel(config)
    if family == "chinese_clip":
        config = transformers.ChineseCLIPConfig(
            text_config=text, vision_config=VISION, projection_dim=24
        )
        return transformers.ChineseCLIPModel(config)
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    return transformers.SiglipModel(config)


def save_clip(family: str, folder: Path, sources: Path) -> None:
    """Write a model folder with random weights, far enough apart that pictures matter."""
    from transformers import CLIPImageProcessorPil

    tokenizer = tokenizer_of(family, sources)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = model_of(family, len(tokenizer)).requires_grad_(False)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size).save_pretrained(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of each family; its name is the family's."""
    folder = tmp_path_factory.mktemp("clip") / request.param
    save_clip(request.param, folder, tmp_path_factory.mktemp("sources"))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Chinese-CLIP to damage."""
    save_clip("chinese_clip", tmp_path / "clip", tmp_path)
    return tmp_path / "clip"


def pictures(count: int) -> list[Image.Image]:
    """Coloured noise in pictures of several shapes."""
    shapes = [(24, 16), (16, 16), (20, 40)]
    made = []
    for i in range(count):
        height, width = shapes[i % len(shapes)]
        levels = uniforms(7, "pictures", i, np.arange(height * width * 3)).reshape(height, width, 3)
        made.append(Image.fromarray((levels * 256 * (i + 1) / count).astype("uint8")))
    return made


def own_cosines(folder: Path, prompt: str, images: list[Image.Image]) -> Tensor:
    """Return what the model's own forward gives, one picture at a time and without its scale."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer([prompt], return_tensors="pt", padding="max_length", max_length=LENGTH)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = []
    for image in images:
        with torch.no_grad():
            output = model(**text, **processor(images=[image], return_tensors="pt"))
        logit = output.logits_per_image[0, 0] - getattr(model, "logit_bias", 0)
        found.append(logit / model.logit_scale.exp())
    return torch.stack(found).flatten().detach()


# --- Scores -----------------------------------------------------------------------------------


def test_scores_are_the_cosines_of_the_model_itself(clip: Path) -> None:
    prompt, images = PROMPTS[clip.name], pictures(20)
    ranker: Ranker = ClipRanker.from_pretrained(clip)
    scores = ranker(prompt, images)
    assert len(scores) == 20 and max(scores) - min(scores) > 0.05
    torch.testing.assert_close(
        torch.tensor(scores), own_cosines(clip, prompt, images), rtol=0, atol=1e-5
    )


def test_another_prompt_has_other_scores(clip: Path) -> None:
    ranker = ClipRanker.from_pretrained(str(clip))
    other = PROMPTS[clip.name].replace("red", "green").replace("红", "绿")
    images = pictures(3)
    assert ranker(PROMPTS[clip.name], images) != pytest.approx(ranker(other, images), abs=1e-3)


def test_a_score_belongs_to_its_picture_and_not_to_the_batch(clip: Path) -> None:
    prompt, images = PROMPTS[clip.name], pictures(20)
    ranker = ClipRanker.from_pretrained(clip)
    scores = ranker(prompt, images)
    assert [ranker(prompt, [image])[0] for image in images] == pytest.approx(scores, abs=1e-6)
    assert ranker(prompt, images[::-1]) == pytest.approx(scores[::-1], abs=1e-6)
    assert ranker(prompt, []) == []


def test_transparency_is_white(folder: Path) -> None:
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["do_convert_rgb"] = None  # as SigLIP's are published
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    ranker = ClipRanker.from_pretrained(folder)
    clear, white = Image.new("RGBA", (16, 16), (9, 9, 9, 0)), Image.new("RGB", (16, 16), "white")
    assert ranker("苹果", [clear]) == ranker("苹果", [white])


def test_weights_in_half_precision_are_computed_with_in_single(folder: Path) -> None:
    halves = {name: x.half() for name, x in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert ClipRanker.from_pretrained(folder).model.dtype == torch.float32


def test_files_of_older_releases_give_the_same_scores(clip: Path, tmp_path: Path) -> None:
    """OpenAI's and OFA's repositories have vocabularies in parts, and sizes as plain numbers."""
    old = tmp_path / "old"
    shutil.copytree(clip, old)
    (old / "tokenizer.json").unlink()
    tokenizer_of(clip.name, old)  # leaves its vocabulary there
    settings = json.loads((old / "preprocessor_config.json").read_text())
    assert settings.pop("image_processor_type")
    settings |= {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIZE, "crop_size": SIZE}
    (old / "preprocessor_config.json").write_text(json.dumps(settings))
    prompt, images = PROMPTS[clip.name], pictures(3)
    scores = ClipRanker.from_pretrained(old)(prompt, images)
    assert scores == ClipRanker.from_pretrained(clip)(prompt, images)


def test_a_hub_id_is_read_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    images = pictures(3)
    scores = ClipRanker.from_pretrained("owner/name")("红苹果", images)
    assert scores == ClipRanker.from_pretrained(folder)("红苹果", images)


def test_a_picture_notes_who_ranked_it(folder: Path, toy_folder: Path) -> None:
    model, order = Vilg.from_pretrained(toy_folder), Order("apple", 3, Path("a.png"))
    ranker = ClipRanker.from_pretrained(folder)
    noted = [
        json.loads(Plan(model, model.settings(), judge, None).notes(order)["settings"])
        for judge in (ranker, None)
    ]
    assert noted[0] == noted[1] | {"ranker": ranker.fingerprint}
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert ClipRanker.from_pretrained(folder).fingerprint != ranker.fingerprint


# --- Errors -----------------------------------------------------------------------------------


def refusal(name: str | Path) -> str:
    """Return the sentence that refuses a name."""
    with pytest.raises(RankerError) as caught:
        ClipRanker.from_pretrained(name)
    sentence = str(caught.value)
    assert isinstance(caught.value, VilgError) and "\n" not in sentence
    return sentence


def test_a_missing_package_is_named_with_its_extra(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # type: ignore[arg-type]
    assert "make install" in refusal(clip) and "[rank]" in refusal(clip)


@pytest.mark.parametrize(
    "name", ["", "missing", "./missing", "a/b/c", "owner/na me", "owner/never-cached"]
)
def test_nothing_of_that_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said = refusal(name)
    assert f"cannot load {name} as a CLIP" in said and ("the hub says: " in said or not name)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)


def test_another_kind_of_model(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**TEXT, vocab_size=12)).save_pretrained(tmp_path)
    tokenizer_of("chinese_clip", tmp_path).save_pretrained(tmp_path)
    assert "BertModel has no features of texts and pictures" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "config.json"])
def test_a_missing_file(file: str, folder: Path) -> None:
    (folder / file).unlink()
    assert file in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_vocabulary(family: str, tmp_path: Path) -> None:
    save_clip(family, tmp_path / "clip", tmp_path)
    (tmp_path / "clip" / "tokenizer.json").unlink()
    assert "its tokenizer has no words" in refusal(tmp_path / "clip")


def test_weights_of_another_format_are_left_alone(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(folder)


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "header" in refusal(folder)


def test_weights_are_never_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "its weights lack visual_projection.weight" in refusal(folder)


def test_sides_that_cannot_be_compared(folder: Path) -> None:
    """What the files alone don't show comes out before anything is drawn."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["crop_size"] = {"height": 24, "width": 24}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    refusal(folder)


def test_code_of_a_model_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text: questions.append(text) or "y")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    assert "custom code" in refusal(folder) and questions == []


def test_a_prompt_that_is_too_long_is_not_cut(clip: Path) -> None:
    ranker = ClipRanker.from_pretrained(clip)
    longest, longer = ("red " * count for count in (LENGTH - 2, LENGTH - 1))
    ranker(longest, [])
    with pytest.raises(RankerError, match=f"{LENGTH + 1} tokens .* reads {LENGTH}: shorten it"):
        ranker(longer, [])


# --- Nothing global ---------------------------------------------------------------------------


def state() -> list[Any]:
    from transformers.utils import logging as library

    logger = logging.getLogger("transformers")
    hook = library.set_tqdm_hook(None)
    library.set_tqdm_hook(hook)
    return [
        (logger.level, list(logger.handlers), logger.propagate, hook),
        (library.is_progress_bar_enabled(), logging.root.level, list(logging.root.handlers)),
        (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
        (list(warnings.filters), dict(os.environ), torch.get_rng_state().tolist()),
    ]


def test_loading_and_scoring_say_and_change_nothing(
    clip: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").unlink()
    ClipRanker.from_pretrained(clip)  # importing parts of transformers is its own affair
    logging.getLogger("transformers").setLevel(logging.WARNING)  # its default
    before = state()
    capfd.readouterr()
    ClipRanker.from_pretrained(clip)(PROMPTS[clip.name], pictures(3))
    refusal(folder)
    assert capfd.readouterr() == ("", "")
    assert state() == before


def test_the_package_is_imported_late_and_quietly(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["superfluous"] = torch.zeros(1)  # transformers has a long report about such
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code = (
        "import sys; from vilg.sampling.clip import ClipRanker; "
        "assert 'transformers' not in sys.modules; ClipRanker.from_pretrained(sys.argv[1])"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
