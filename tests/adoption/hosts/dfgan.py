"""A DF-GAN in miniature: one stage from noise, sentence-conditioned blocks, hinge loss, no norm."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.adoption.data import BATCH, load_batch, text_encoder

NF, NZ, COND_DIM, IMSIZE = 8, 5, 12, 32


class Affine(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc_gamma = nn.Linear(NZ + COND_DIM, channels)
        self.fc_beta = nn.Linear(NZ + COND_DIM, channels)

    def forward(self, x, y):
        return (1 + self.fc_gamma(y)[..., None, None]) * x + self.fc_beta(y)[..., None, None]


class G_Block(nn.Module):
    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.c1, self.c_sc = nn.Conv2d(in_ch, out_ch, 3, padding=1), nn.Conv2d(in_ch, out_ch, 1)
        self.affine = Affine(in_ch)

    def forward(self, x, y):
        x = F.interpolate(x, scale_factor=2)
        return self.c_sc(x) + self.c1(F.leaky_relu(self.affine(x, y), 0.2))


class NetG(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(NZ, 8 * NF * 16)
        widths = [8 * NF, 4 * NF, 2 * NF, NF]
        self.GBlocks = nn.ModuleList(G_Block(a, b) for a, b in zip(widths, widths[1:]))
        self.to_rgb = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(NF, 3, 3, padding=1), nn.Tanh())

    def forward(self, noise, c):
        out = self.fc(noise).view(noise.size(0), -1, 4, 4)
        cond = torch.cat((noise, c), dim=1)
        for GBlock in self.GBlocks:
            out = GBlock(out, cond)
        return self.to_rgb(out)


class NetD(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_img = nn.Sequential(nn.Conv2d(3, NF, 4, 2, 1), nn.LeakyReLU(0.2))
        self.joint_conv = nn.Conv2d(NF + COND_DIM, 1, 4)

    def forward(self, x, c):
        h = F.adaptive_avg_pool2d(self.conv_img(x), 4)
        return self.joint_conv(torch.cat((h, c[:, :, None, None].expand(-1, -1, 4, 4)), 1))


class Trainer:
    def __init__(self):
        torch.manual_seed(0)
        self.netG, self.netD = NetG(), NetD()
        self.text_encoder = text_encoder(COND_DIM)
        self.optimizer_G = torch.optim.Adam(self.netG.parameters(), lr=0.0001, betas=(0.0, 0.9))
        self.optimizer_D = torch.optim.Adam(self.netD.parameters(), lr=0.0004, betas=(0.0, 0.9))

    def train(self, first_step, last_step):
        for step in range(first_step, last_step):
            torch.manual_seed(step)
            (imgs,), captions, cap_lens = load_batch(step, (IMSIZE,))
            words, sent = self.text_encoder(captions, cap_lens)
            fake = self.netG(torch.randn(BATCH, NZ), sent)
            errD = F.relu(1 - self.netD(imgs, sent)).mean()
            errD = errD + F.relu(1 + self.netD(fake.detach(), sent)).mean()
            self.optimizer_D.zero_grad()
            errD.backward()
            self.optimizer_D.step()
            errG = -self.netD(fake, sent).mean()
            self.optimizer_G.zero_grad()
            errG.backward()
            self.optimizer_G.step()

    def state(self):
        return {
            "netG": self.netG,
            "netD": self.netD,
            "optimizer_G": self.optimizer_G,
            "optimizer_D": self.optimizer_D,
        }

    def save_model(self, path):
        torch.save({name: part.state_dict() for name, part in self.state().items()}, path)

    def load_model(self, path):
        saved = torch.load(path)
        for name, part in self.state().items():
            part.load_state_dict(saved[name])
