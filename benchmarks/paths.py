"""The larger cases: the loss path with φ and without, φ alone, and DAMSM's words loss."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from alr_layers import ALRLoss, ALRModule, LVRLoss
from alr_layers.kernels.dispatch import implementation
from alr_layers.kernels.reference import frobenius_norm
from alr_layers.options import Backend
from baselines.losses import words_loss
from benchmarks import transcription, upstream
from benchmarks.cases import (
    GAMMA,
    WORD_DIM,
    Case,
    Function,
    Shape,
    grid,
    has_fused,
    op_cases,
    projected_words,
    random_layout,
    random_lengths,
)


def _path_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    h, real = (grid(shape.dim, shape, dtype, device) for _ in "ab")
    words = torch.randn(shape.batch, WORD_DIM, shape.words, device=device, dtype=dtype)
    torch.manual_seed(0)
    modules = ALRModule(shape.dim, WORD_DIM), ALRLoss(shape.dim, max_words=shape.words), LVRLoss()
    module, alr, lvr = (part.to(device, dtype) for part in modules)
    return h.requires_grad_(), real, words, random_lengths(shape, device), module, alr, lvr


def _path(backend: Backend) -> Function:
    def run(
        h: Tensor,
        real: Tensor,
        words: Tensor,
        lengths: Tensor,
        module: ALRModule,
        alr: ALRLoss,
        lvr: LVRLoss,
    ) -> tuple[Tensor, ...]:
        module.backend = alr.backend = lvr.backend = backend
        context, layout = module(h, words, lengths)
        with torch.no_grad():
            real_layout = module.layout(real, words, lengths)
        loss = alr(layout, real_layout, real) + lvr(h, real, layout, real_layout)
        return loss, context

    return run


def _kernels_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    h, real = (grid(shape.dim, shape, dtype, device) for _ in "ab")
    words = projected_words(shape, dtype, device).requires_grad_()
    channels = max(shape.dim, shape.words)
    weights = [grid(channels, shape, dtype, device).sigmoid().requires_grad_() for _ in "ab"]
    return h.requires_grad_(), words, *weights, real, random_lengths(shape, device)


def _kernels(path: str) -> Function:
    names = ("layout_context", "semantic_similarity", "gated_residual")
    layout_context, similarity, gate = (implementation(name, path) for name in names)
    close = implementation("layout_closing_reduction", path)
    difference = implementation("masked_difference", path)

    def run(
        h: Tensor, words: Tensor, alpha: Tensor, beta: Tensor, real: Tensor, lengths: Tensor
    ) -> tuple[Tensor, ...]:
        context, layout = layout_context(h, words, lengths)
        with torch.no_grad():
            real_layout = similarity(real, words, lengths)
        easy, hard = gate(layout, real_layout, real, GAMMA)
        easy_norm, hard_norm, highest, lowest = close(layout, real_layout, alpha, beta, GAMMA)
        distance, gram = difference(h, real, layout, real_layout, "soft")
        per_sample = easy_norm + hard_norm + torch.nn.functional.softplus(highest - lowest)
        loss = (per_sample + distance + frobenius_norm(gram)).mean()
        return loss, context, easy, hard

    return run


def _phi_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    torch.manual_seed(0)
    gate = implementation("gated_residual", "reference")
    theta, other = (random_layout(shape, dtype, device) for _ in "ab")
    gated = gate(theta, other, grid(shape.dim, shape, dtype, device), GAMMA)
    alr = ALRLoss(shape.dim, max_words=shape.words).to(device, dtype)
    return *(part.requires_grad_() for part in gated), alr


def _phi(
    easy: Tensor, hard: Tensor, alr: ALRLoss, *, backend: Backend = "reference"
) -> tuple[Tensor, ...]:
    return alr.phi_easy(easy, backend=backend), alr.phi_hard(hard, backend=backend)


def _phi_channels_last(easy: Tensor, hard: Tensor, alr: ALRLoss) -> tuple[Tensor, ...]:
    easy, hard = (part.contiguous(memory_format=torch.channels_last) for part in (easy, hard))
    return _phi(easy, hard, alr)


def _under_autocast(function: Function) -> Function:
    def run(easy: Tensor, hard: Tensor, alr: ALRLoss) -> tuple[Tensor, ...]:
        with torch.autocast(easy.device.type, torch.bfloat16):
            return function(easy, hard, alr)

    return run


def _damsm_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    regions = torch.randn(shape.batch, WORD_DIM, 17, 17, device=device, dtype=dtype)
    words = torch.randn(shape.batch, WORD_DIM, shape.words, device=device, dtype=dtype)
    classes = torch.arange(shape.batch, device=device)
    return regions.requires_grad_(), words.requires_grad_(), random_lengths(shape, device), classes


def _with_gammas(function: Function) -> Function:
    return partial(function, gamma1=4.0, gamma2=5.0, gamma3=10.0)


def cases() -> tuple[Case, ...]:
    """All of them, built when asked for: importing this must not load the kernels."""
    path: dict[str, Function] = {
        "transcription": transcription.loss_path,
        "eager": _path("reference"),
    }
    kernels = {"eager": _kernels("reference")}
    phi: dict[str, Function] = {
        "eager": _phi,
        "channels_last": _phi_channels_last,
        "autocast": _under_autocast(_phi),
        "autocast + channels_last": _under_autocast(_phi_channels_last),
    }
    if has_fused():
        path["fused"] = _path("fused")
        kernels["fused"] = _kernels("fused")
        phi["fused"] = partial(_phi, backend="fused")
    damsm: dict[str, Function] = {
        "loop": _with_gammas(upstream.words_loss),
        "eager": _with_gammas(words_loss),
    }
    return (
        *op_cases(),
        Case("loss_path", _path_inputs, path),
        Case("loss_path_without_phi", _kernels_inputs, kernels),
        Case("phi", _phi_inputs, phi),
        Case("damsm_words_loss", _damsm_inputs, damsm, follows_size=False),
    )
