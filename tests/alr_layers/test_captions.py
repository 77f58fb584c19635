"""Lengths from masks and tokens; words and masks in the wrong form are named with the cure."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alr_layers import ALRLoss, ALRModule, LVRLoss, lengths_from_clip_tokens, lengths_from_mask
from tests.support.inputs import make_inputs

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@given(LENGTHS, st.booleans(), st.sampled_from([torch.bool, torch.uint8, torch.int64]))
def test_lengths_come_back_from_their_mask(lengths, padding, dtype):
    real = torch.arange(7) < torch.tensor(lengths)[:, None]
    mask = (~real if padding else real).to(dtype)
    found = lengths_from_mask(mask, padding=padding)
    assert found.dtype == torch.int64
    assert found.tolist() == lengths


@given(LENGTHS, st.sampled_from([0, 49407]))
def test_lengths_come_back_from_clip_tokens(lengths, padding):
    tokens = torch.full((len(lengths), 9), padding)
    for row, length in enumerate(lengths):
        tokens[row, : length + 1] = torch.arange(length + 1) + 320
        tokens[row, 0], tokens[row, length + 1] = 49406, 49407
    assert lengths_from_clip_tokens(tokens).tolist() == [length + 2 for length in lengths]
    assert lengths_from_clip_tokens(tokens, end=49407).tolist() == [n + 2 for n in lengths]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: lengths_from_mask(torch.tensor([[False, False, True]]), padding=False),
            ValueError,
            "padding before a real one, in row 0.*True marks padded words, say padding=True",
        ),
        (
            lambda: lengths_from_mask(torch.ones(2, 3).bool(), padding=True),
            ValueError,
            "no real word.*True marks real words, say padding=False",
        ),
        (
            lambda: lengths_from_mask(torch.tensor([[1, 1], [0, 1]]), padding=False),
            ValueError,
            "in row 1",
        ),
        (lambda: lengths_from_mask(torch.ones(2, 3), padding=True), TypeError, "dtype torch.float"),
        (
            lambda: lengths_from_mask(torch.ones(2, 1, 3).bool(), padding=True),
            ValueError,
            r"mask has shape \(2, 1, 3\), expected 2 dimensions",
        ),
        (lambda: lengths_from_mask([[True]], padding=True), TypeError, "mask is a list"),
        (lambda: lengths_from_mask(torch.ones(1, 1).bool(), padding=1), TypeError, "padding is a"),
        (
            lambda: lengths_from_clip_tokens(torch.tensor([[1, 9], [1, 2]]), end=9),
            ValueError,
            "no end token 9 in row 1",
        ),
        (lambda: lengths_from_clip_tokens(torch.ones(2, 3)), TypeError, "tokens has dtype"),
        (
            lambda: lengths_from_mask(torch.ones(2, 0).bool(), padding=True),
            ValueError,
            r"mask has shape \(2, 0\), expected at least one word",
        ),
        (
            lambda: lengths_from_clip_tokens(torch.ones(2, 0).long()),
            ValueError,
            r"tokens has shape \(2, 0\), expected at least one word",
        ),
        (
            lambda: lengths_from_clip_tokens(torch.ones(2, 3).bool()),
            TypeError,
            "bool, expected token ids; see lengths_from_mask",
        ),
        (lambda: lengths_from_clip_tokens(torch.ones(2, 3).long(), end="9"), TypeError, "end is a"),
        # Cut off before its end, where the highest id is the start token; and all padding.
        (
            lambda: lengths_from_clip_tokens(torch.tensor([[49406, 49407], [49406, 320]])),
            ValueError,
            "no end token in row 1",
        ),
        (lambda: lengths_from_clip_tokens(torch.zeros(1, 3).long()), ValueError, "no end token in"),
    ],
)
def test_masks_and_tokens_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_values_are_looked_at_on_the_cpu_alone():
    mask = torch.zeros(2, 3, dtype=torch.bool, device="meta")
    assert lengths_from_mask(mask, padding=True).shape == (2,)
    assert lengths_from_clip_tokens(mask.long(), end=3).shape == (2,)


def test_words_and_masks_in_a_hosts_own_form_are_named():
    inputs = make_inputs(2, 5, 8, 4, 6, dtype=torch.float32)
    words = torch.randn(2, 6, 5)
    module = ALRModule(8, 6)
    with pytest.raises(ValueError, match=r"words.transpose\(1, 2\)"):
        module(inputs.features, words.transpose(1, 2), inputs.lengths)
    padding = torch.arange(5) >= inputs.lengths[:, None]
    for mask in (padding, padding.long()):
        with pytest.raises((TypeError, ValueError), match=r"lengths_from_mask\(mask, padding="):
            module(inputs.features, words, mask)
    lengths = lengths_from_mask(padding, padding=True)
    assert torch.equal(lengths, inputs.lengths)


@pytest.mark.parametrize("shape", [(8, 6, 1, 1), (8, 6, 1), (8, 6)])
def test_a_trained_projection_becomes_a_module(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    module = ALRModule.from_conv(weight, backend="reference")
    assert (module.feature_dim, module.word_dim, module.backend) == (8, 6, "reference")
    words = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(module.word_projection(words), weight.reshape(8, 6) @ words)
    weight.zero_()
    assert module.word_projection.weight.abs().sum() > 0, "a copy"
    assert isinstance(module.word_projection.weight, torch.nn.Parameter)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.zeros(8, 6, 3, 3), ValueError, r"weight has shape \(8, 6, 3, 3\), expected"),
        (torch.zeros(8), ValueError, "weight has shape"),
        (torch.zeros(8, 6).long(), TypeError, "dtype torch.int64"),
        (torch.nn.Conv2d(6, 8, 1), TypeError, "weight is a Conv2d"),
    ],
)
def test_what_is_no_projection_is_named(weight, error, message):
    with pytest.raises(error, match=message):
        ALRModule.from_conv(weight)


def leaking(values: torch.Tensor) -> torch.Tensor:
    return values + 0.01


def test_losses_take_lengths_for_layouts_of_ones_own():
    inputs = make_inputs(3, 5, 8, 4, 6, dtype=torch.float32)
    assert int(inputs.lengths.min()) < 5
    alr, lvr = ALRLoss(8), LVRLoss()
    target = (inputs.real_layout, inputs.real_features)
    assert alr(inputs.layout, *target, inputs.lengths) == alr(inputs.layout, *target)
    args = (inputs.features, inputs.real_features, inputs.layout, inputs.real_layout)
    assert lvr(*args, lengths=inputs.lengths) == lvr(*args)
    with pytest.raises(ValueError, match=r"^layout leaves a mass of 0\.01 on padded words"):
        alr(leaking(inputs.layout), *target, inputs.lengths)
    with pytest.raises(ValueError, match=r"^real_layout leaves a mass of 0\.01"):
        lvr(*args[:3], leaking(inputs.real_layout), inputs.lengths)
    with pytest.raises(ValueError, match=r"lengths holds 9, expected 1\.\.5"):
        alr(inputs.layout, *target, torch.tensor([5, 9, 1]))


def test_where_values_cannot_be_seen_mass_on_padding_is_left_out():
    inputs = make_inputs(3, 5, 8, 4, 6, dtype=torch.float32)
    torch._dynamo.reset()
    alr = ALRLoss(8)
    compiled = torch.compile(alr, backend="aot_eager", fullgraph=True)
    padding = torch.arange(5) >= inputs.lengths[:, None]
    spoilt = inputs.layout + 0.3 * padding[:, :, None, None]
    target = (inputs.real_layout, inputs.real_features)
    torch.testing.assert_close(
        compiled(spoilt, *target, inputs.lengths), alr(inputs.layout, *target)
    )
    torch._dynamo.reset()
