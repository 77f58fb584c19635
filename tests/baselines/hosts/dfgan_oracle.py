"""DF-GAN written out as plain functions over state_dicts of the original's names.

Nothing of the project is imported. Sizes follow from the states.
"""

import torch
import torch.nn.functional as F


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def blocks_of(state, prefix):
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(prefix))


def mlp(state, name, y):
    hidden = torch.relu(y @ state[f"{name}.linear1.weight"].T + state[f"{name}.linear1.bias"])
    return hidden @ state[f"{name}.linear2.weight"].T + state[f"{name}.linear2.bias"]


def fuse(state, name, x, y):
    for affine in ("affine0", "affine1"):
        gamma = mlp(state, f"{name}.{affine}.fc_gamma", y)
        beta = mlp(state, f"{name}.{affine}.fc_beta", y)
        x = lrelu(torch.einsum("bc,bchw->bchw", gamma, x) + beta[:, :, None, None])
    return x


def conv(state, name, x, **options):
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)


def up_block(state, number, x, y):
    name = f"GBlocks.{number}"
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    residual = conv(state, f"{name}.c1", fuse(state, f"{name}.fuse1", x, y), padding=1)
    residual = conv(state, f"{name}.c2", fuse(state, f"{name}.fuse2", residual, y), padding=1)
    if f"{name}.c_sc.weight" in state:
        x = conv(state, f"{name}.c_sc", x)
    return x + residual


def paint(state, x):
    return torch.tanh(conv(state, "to_rgb.1", lrelu(x), padding=1))


def generate(state, z, s):
    """The image and the output of every block."""
    y = torch.cat([z, s], 1)
    x = (z @ state["fc.weight"].T + state["fc.bias"]).reshape(len(z), -1, 4, 4)
    outputs = []
    for number in range(blocks_of(state, "GBlocks")):
        x = up_block(state, number, x, y)
        outputs.append(x)
    return paint(state, x), outputs


def look(state, x):
    x = conv(state, "conv_img", x, padding=1)
    for number in range(blocks_of(state, "DBlocks")):
        name = f"DBlocks.{number}"
        r = lrelu(conv(state, f"{name}.conv_r.0", x, stride=2, padding=1))
        r = lrelu(conv(state, f"{name}.conv_r.2", r, padding=1))
        if state[f"{name}.conv_s.weight"].shape[0] != x.shape[1]:
            x = conv(state, f"{name}.conv_s", x)
        pooled = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        x = pooled + state[f"{name}.gamma"] * r
    return x


def match(state, f, s):
    joined = torch.cat([f, s[:, :, None, None].repeat(1, 1, 4, 4)], 1)
    y = lrelu(F.conv2d(joined, state["joint_conv.0.weight"], padding=1))
    return (y * state["joint_conv.2.weight"]).sum((1, 2, 3))


def penalty(d, x, s, power=6, weight=2):
    """Sample by sample, each through a pass of its own."""
    total = 0
    for row in range(len(x)):
        image = x[row : row + 1].detach().requires_grad_()
        sentence = s[row : row + 1].detach().requires_grad_()
        (logit,) = match(d, look(d, image), sentence)
        gx, gs = torch.autograd.grad(logit, (image, sentence), create_graph=True)
        norm = torch.sqrt((gx**2).sum() + (gs**2).sum())
        total = total + norm**power
    return weight * total / len(x)


def discriminator_loss(d, x, fake, s, weight=2):
    """The whole loss, mismatches by the next image of the batch."""
    batch = len(x)
    f = look(d, x)
    real = sum(torch.relu(1 - o) for o in match(d, f, s)) / batch
    rolled = torch.stack([f[(b + 1) % batch] for b in range(batch)])
    wrong = sum(torch.relu(1 + o) for o in match(d, rolled, s)) / batch
    drawn = sum(torch.relu(1 + o) for o in match(d, look(d, fake.detach()), s)) / batch
    return real + 0.5 * (drawn + wrong) + penalty(d, x, s, weight=weight)


def generator_loss(d, fake, s):
    return -match(d, look(d, fake), s).mean()


def adam_step(value, gradient, lr):
    """The first step of Adam with betas (0, 0.9) and eps 1e-8, in its textbook form."""
    mean, square = gradient, 0.1 * gradient**2 / (1 - 0.9)
    return value - lr * mean / (torch.sqrt(square) + 1e-8)
