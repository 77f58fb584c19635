"""An SSA-GAN in miniature: predicted masks, and a synchronized batch norm of its own."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tests.adoption.data import BATCH, load_batch, text_encoder

NGF, NZ, NEF = 8, 5, 12


class SynchronizedBatchNorm2d(_BatchNorm):
    """Never looks at track_running_stats, and puts new tensors in the place of its buffers."""

    def _check_input_dim(self, x):
        assert x.dim() == 4

    def forward(self, x):
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        m = self.momentum
        self.running_mean = (1 - m) * self.running_mean + m * mean.detach()
        self.running_var = (1 - m) * self.running_var + m * var.detach()
        return (x - mean[:, None, None]) * (var + self.eps).rsqrt()[:, None, None]


class SSACN(nn.Module):
    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.norm = SynchronizedBatchNorm2d(in_ch, affine=False)
        self.fc_gamma, self.fc_beta = nn.Linear(NEF, in_ch), nn.Linear(NEF, in_ch)
        self.conv, self.c_sc = nn.Conv2d(in_ch, out_ch, 3, padding=1), nn.Conv2d(in_ch, out_ch, 1)
        self.mask_conv = nn.Conv2d(out_ch, 1, 3, padding=1)

    def forward(self, x, c, stage_mask):
        x = F.interpolate(x, scale_factor=2)
        stage_mask = F.interpolate(stage_mask, size=x.shape[2:], mode="bilinear")
        weight = self.fc_gamma(c)[..., None, None] * stage_mask + 1
        h = weight * self.norm(x) + self.fc_beta(c)[..., None, None] * stage_mask
        out = self.c_sc(x) + self.conv(F.relu(h))
        return out, torch.sigmoid(self.mask_conv(out))


class NetG(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(NZ, 4 * NGF * 16)
        self.block0, self.block1 = SSACN(4 * NGF, 4 * NGF), SSACN(4 * NGF, 2 * NGF)
        self.block2 = SSACN(2 * NGF, NGF)
        self.conv_img = nn.Sequential(nn.ReLU(), nn.Conv2d(NGF, 3, 3, padding=1), nn.Tanh())

    def forward(self, x, c):
        out = self.fc(x).view(x.size(0), 4 * NGF, 4, 4)
        stage_mask = torch.ones_like(out[:, :1])
        fusion_mask = []
        for block in (self.block0, self.block1, self.block2):
            out, stage_mask = block(out, c, stage_mask)
            fusion_mask.append(stage_mask)
        return self.conv_img(out), fusion_mask


class NetD(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_img = nn.Sequential(nn.Conv2d(3, NGF, 4, 2, 1), nn.LeakyReLU(0.2))
        self.joint_conv = nn.Conv2d(NGF + NEF, 1, 4)

    def forward(self, x, c):
        h = F.adaptive_avg_pool2d(self.conv_img(x), 4)
        return self.joint_conv(torch.cat((h, c[:, :, None, None].expand(-1, -1, 4, 4)), 1))


class Trainer:
    def __init__(self):
        torch.manual_seed(0)
        self.netG, self.netD = nn.DataParallel(NetG()), nn.DataParallel(NetD())
        self.text_encoder = text_encoder(NEF)
        self.optimizerG = torch.optim.Adam(self.netG.parameters(), lr=0.0001, betas=(0.0, 0.9))
        self.optimizerD = torch.optim.Adam(self.netD.parameters(), lr=0.0004, betas=(0.0, 0.9))

    def train(self, first_step, last_step):
        for step in range(first_step, last_step):
            torch.manual_seed(step)
            (imags,), captions, cap_lens = load_batch(step, (32,))
            words_embs, sent_emb = self.text_encoder(captions, cap_lens)
            fake, _ = self.netG(torch.randn(BATCH, NZ), sent_emb)
            errD = F.relu(1 - self.netD(imags, sent_emb)).mean()
            errD = errD + F.relu(1 + self.netD(fake.detach(), sent_emb)).mean()
            self.optimizerD.zero_grad()
            errD.backward()
            self.optimizerD.step()
            errG = -self.netD(fake, sent_emb).mean()
            self.optimizerG.zero_grad()
            errG.backward()
            self.optimizerG.step()

    def state(self):
        return {
            "netG": self.netG,
            "netD": self.netD,
            "optimizerG": self.optimizerG,
            "optimizerD": self.optimizerD,
        }

    def save_model(self, path):
        torch.save({name: part.state_dict() for name, part in self.state().items()}, path)

    def load_model(self, path):
        saved = torch.load(path)
        for name, part in self.state().items():
            part.load_state_dict(saved[name])
