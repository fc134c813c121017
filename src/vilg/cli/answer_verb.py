"""`vilg answer`: one question about a picture, or a file of questions that is answered whole.

Results go to stdout, everything else to stderr. Torch is imported inside `run`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from vilg.cli.options import (
    APP,
    Adapters,
    DeviceName,
    Flag,
    ModelName,
    Number,
    PrecisionName,
    UsageError,
    check_number,
    clean,
    load,
    print_json,
)
from vilg.progress import say

if TYPE_CHECKING:
    from vilg.evaluation.vqa import Scores


@APP.command(name="answer")
@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer questions about pictures, in the language of the question.

    The model must have been trained on questions, which the shipped one was not: name yours by --model.

    Example: vilg answer apple.png "what colour is the apple?"

    Example: vilg answer apple.png "what is it?" --choices apple pear "green heart"

    Example: vilg answer --questions questions.jsonl -o answers.json
    """

    image: Annotated[Path | None, Positional, arg(metavar="IMAGE", help_behavior_hint="")] = None
    """a picture file"""
    question: Annotated[str | None, Positional, arg(metavar="QUESTION", help_behavior_hint="")] = (
        None
    )
    """what to answer, in Chinese or English"""
    lang: Annotated[
        str | None, arg(metavar="zh|en", help_behavior_hint="(default: the question's)")
    ] = None
    """language of the answers"""
    n: Number = 1
    """how many answers, the likeliest first"""
    choices: Annotated[tuple[str, ...], arg(metavar="TEXT...", help_behavior_hint="")] = ()
    """the only answers that there are: the one that is likeliest as a whole is given"""
    json: Flag = False
    """print one JSON object"""
    questions: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """instead of IMAGE and QUESTION: a file of questions of VQAv2, GQA or FM-IQA, or any source of pairs"""
    format: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: recognised)")
    ] = None
    """what the file of questions is, where it should not be guessed"""
    pictures: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the file)")
    ] = None
    """folder that its pictures lie in or below"""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE.json", help_behavior_hint="")] = (
        None
    )
    """where the answers to a file go, in the form of VQAv2's results; the same command goes on after a kill"""
    precision: PrecisionName = None
    """bf16 and int8 round the weights: faster, where the processor can; an answer may change"""
    model: ModelName = None
    lora: Adapters = ()
    device: DeviceName = "auto"

    def run(self) -> None:
        check_number(self.n)
        if self.questions is not None:
            self._answer_file(self.questions)
            return
        if self.image is None or self.question is None:
            raise UsageError(
                'name a picture and ask, as in: vilg answer apple.png "what is it?", or give --questions FILE'
            )
        if self.out or self.format or self.pictures:
            raise UsageError("--out, --format and --pictures go with --questions FILE")
        from vilg.images import open_picture

        picture, question = open_picture(self.image), clean(self.question)
        choices = [clean(choice) for choice in self.choices] or None
        model = load(self.model, self.device, self.precision, self.lora)
        answers = model.answer(picture, question, self.lang, self.n, choices=choices)
        for text in (question, *(choices or ())):
            if unknown := model.text_tokenizer.unknown_characters(text):
                say(f"these characters are not in the model's vocabulary: {unknown}")
        if self.json:
            about = {"image": str(self.image), "question": question, "answers": answers}
            print_json(about | {"log_probs": [answer.log_prob for answer in answers]})
        else:
            print(*answers, sep="\n", flush=True)

    def _answer_file(self, questions: Path) -> None:
        from vilg.cli.answer_files import answer_all
        from vilg.cli.output import check_apart, check_file
        from vilg.data.sources import open_source

        if self.image or self.choices or self.n != 1:
            raise UsageError(
                "a file of questions gets one answer each: leave IMAGE, -n, --choices out"
            )
        if self.out is None:
            raise UsageError("say where the answers go: add -o answers.json")
        check_file(self.out)
        check_apart(self.out, (questions,))
        source = open_source(str(questions), self.format, self.pictures)
        say(source.recognised)
        model = load(self.model, self.device, self.precision, self.lora)
        scores, left_out = answer_all(model, source, self.out, self.lang)
        if left_out:
            say(f"without an answer: {len(left_out)}, the first is {left_out[0]}")
        if self.json:
            found: dict[str, Any] = {"results": str(self.out), "left_out": left_out}
            print_json(found | {"scores": asdict(scores) if scores else None})
            return
        print(self.out)
        if scores:
            say(_described(scores))


def _described(scores: "Scores") -> str:
    told = f"of {scores.questions} questions exactly right: {scores.exact:.1%}"
    constant = f"{scores.constant!r} to all would be {scores.constant_exact:.1%}"
    if scores.accuracy is None or scores.constant_accuracy is None:
        return f"{told}; {constant}"
    return f"{told}, VQA accuracy {scores.accuracy:.1%}; {constant}, {scores.constant_accuracy:.1%}"
