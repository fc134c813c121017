"""Tables say what the scores say."""

from vilg.evaluation.tables import tokenizer_tables


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
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:]]
    assert cells == [
        ["pictures", "PSNR dB", "SSIM", "retrieval", "distance x1000", "usage", "perplexity"],
        ["train", "12", "21.30", "0.812", "25.0%", "12.3 ± 0.6", "98.8%", "640"],
        ["flat", "3", "21.30", "0.812", "25.0%", "-", "98.8%", "640"],
    ]
    assert "judge" in lines[0]
