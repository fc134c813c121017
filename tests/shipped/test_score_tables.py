"""Tables say what the scores say."""

from vilg.shipped.score_tables import drawing_tables, tokenizer_tables


def cells_of(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_the_tokenizers_table_has_every_score_and_a_dash_for_what_cannot_be_measured() -> None:
    scores = {
        "num": 12,
        "psnr_db": 21.304,
        "ssim": 0.81249,
        "retrieval_top1": 0.25,
        "kernel_distance": {"mean": 0.01234, "standard_error": 0.00056},
        "usage": 0.9876,
        "perplexity": 640.4,
    }
    few = {**scores, "num": 3, "kernel_distance": None}
    lines = tokenizer_tables({"train": {"all": scores, "by_style": {"flat": few}}}).splitlines()
    assert cells_of(lines[1:]) == [
        ["pictures", "PSNR dB", "SSIM", "retrieval", "distance x1000", "usage", "perplexity"],
        ["train", "12", "21.30", "0.812", "25.0%", "12.3 ± 0.6", "98.8%", "640"],
        ["flat", "3", "21.30", "0.812", "25.0%", "-", "98.8%", "640"],
    ]
    assert "judge" in lines[0]


def test_the_table_of_drawings_has_floor_ceiling_and_every_gain() -> None:
    gain = {
        "top1": {"mean": 0.25, "standard_error": 0.125},
        "top5": {"mean": -0.05, "standard_error": None},
    }
    found = {
        "floor": {"top1": 0.01, "top5": 0.02},
        "best_of": {
            "1": {"top1": 0.1, "top5": 0.2, "gain": gain},
            "4": {"top1": 0.3, "top5": 0.4, "gain": gain},
        },
    }
    part = {"num": 3, "ceiling": {"top1": 0.7, "top5": 0.8}}
    languages = {"zh": found, "en": found, "both": found}
    lines = drawing_tables({"splits": {"train": part | languages}}).splitlines()
    assert cells_of(lines[1:6]) == [
        ["prompts", "top-1", "top-5", "top-1 over best of 1", "top-5 over best of 1"],
        ["train, ceiling", "3", "70.0%", "80.0%"],
        ["zh, floor", "1.0%", "2.0%"],
        ["zh, best of 1", "10.0%", "20.0%"],
        ["zh, best of 4", "30.0%", "40.0%", "+25.0% ± 12.5%", "-5.0%"],
    ]
    assert len(lines) == 1 + 1 + 1 + 3 * 3
