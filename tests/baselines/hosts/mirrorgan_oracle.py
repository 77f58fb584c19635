"""MirrorGAN once more, from its description: plain functions over the originals' state_dicts.

Float64, the originals' key names, loops over samples, regions and words where the networks under
test use batched products.
"""

import torch
import torch.nn.functional as F

from tests.baselines.networks.dmgan_oracle import batch_norm, gate, residual, up


def attend(h, k, words, lengths, state, name, legacy):
    """Word contexts and sentence contexts (B, g, s, s), layout (B, T, s, s), region by region."""
    batch, dim, side, _ = h.shape
    count = words.shape[2]
    contexts, sentences, maps = [], [], []
    for b in range(batch):
        regions = h[b].reshape(dim, -1)
        weight = state[f"{name}.att.conv_context.weight"].reshape(dim, -1)
        keys = torch.stack([weight @ words[b, :, t] for t in range(count)])
        a = state[f"{name}.att.linear.weight"] @ k[b] + state[f"{name}.att.linear.bias"]
        vision = state[f"{name}.att.conv_sentence_vis.weight"].reshape(dim, dim)
        for q in range(side * side):
            owner = (b * side * side + q) % batch if legacy else b
            real = int(lengths[owner])
            scores = (keys[:real] @ regions[:, q]).exp()
            alpha = torch.cat((scores / scores.sum(), scores.new_zeros(count - real)))
            contexts.append(alpha @ keys)
            beta = (vision @ (regions[:, q] * a)).exp()
            sentences.append(a * beta / beta.sum())
            maps.append(alpha)

    def grid(rows):
        return torch.stack(rows).view(batch, side, side, -1).permute(0, 3, 1, 2)

    return grid(contexts), grid(sentences), grid(maps)


def generator(
    state, z, sentence, words, lengths, eps, *, legacy, training, halvings, stages, blocks
):
    fc = gate(sentence @ state["ca_net.fc.weight"].t() + state["ca_net.fc.bias"])
    mu, logvar = fc[:, : fc.shape[1] // 2], fc[:, fc.shape[1] // 2 :]
    k = mu + eps * (logvar / 2).exp()
    seed = torch.cat((k, z), 1) @ state["h_net1.fc.0.weight"].t()
    h = gate(batch_norm(seed, state, "h_net1.fc.1", training)).view(len(z), -1, 4, 4)
    for n in range(1, halvings + 1):
        h = up(h, state, f"h_net1.upsample{n}", training)
    images, maps = [], []
    for stage in range(1, stages + 1):
        if stage > 1:
            name = f"h_net{stage}"
            context, gated, alpha = attend(h, k, words, lengths, state, name, legacy)
            joined = torch.cat((h, context, gated), 1)
            weight = state[f"{name}.conv.weight"].flatten(1)
            x = torch.einsum("oi,bihw->bohw", weight, joined)
            for r in range(blocks):
                x = residual(x, state, f"{name}.residual.{r}", training)
            h = up(x, state, f"{name}.upsample", training)
            maps.append(alpha)
        images.append(torch.tanh(F.conv2d(h, state[f"img_net{stage}.img.0.weight"], padding=1)))
    return images, maps, mu, logvar


def resized(images, size, aligned):
    """Bilinear, pixel by pixel of one axis after the other."""
    old = images.shape[2]
    weights = images.new_zeros(size, old)
    for n in range(size):
        place = n * (old - 1) / (size - 1) if aligned else max((n + 0.5) * old / size - 0.5, 0)
        low = min(int(place), old - 1)
        high = min(low + 1, old - 1)
        weights[n, low] += 1 - (place - low)
        weights[n, high] += place - low
    return torch.einsum("bchw,yh,xw->bcyx", images, weights, weights)


def image_feature(images, state, size, aligned=False):
    """A bottleneck ResNet with running statistics, pooled, a linear map and a batch norm."""

    def conv(x, key, stride=1, padding=0):
        return F.conv2d(x, state[f"{key}.weight"], stride=stride, padding=padding)

    def norm(x, key):
        return batch_norm(x, state, key, training=False)

    x = norm(conv(resized(images, size, aligned), "resnet.0", 2, 3), "resnet.1").clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    for level in (4, 5, 6, 7):
        block = 0
        while f"resnet.{level}.{block}.conv1.weight" in state:
            name = f"resnet.{level}.{block}"
            stride = 2 if level > 4 and block == 0 else 1
            y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").clamp(min=0)
            y = norm(conv(y, f"{name}.conv2", stride, 1), f"{name}.bn2").clamp(min=0)
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).clamp(min=0)
            block += 1
    feature = x.mean((2, 3)) @ state["linear.weight"].t() + state["linear.bias"]
    return norm(feature, "bn")


def word_losses(features, captions, lengths, state):
    """-log p of every real word, per caption, one word and one caption at a time."""
    found = []
    for feature, caption, length in zip(features, captions, lengths, strict=True):
        hidden = cell = features.new_zeros(state["lstm.weight_hh_l0"].shape[1])
        found.append([])
        for j in range(int(length)):
            x = feature if j == 0 else state["embed.weight"][caption[j - 1]]
            gates = state["lstm.weight_ih_l0"] @ x + state["lstm.bias_ih_l0"]
            gates = gates + state["lstm.weight_hh_l0"] @ hidden + state["lstm.bias_hh_l0"]
            i, f, g, o = gates.chunk(4)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            logits = state["linear.weight"] @ hidden + state["linear.bias"]
            found[-1].append(logits.exp().sum().log() - logits[caption[j]])
    return found


def caption_loss(features, captions, lengths, state):
    every = [loss for row in word_losses(features, captions, lengths, state) for loss in row]
    return sum(every) / len(every)
