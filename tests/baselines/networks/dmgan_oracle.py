"""DM-GAN once more, from the specification: plain functions over the originals' state_dict.

Float64, the originals' key names, loops over samples, regions and words where the networks
under test use batched products. Batch norms and the spectral iteration follow `training`.
"""

import torch
import torch.nn.functional as F


def batch_norm(x, state, name, training):
    if training:
        axes = [0, *range(2, x.dim())]
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
    else:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    shape = [1, -1] + [1] * (x.dim() - 2)
    x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return x * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)


def gate(x):
    half = x.shape[1] // 2
    return x[:, :half] * torch.sigmoid(x[:, half:])


def up(x, state, name, training):
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = F.conv2d(x, state[f"{name}.1.weight"], padding=1)
    return gate(batch_norm(x, state, f"{name}.2", training))


def residual(x, state, name, training):
    y = F.conv2d(x, state[f"{name}.block.0.weight"], padding=1)
    y = gate(batch_norm(y, state, f"{name}.block.1", training))
    y = F.conv2d(y, state[f"{name}.block.3.weight"], padding=1)
    return x + batch_norm(y, state, f"{name}.block.4", training)


def memory(h, words, lengths, state, name, legacy):
    """Response (B, g, s, s) and addressing (B, T, s, s), one sample and one region at a time."""
    batch, dim, side, _ = h.shape
    count = words.shape[2]

    def layer(x, key):
        weight = state[f"{name}.{key}.0.weight"]
        return (weight.flatten(1) @ x + state[f"{name}.{key}.0.bias"]).clamp(min=0)

    responses, maps = [], []
    for b in range(batch):
        regions = h[b].reshape(dim, -1)
        average = regions.mean(dim=1).detach()
        keys, values = [], []
        for t in range(count):
            word = words[b, :, t]
            a = state[f"{name}.A.weight"][0] @ word + state[f"{name}.B.weight"][0] @ average
            write = 1 / (1 + torch.exp(-a))
            slot = layer(word, "M_w") * write + layer(average, "M_r") * (1 - write)
            keys.append(layer(slot, "key"))
            values.append(layer(slot, "value"))
        keys, values = torch.stack(keys), torch.stack(values)
        for q in range(side * side):
            scores = keys @ regions[:, q]
            owner = (b * side * side + q) % batch if legacy else b
            real = int(lengths[owner])
            weights = torch.cat((scores[:real].softmax(0), scores.new_zeros(count - real)))
            read = weights @ values
            both = torch.cat((regions[:, q], read))
            weight = state[f"{name}.response_gate.0.weight"].flatten()
            r = torch.sigmoid(weight @ both + state[f"{name}.response_gate.0.bias"][0])
            responses.append((1 - r) * regions[:, q] + r * read)
            maps.append(weights)
    response = torch.stack(responses).view(batch, side, side, dim).permute(0, 3, 1, 2)
    addressing = torch.stack(maps).view(batch, side, side, count).permute(0, 3, 1, 2)
    return response, addressing


def generator(state, z, sentence, words, lengths, eps, *, legacy, training, halvings, stages=3):
    fc = gate(sentence @ state["ca_net.fc.weight"].t() + state["ca_net.fc.bias"])
    mu, logvar = fc[:, : fc.shape[1] // 2], fc[:, fc.shape[1] // 2 :]
    seed = torch.cat((mu + eps * (logvar / 2).exp(), z), 1) @ state["h_net1.fc.0.weight"].t()
    h = gate(batch_norm(seed, state, "h_net1.fc.1", training)).view(len(z), -1, 4, 4)
    for k in range(1, halvings + 1):
        h = up(h, state, f"h_net1.upsample{k}", training)
    images, maps = [], []
    for stage in range(1, stages + 1):
        if stage > 1:
            name = f"h_net{stage}"
            response, addressing = memory(h, words, lengths, state, name, legacy)
            x = torch.cat((response, response), 1)
            for r in range(2):
                x = residual(x, state, f"{name}.residual.{r}", training)
            h = up(x, state, f"{name}.upsample", training)
            maps.append(addressing)
        images.append(torch.tanh(F.conv2d(h, state[f"img_net{stage}.img.0.weight"], padding=1)))
    return images, maps, mu, logvar


LATER = {
    64: (),
    128: (("img_code_s32", 2), ("img_code_s32_1", 1)),
    256: (
        ("img_code_s32", 2),
        ("img_code_s64", 2),
        ("img_code_s64_1", 1),
        ("img_code_s64_2", 1),
    ),
}


class Discriminator:
    """The discriminator of one size; `state` holds leaves for the gradients and moving u, v."""

    def __init__(self, state, size):
        self.state = {k: v.clone() for k, v in state.items()}
        for key, value in self.state.items():
            value.requires_grad_(not key.endswith(("weight_u", "weight_v")))
        self.blocks = [(f"img_code_s16.{k}", 2) for k in (0, 2, 4, 6)]
        self.blocks += [(f"{name}.0", stride) for name, stride in LATER[size]]

    def convolve(self, x, name, stride):
        raw = self.state[f"{name}.module.weight_bar"]
        with torch.no_grad():
            matrix = raw.reshape(raw.shape[0], -1)
            v = matrix.t() @ self.state[f"{name}.module.weight_u"]
            v = v / (v.norm() + 1e-12)
            u = matrix @ v
            u = u / (u.norm() + 1e-12)
            self.state[f"{name}.module.weight_u"], self.state[f"{name}.module.weight_v"] = u, v
        sigma = u @ (raw.reshape(raw.shape[0], -1) @ v)
        bias = self.state[f"{name}.module.bias"]
        x = F.conv2d(x, raw / sigma, bias, stride=stride, padding=1)
        return torch.where(x > 0, x, 0.2 * x)

    def features(self, images):
        for name, stride in self.blocks:
            images = self.convolve(images, name, stride)
        return images

    def probability(self, x, head):
        weight, bias = (
            self.state[f"{head}.outlogits.0.weight"],
            self.state[f"{head}.outlogits.0.bias"],
        )
        return torch.sigmoid((x * weight).sum((1, 2, 3)) + bias)

    def conditional(self, x, sentence):
        tiled = sentence[:, :, None, None].repeat(1, 1, 4, 4)
        joint = self.convolve(torch.cat((x, tiled), 1), "COND_DNET.jointConv.0", 1)
        return self.probability(joint, "COND_DNET")

    def loss(self, real, fake, sentence):
        x, y = self.features(real), self.features(fake)

        def cross_entropy(p, label):
            return -(p if label else 1 - p).log().mean()

        real_pair = cross_entropy(self.conditional(x, sentence), 1)
        fake_pair = cross_entropy(self.conditional(y, sentence), 0)
        wrong_pair = cross_entropy(self.conditional(x[:-1], sentence[1:]), 0)
        real_alone = cross_entropy(self.probability(x, "UNCOND_DNET"), 1)
        fake_alone = cross_entropy(self.probability(y, "UNCOND_DNET"), 0)
        return (real_alone + real_pair) / 2 + (fake_alone + fake_pair + wrong_pair) / 3
