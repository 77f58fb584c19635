"""E1-E12 transcribed in float64 by loops over samples and words, independent of the library.

Same names and arguments as the ops of `alr_layers.kernels.reference`. Every oracle returns float64
and can be differentiated, so it judges gradients as well as values. `scalar_*` at the end go one
step further: plain Python numbers, one loop per index.
"""

import math

import torch
from torch import Tensor


def _double(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.double() for tensor in tensors)


def norm(values: Tensor) -> Tensor:
    total = (values * values).sum()
    return total * 0 if total == 0 else torch.sqrt(total)


def semantic_similarity(features: Tensor, projected_words: Tensor, lengths: Tensor) -> Tensor:
    features, words = _double(features, projected_words)
    batch, _, height, width = features.shape
    samples = []
    for b in range(batch):
        real = int(lengths[b])
        scores = [(features[b] * words[b, :, j, None, None]).sum(0) for j in range(real)]
        highest = scores[0].detach()
        for score in scores:
            highest = torch.where(score.detach() > highest, score.detach(), highest)
        powers = [torch.exp(score - highest) for score in scores]
        total = sum(powers, torch.zeros(height, width, dtype=torch.float64, device=features.device))
        rows = [power / total for power in powers]
        rows += [torch.zeros_like(total)] * (words.shape[2] - real)
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def text_vision_matrix(layout: Tensor, projected_words: Tensor) -> Tensor:
    layout, words = _double(layout, projected_words)
    samples = []
    for b in range(layout.shape[0]):
        terms = [layout[b, j] * words[b, :, j, None, None] for j in range(layout.shape[1])]
        samples.append(torch.stack(terms).sum(0))
    return torch.stack(samples)


def layout_context(
    features: Tensor, projected_words: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    layout = semantic_similarity(features, projected_words, lengths)
    words = projected_words.double().clone()
    for b in range(len(lengths)):
        words[b, :, int(lengths[b]) :] = 0
    return text_vision_matrix(layout, words), layout


def alr_residual(layout: Tensor, real_layout: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """E5-E6. The threshold is compared in the precision the inputs are computed in."""
    at_least_single = torch.promote_types(layout.dtype, torch.float32)
    threshold = torch.tensor(gamma, dtype=at_least_single).double().item()
    layout, real_layout = _double(layout, real_layout)
    residual = torch.abs(real_layout - layout)
    easy = torch.where(residual < threshold, residual, torch.zeros_like(residual))
    hard = torch.where(residual >= threshold, residual, torch.zeros_like(residual))
    return easy, hard


def _padded(values: Tensor, channels: int) -> Tensor:
    batch, have, height, width = values.shape
    rest = values.new_zeros(batch, channels - have, height, width)
    return torch.cat([values, rest], 1)


def gated_residual(
    layout: Tensor, real_layout: Tensor, real_features: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """E5-E8 with the zero padding of E7 carried out, then cut to the channels that can be alive."""
    easy, hard = alr_residual(layout, real_layout, gamma)
    words, channels = layout.shape[1], real_features.shape[1]
    padded = max(words, channels)
    features = _padded(real_features.double(), padded)
    live = min(words, channels)
    gated = [_padded(part, padded) * features for part in (easy, hard)]
    assert all((part[:, live:] == 0).all() for part in gated)
    return gated[0][:, :live], gated[1][:, :live]


def closing_reduction(
    easy: Tensor, hard: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    easy, hard, alpha, beta = _double(easy, hard, alpha, beta)
    easy, hard = _padded(easy, alpha.shape[1]), _padded(hard, beta.shape[1])
    rows = range(alpha.shape[0])
    return (
        torch.stack([norm(alpha[b] * easy[b]) for b in rows]),
        torch.stack([norm(beta[b] * hard[b]) for b in rows]),
        torch.stack([alpha[b].max() for b in rows]),
        torch.stack([beta[b].min() for b in rows]),
    )


def layout_closing_reduction(
    layout: Tensor, real_layout: Tensor, alpha: Tensor, beta: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return closing_reduction(*alr_residual(layout, real_layout, gamma), alpha, beta)


def layout_mask(layout: Tensor, mask: str) -> Tensor:
    layout = layout.double()
    samples = []
    for theta in layout:
        peak = theta.amax(0)
        if mask == "hard":
            peak = (peak.detach() >= peak.detach().sum() / peak.numel()).double()
        samples.append(peak[None])
    return torch.stack(samples)


def masked_difference(
    features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor, mask: str
) -> tuple[Tensor, Tensor]:
    features, real_features = _double(features, real_features)
    fake_mask, real_mask = layout_mask(layout, mask), layout_mask(real_layout, mask)
    distances, grams = [], []
    for b in range(features.shape[0]):
        seen, real = features[b] * fake_mask[b], real_features[b] * real_mask[b]
        distances.append(norm(seen - real))
        pairs = [
            [(seen[c] * seen[d]).sum() - (real[c] * real[d]).sum() for d in range(len(seen))]
            for c in range(len(seen))
        ]
        grams.append(torch.stack([torch.stack(row) for row in pairs]))
    return torch.stack(distances), torch.stack(grams)


def alr_terms(
    easy: Tensor, hard: Tensor, alpha: Tensor, beta: Tensor, feature_dim: int, normalization: str
) -> dict[str, Tensor]:
    """E9, the mean over the batch of each of its three terms."""
    easy_norm, hard_norm, highest, lowest = closing_reduction(easy, hard, alpha, beta)
    size = easy.shape[2] * easy.shape[3] * feature_dim
    norm_divisor = size if normalization == "paper" else math.sqrt(size)
    order_divisor = size if normalization == "paper" else 1
    return {
        "easy": easy_norm.mean() / norm_divisor,
        "hard": hard_norm.mean() / norm_divisor,
        "order": torch.log1p(torch.exp(highest - lowest)).mean() / order_divisor,
    }


def lvr_terms(
    features: Tensor,
    real_features: Tensor,
    layout: Tensor,
    real_layout: Tensor,
    mask: str,
    normalization: str,
) -> dict[str, Tensor]:
    """E10 and E11, means over the batch."""
    distance, gram = masked_difference(features, real_features, layout, real_layout, mask)
    size = features.shape[1] * features.shape[2] * features.shape[3]
    divisor = size if normalization == "paper" else math.sqrt(size)
    style = torch.stack([norm(sample) for sample in gram])
    return {"perception": distance.mean() / divisor, "style": style.mean() / size}


def scalar_layout(
    regions: list[list[float]], words: list[list[float]], length: int
) -> list[list[float]]:
    """E1-E2 of one sample in plain Python: regions[k][d], words[j][d] -> theta[k][j]."""
    theta = []
    for region in regions:
        scores = []
        for word in words[:length]:
            score = 0.0
            for a, b in zip(region, word, strict=True):
                score += a * b
            scores.append(score)
        total = sum(math.exp(score) for score in scores)
        row = [math.exp(score) / total for score in scores]
        theta.append(row + [0.0] * (len(words) - length))
    return theta


def scalar_context(theta: list[list[float]], words: list[list[float]]) -> list[list[float]]:
    """E3 of one sample in plain Python: theta[k][j], words[j][d] -> q[k][d]."""
    return [
        [sum(row[j] * words[j][d] for j in range(len(words))) for d in range(len(words[0]))]
        for row in theta
    ]
