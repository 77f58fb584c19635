import pytest

from baselines.metrics.detectors import Detection
from baselines.metrics.geneval import Prompt, Wanted
from baselines.metrics.visor import RelationPrompt, check, relation_prompt, visor_scores

PROMPT = RelationPrompt("dog", "left of", "cat")
LEFT, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.7, 0.4, 0.9, 0.6)


def test_any_pair_with_the_right_sign_will_do():
    dog, cat = Detection("dog", 0.5, LEFT), Detection("cat", 0.5, RIGHT)
    assert check(PROMPT, [dog, cat]) == (True, True)
    swapped = [Detection("dog", 0.5, RIGHT), Detection("cat", 0.5, LEFT)]
    assert check(PROMPT, swapped) == (True, False)
    assert check(PROMPT, [*swapped, Detection("dog", 0.2, (0.8, 0, 0.9, 0.1))]) == (True, False)
    assert check(PROMPT, [*swapped, Detection("cat", 0.2, (0.9, 0, 1, 0.1))]) == (True, True)
    assert check(PROMPT, [dog]) == (False, False)
    assert check(PROMPT, [dog, Detection("cat", 0.1, RIGHT)]) == (False, False)


def test_one_object_is_not_both_of_a_pair():
    twins = RelationPrompt("dog", "left of", "dog")
    assert check(twins, [Detection("dog", 0.5, LEFT)]) == (False, False)


def test_prompts_of_geneval_that_relate_two_objects_are_visors():
    cat, above = Wanted("cat", 1), Wanted("dog", 1, position=("above", 0))
    assert relation_prompt(Prompt("position", "", (cat, above))) == RelationPrompt(
        "dog", "above", "cat"
    )
    two = Wanted("dog", 2, position=("above", 0))
    for include in ((cat,), (cat, Wanted("dog", 1)), (cat, two), (cat, above, above)):
        assert relation_prompt(Prompt("x", "", include)) is None


def test_conditional_and_unconditional_are_told_apart():
    right, wrong, missing = (True, True), (True, False), (False, False)
    found = visor_scores(
        [[right, right, wrong, missing], [missing] * 4, [right] * 4, [wrong, wrong, right, missing]]
    )
    assert found["object_accuracy"].value == pytest.approx(10 / 16)
    assert found["unconditional"].value == pytest.approx(7 / 16)
    assert found["conditional"].value == pytest.approx(7 / 10)
    assert found["conditional"].chance == 0.5
    assert [found[f"visor_{n}"].value for n in (1, 2, 3, 4)] == [0.75, 0.5, 0.25, 0.25]
