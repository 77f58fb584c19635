"""StackGAN++ written out as plain functions over a state_dict of the original's names.

Nothing of the project is imported. Sizes follow from the state; every formula stands in full.
"""

import torch
import torch.nn.functional as F


def glu(x):
    half = x.shape[1] // 2
    return x[:, :half] * torch.sigmoid(x[:, half:])


class Net:
    """A state_dict, and whether batch norms take the batch's statistics or the running ones."""

    def __init__(self, state, train):
        self.state, self.train = state, train
        self.seen = {}  # running statistics after the passes so far

    def __getitem__(self, key):
        return self.state[key]

    def __contains__(self, key):
        return key in self.state

    def norm(self, x, name):
        shape = [1, -1] + [1] * (x.dim() - 2)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        if self.train:
            mean = x.mean(axes)
            variance = ((x - mean.view(shape)) ** 2).mean(axes)
            count = x.numel() / x.shape[1]
            for kind, value in (("mean", mean), ("var", variance * count / (count - 1))):
                key = f"{name}.running_{kind}"
                old = self.seen.get(key, self.state[key])
                self.seen[key] = (0.9 * old + 0.1 * value).detach()
        else:
            mean, variance = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        return x * self[f"{name}.weight"].view(shape) + self[f"{name}.bias"].view(shape)

    def up(self, x, name):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.conv2d(x, self[f"{name}.1.weight"], padding=1)
        return glu(self.norm(x, f"{name}.2"))

    def residual(self, x, name):
        y = glu(self.norm(F.conv2d(x, self[f"{name}.0.weight"], padding=1), f"{name}.1"))
        return x + self.norm(F.conv2d(y, self[f"{name}.3.weight"], padding=1), f"{name}.4")

    def stage(self, h, c, name):
        c = torch.ones_like(h[:, :1]) * c[:, :, None, None]
        x = F.conv2d(torch.cat([c, h], 1), self[f"{name}.jointConv.0.weight"], padding=1)
        x = glu(self.norm(x, f"{name}.jointConv.1"))
        number = 0
        while f"{name}.residual.{number}.block.0.weight" in self:
            x = self.residual(x, f"{name}.residual.{number}.block")
            number += 1
        return self.up(x, f"{name}.upsample")

    def paint(self, h, number):
        return torch.tanh(F.conv2d(h, self[f"img_net{number}.img.0.weight"], padding=1))


def generate(net, z, t, eps):
    """Images, features, mu, log variance and the sample c."""
    both = glu(t @ net["ca_net.fc.weight"].T + net["ca_net.fc.bias"])
    mu, logvar = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
    c = mu + eps * torch.exp(logvar / 2)
    x = torch.cat([c, z], 1) @ net["h_net1.fc.0.weight"].T
    x = glu(net.norm(x, "h_net1.fc.1"))
    h = x.reshape(len(x), -1, 4, 4)
    for number in range(1, 5):
        h = net.up(h, f"h_net1.upsample{number}")
    features, images = [h], [net.paint(h, 1)]
    for number in (2, 3):
        features.append(net.stage(features[-1], c, f"h_net{number}"))
        images.append(net.paint(features[-1], number))
    return images, features, mu, logvar, c


def judge(net, x, v):
    """Conditional and unconditional logits (B,)."""
    lrelu = lambda y: torch.where(y > 0, y, 0.2 * y)  # noqa: E731 - one expression, used below
    x = lrelu(F.conv2d(x, net["img_code_s16.0.weight"], stride=2, padding=1))
    for conv in (2, 5, 8):
        x = F.conv2d(x, net[f"img_code_s16.{conv}.weight"], stride=2, padding=1)
        x = lrelu(net.norm(x, f"img_code_s16.{conv + 1}"))
    for name, stride in (("s32", 2), ("s32_1", 1), ("s64", 2), ("s64_1", 1), ("s64_2", 1)):
        name = f"img_code_{name}"
        if f"{name}.0.weight" in net:
            x = F.conv2d(x, net[f"{name}.0.weight"], stride=stride, padding=1)
            x = lrelu(net.norm(x, f"{name}.1"))
    tiled = torch.ones_like(x[:, :1]) * v[:, :, None, None]
    y = F.conv2d(torch.cat([tiled, x], 1), net["jointConv.0.weight"], padding=1)
    y = lrelu(net.norm(y, "jointConv.1"))
    logit = lambda f, name: (  # noqa: E731
        (f * net[f"{name}.0.weight"]).sum((1, 2, 3)) + net[f"{name}.0.bias"]
    )
    return logit(y, "logits"), logit(x, "uncond_logits")


def bce(logits, target):
    p = torch.sigmoid(logits)
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()


def discriminator_loss(net, real, wrong, fake, mu, u):
    mu = mu.detach()
    (kr, ur), (kw, uw), (kf, uf) = (judge(net, x, mu) for x in (real, wrong, fake.detach()))
    if u == 0:
        return bce(kr, 1) + 0.5 * (bce(kw, 0) + bce(kf, 0))
    right = bce(kr, 1) + u * bce(ur, 1)
    return right + bce(kw, 0) + u * bce(uw, 1) + bce(kf, 0) + u * bce(uf, 0)


def colours(image):
    pixels = image.reshape(len(image), 3, -1)
    mean = pixels.mean(2)
    covariance = torch.zeros(len(image), 3, 3, dtype=image.dtype)
    for a in range(3):
        for b in range(3):
            product = (pixels[:, a] - mean[:, a, None]) * (pixels[:, b] - mean[:, b, None])
            covariance[:, a, b] = product.mean(1)
    return mean, covariance


def generator_loss(nets, images, mu, logvar, *, u, colour, kl):
    total = 0
    for net, image in zip(nets, images, strict=True):
        k, alone = judge(net, image, mu)
        total = total + bce(k, 1) + (u * bce(alone, 1) if u else 0)
    if colour:
        for fine, coarse in ((2, 1), (1, 0)):
            m, s = colours(images[fine])
            m0, s0 = colours(images[coarse].detach())
            total = total + colour * ((m - m0) ** 2).mean() + 5 * colour * ((s - s0) ** 2).mean()
    return total + kl * (-0.5) * (1 + logvar - mu**2 - logvar.exp()).mean()
