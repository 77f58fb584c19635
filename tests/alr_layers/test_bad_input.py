"""Every bad input gets an error that names the argument, what it is, and what was expected."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import alr_layers
from tests.support.inputs import Inputs, make_inputs

B, T, D, H, W = 2, 5, 8, 4, 6

CALLS = {
    "semantic_similarity": (
        alr_layers.semantic_similarity,
        ("features", "projected_words", "lengths"),
    ),
    "text_vision_matrix": (alr_layers.text_vision_matrix, ("layout", "projected_words")),
    "alr_residual": (
        lambda *args: alr_layers.alr_residual(*args, gamma=0.1),
        ("layout", "real_layout"),
    ),
    "alr_loss": (
        lambda *args: alr_layers.alr_loss(*args, feature_dim=D),
        ("easy", "hard", "alpha", "beta"),
    ),
    "layout_mask": (alr_layers.layout_mask, ("layout",)),
    "perception_refinement_loss": (
        alr_layers.perception_refinement_loss,
        ("features", "real_features", "layout", "real_layout"),
    ),
    "style_refinement_loss": (
        alr_layers.style_refinement_loss,
        ("features", "real_features", "layout", "real_layout"),
    ),
    "ALRModule": (
        lambda *args: alr_layers.ALRModule(D, 6)(*args),
        ("features", "words", "lengths"),
    ),
    "ALRModule.layout": (
        lambda *args: alr_layers.ALRModule(D, 6).layout(*args),
        ("features", "words", "lengths"),
    ),
    "ALRLoss": (
        lambda *args: alr_layers.ALRLoss(D)(*args),
        ("layout", "real_layout", "real_features"),
    ),
    "LVRLoss": (
        lambda *args: alr_layers.LVRLoss()(*args),
        ("features", "real_features", "layout", "real_layout"),
    ),
}
LVR_ARGS = make_inputs(B, T, D, H, W).args("masked_difference")[:4]


def good(inputs: Inputs, name: str) -> Tensor:
    return torch.randn(B, 6, T) if name == "words" else getattr(inputs, name)


def spoil_rank(value: Tensor) -> Tensor:
    return value[None]


def spoil_batch(value: Tensor) -> Tensor:
    return torch.cat([value, value[:1]])


def spoil_grid(value: Tensor) -> Tensor:
    return value[..., :-1]


def spoil_dtype(value: Tensor) -> Tensor:
    return value.to(torch.int32) if value.is_floating_point() else value.float()


def spoil_device(value: Tensor) -> Tensor:
    return value.to("meta")


def spoil_type(value: Tensor) -> list[float]:
    return value.tolist()


SPOILERS = {
    spoil_rank: ValueError,
    spoil_batch: ValueError,
    spoil_grid: ValueError,
    spoil_dtype: TypeError,
    spoil_device: ValueError,
    spoil_type: TypeError,
}


# Calls in which one argument alone says what the grid is.
ONE_GRID = {"semantic_similarity", "text_vision_matrix", "ALRModule", "ALRModule.layout"}


def can_be_wrong(call: str, spoil: Callable[[Tensor], object]) -> bool:
    """Whether the spoilt argument disagrees with another."""
    if call == "layout_mask":
        return spoil not in (spoil_batch, spoil_grid, spoil_device)
    return not (call in ONE_GRID and spoil is spoil_grid)


CASES = [
    pytest.param(call, position, name, spoil, id=f"{call}-{name}-{spoil.__name__}")
    for call, (_, names) in CALLS.items()
    for position, name in enumerate(names)
    for spoil in SPOILERS
    if can_be_wrong(call, spoil)
]


@pytest.mark.parametrize(("call", "position", "name", "spoil"), CASES)
def test_every_argument_is_checked(call, position, name, spoil):
    function, names = CALLS[call]
    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    args = [good(inputs, other) for other in names]
    args[position] = spoil(args[position])
    with pytest.raises(SPOILERS[spoil]) as error:
        function(*args)
    message = str(error.value)
    assert name in message
    assert "expected" in message
    if spoil is spoil_dtype:
        assert str(args[position].dtype) in message
    if spoil in (spoil_rank, spoil_batch, spoil_grid):
        assert any(str(tuple(value.shape)) in message for value in args)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([0, 3], ValueError, r"lengths holds 0, expected 1\.\.5"),
        ([-2, 3], ValueError, r"lengths holds -2, expected 1\.\.5"),
        ([5, 6], ValueError, r"lengths holds 6, expected 1\.\.5"),
        ([5.0, 3.0], TypeError, r"lengths has dtype torch\.float32, expected an integer dtype"),
        ([True, True], TypeError, r"lengths has dtype torch\.bool"),
        (torch.tensor([5, 3], dtype=torch.uint16), TypeError, r"dtype torch\.uint16, .*int64"),
        ([3], ValueError, r"lengths has shape \(1\), expected \(2,\)"),
        ([[3, 4]], ValueError, r"lengths has shape \(1, 2\), expected \(2,\)"),
    ],
)
def test_lengths(lengths, error, message):
    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    with pytest.raises(error, match=message):
        alr_layers.semantic_similarity(
            inputs.features, inputs.projected_words, torch.as_tensor(lengths)
        )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Tensor.to_sparse, r"features is a torch\.sparse_coo tensor, expected a dense"),
        (lambda value: torch.nested.nested_tensor(list(value)), "features is a nested tensor"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn, .* of 16 bits or more"),
    ],
)
def test_tensors_that_torch_could_not_compute_with(spoil, message):
    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    with pytest.raises(TypeError, match=message):
        alr_layers.semantic_similarity(
            spoil(inputs.features), inputs.projected_words, inputs.lengths
        )


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (alr_layers.ALRModule(D, 6), ("features", "words", "lengths")),
        (alr_layers.ALRLoss(D), ("layout", "real_layout", "real_features")),
        (alr_layers.LayoutEncoder(D), ("images",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_module_left_on_another_device_is_named(module, names):
    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    args = [torch.zeros(B, 3, H, W) if n == "images" else good(inputs, n) for n in names]
    module(*args)
    message = rf"is on meta, expected cpu like the weights of {type(module).__name__}; move the mod"
    with pytest.raises(ValueError, match=message):
        module(*(value.to("meta") for value in args))


def test_a_layout_of_another_grid_is_named_before_anything_is_encoded():
    def refuse(*args: object) -> Tensor:
        raise AssertionError("nothing is to be computed")

    encoder, module = nn.Module(), alr_layers.ALRModule(D, 6)
    encoder.forward = refuse
    refine = alr_layers.LayoutRefinement(module, decode=refuse, encoder=encoder)
    features, words, lengths = torch.randn(B, D, H, W), torch.randn(B, 6, T), torch.ones(B).long()
    layout, images = module.layout(features, words, lengths), torch.rand(B, 3, H, W)
    with pytest.raises(
        ValueError, match=r"layout has shape .*like|layout has shape .* as features"
    ):
        refine(features, images[..., :1], layout, words, lengths)


def test_images_of_any_floating_dtype_are_encoded():
    encoder, images = alr_layers.LayoutEncoder(D), torch.rand(B, 3, H, W, dtype=torch.float64)
    assert torch.equal(encoder(images), encoder(images.float()))


@pytest.mark.parametrize("value", ["no", None, 1])
@pytest.mark.parametrize(
    "loss", [alr_layers.LVRLoss, lambda **given: alr_layers.ALRLoss(D, **given)]
)
def test_options_that_merely_count_as_true_or_false(loss, value):
    with pytest.raises(TypeError, match=r"detach_target is a .*, expected True or False"):
        loss(detach_target=value)


def test_what_explain_is_given():
    with pytest.raises(TypeError, match="tensors holds a int, expected tensors alone"):
        alr_layers.explain("semantic_similarity", 1, 2, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_any_integer_lengths_will_do(dtype):
    inputs = make_inputs(B, T, D, H, W)
    args = (inputs.features, inputs.projected_words)
    wanted = alr_layers.semantic_similarity(*args, inputs.lengths)
    assert torch.equal(alr_layers.semantic_similarity(*args, inputs.lengths.to(dtype)), wanted)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: alr_layers.ALRLoss(8, gamma=1.5), ValueError, r"gamma is 1\.5"),
        (lambda: alr_layers.ALRLoss(8, gamma=-0.1), ValueError, r"gamma is -0\.1"),
        (lambda: alr_layers.ALRLoss(8, gamma=float("nan")), ValueError, "gamma is nan"),
        (lambda: alr_layers.ALRLoss(8, gamma="0.1"), TypeError, "gamma is a str"),
        (lambda: alr_layers.ALRLoss(8, normalization="l2"), ValueError, "normalization is 'l2'"),
        (lambda: alr_layers.ALRLoss(8, backend="cuda"), ValueError, "backend is 'cuda'"),
        (lambda: alr_layers.ALRLoss(8, max_words=0), ValueError, "max_words is 0"),
        (lambda: alr_layers.ALRLoss(0), ValueError, "feature_dim is 0"),
        (lambda: alr_layers.LVRLoss(mask="firm"), ValueError, "mask is 'firm'"),
        (lambda: alr_layers.LVRLoss(normalization="max"), ValueError, "normalization is 'max'"),
        (lambda: alr_layers.LVRLoss(backend="gpu"), ValueError, "backend is 'gpu'"),
        (lambda: alr_layers.ALRModule(8, -1), ValueError, "word_dim is -1"),
        (lambda: alr_layers.ALRModule(8.0, 6), TypeError, "feature_dim is a float"),
        (lambda: alr_layers.ALRModule(8, 6, backend="x"), ValueError, "backend is 'x'"),
        (lambda: alr_layers.LayoutEncoder(8, downsample=3), ValueError, "downsample is 3"),
        (lambda: alr_layers.LayoutEncoder(8, width=0), ValueError, "width is 0"),
        (
            lambda: alr_layers.LayoutRefinement(alr_layers.ALRModule(8, 6), decode=None),
            TypeError,
            "decode is a NoneType",
        ),
        (
            lambda: alr_layers.LayoutRefinement(
                alr_layers.ALRModule(8, 6), decode=nn.Identity(), use_lvr="no"
            ),
            TypeError,
            "use_lvr is a str",
        ),
        (
            lambda: alr_layers.perception_refinement_loss(*LVR_ARGS, normalization="l2"),
            ValueError,
            "normalization is 'l2'",
        ),
    ],
)
def test_options(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_number_of_words():
    inputs = make_inputs(B, T, D, H, W)
    words = inputs.projected_words[..., :-1]
    with pytest.raises(ValueError, match=r"projected_words has shape .* expected T = 5 words"):
        alr_layers.text_vision_matrix(inputs.layout, words)
    with pytest.raises(ValueError, match=r"lengths holds 5, expected 1\.\.4"):
        alr_layers.semantic_similarity(inputs.features, words, inputs.lengths)


def test_channels_are_those_the_module_was_built_for():
    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    words = torch.randn(B, 6, T)
    with pytest.raises(ValueError, match=r"features has shape .* expected 9 channels"):
        alr_layers.ALRModule(9, 6)(inputs.features, words, inputs.lengths)
    with pytest.raises(ValueError, match=r"words has shape .* expected 7 channels"):
        alr_layers.ALRModule(8, 7)(inputs.features, words, inputs.lengths)
    with pytest.raises(ValueError, match=r"real_features has shape .* expected 9 channels"):
        alr_layers.ALRLoss(9)(inputs.layout, inputs.real_layout, inputs.real_features)
    with pytest.raises(ValueError, match="K = 4 channels, expected at least the T = 5"):
        args = inputs.args("closing_reduction")
        alr_layers.alr_loss(*args[:2], args[2][:, :4], args[3][:, :4], feature_dim=4)


def test_encoder_input():
    with pytest.raises(ValueError, match=r"images has shape .* expected 3 channels"):
        alr_layers.LayoutEncoder(8)(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="sides divisible by downsample = 4"):
        alr_layers.LayoutEncoder(8, downsample=4)(torch.zeros(1, 3, 8, 6))
    with pytest.raises(TypeError, match=r"images has dtype torch\.uint8"):
        alr_layers.LayoutEncoder(8)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("images", "decoded", "message"),
    [
        ((B, 3, 2 * H, 2 * W), (B, 3, 2 * H, 2 * W), "encoder turns real_images .* downsample"),
        ((B, 3, H, W), (B, 3, 2 * H, 2 * W), r"decode returned images of shape \(2, 3, 8, 12\)"),
        ((B + 1, 3, H, W), (B, 3, H, W), "real_images has shape .* the same B as features"),
    ],
)
def test_refinement_input(images, decoded, message):
    class Host(nn.Module):
        def forward(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
            return torch.zeros(decoded)

    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    refine = alr_layers.LayoutRefinement(alr_layers.ALRModule(D, 6), decode=Host())
    args = (inputs.features, inputs.layout, torch.zeros(images), torch.randn(B, 6, T))
    with pytest.raises(ValueError, match=message):
        refine(*args, inputs.lengths)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(B, D, H), r"features has shape \(2, 8, 4\), expected 4 dimensions"),
        ([0.0], "features is a list"),
    ],
)
def test_refinement_names_features_of_another_kind(features, message):
    inputs = make_inputs(B, T, D, H, W, dtype=torch.float32)
    refine = alr_layers.LayoutRefinement(alr_layers.ALRModule(D, 6), decode=nn.Identity())
    with pytest.raises((ValueError, TypeError), match=message):
        refine(
            features, inputs.layout, torch.zeros(B, 3, H, W), torch.randn(B, 6, T), inputs.lengths
        )


def test_values_are_not_looked_at_off_the_cpu():
    """A meta tensor has no values: reading one would raise."""
    inputs = make_inputs(B, T, D, H, W).mapped(lambda value: value.to("meta"))
    layout = alr_layers.semantic_similarity(
        inputs.features, inputs.projected_words, inputs.lengths.to("meta")
    )
    assert layout.shape == (B, T, H, W)
    assert alr_layers.ALRLoss(D).to("meta")(layout, layout, inputs.features).shape == ()
    args = (inputs.features, inputs.real_features, layout, layout)
    assert alr_layers.LVRLoss()(*args).shape == ()
