"""The measures of answers, by hand and against leaving one person out after another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilg.evaluation.vqa import is_exact, normal_answer, scores, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("The red  Car", "red car"),
        ("an apple, a pear", "apple pear"),
        ("two", "2"),
        ("dont know", "don't know"),
        ("the girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("1.5 m.", "1.5 m"),
        ("black/white", "black white"),
        ("T-shirt!", "t shirt"),
        ("U.S.A.", "usa"),
        ("红色。", "红色"),
        ("是，两个", "是 两个"),
        ("ten o.5", "10 o.5"),
        ("?", ""),
    ],
)
def test_answers_are_compared_as_the_description_says(text: str, expected: str) -> None:
    assert normal_answer(text) == expected
    assert normal_answer(expected) == expected


PEOPLE = st.lists(st.sampled_from("abcd"), min_size=4, max_size=10)


@given(st.sampled_from("abcde"), PEOPLE)
def test_accuracy_is_the_mean_over_leaving_one_out(answer: str, people: list[str]) -> None:
    each = [
        min(sum(said == answer for j, said in enumerate(people) if j != i) / 3, 1)
        for i in range(len(people))
    ]
    assert vqa_accuracy(answer, people) == pytest.approx(sum(each) / len(each))


def test_accuracy_of_ten_people_by_hand() -> None:
    found = [vqa_accuracy("a", ["a"] * n + ["b"] * (10 - n)) for n in (0, 1, 2, 3, 4, 10)]
    assert found == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


def test_the_commonest_answer_is_exact_and_so_are_its_equals() -> None:
    assert is_exact("a", ["a", "b", "a"]) and not is_exact("b", ["a", "b", "a"])
    assert is_exact("a", ["a", "b"]) and is_exact("b", ["a", "b"]) and not is_exact("c", ["a", "b"])


def test_scores_beside_those_of_a_constant_answer() -> None:
    people = [["yes"] * 4, ["Yes"] * 4, ["no"] * 4, [], ["two", "2", "two", "yes"]]
    found = scores(["yes.", "no", "no", "what", "2"], people)
    assert found is not None and found.questions == 4
    assert (found.exact, found.constant, found.constant_exact) == (0.75, "yes", 0.5)
    assert found.accuracy == pytest.approx((1 + 0 + 1 + (3 * 2 / 3 + 1) / 4) / 4)
    assert found.constant_accuracy == pytest.approx((1 + 1 + 0 + 3 / 3 / 4) / 4)
    assert scores(["yes"], [[]]) is None


def test_one_answer_a_question_has_no_accuracy() -> None:
    found = scores(["red", "blue"], [["Red"], ["green"]])
    assert found is not None and found.exact == 0.5
    assert found.accuracy is None and found.constant_accuracy is None
