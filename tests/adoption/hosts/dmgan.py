"""A DM-GAN in miniature: AttnGAN with a memory in place of the attention, spectral norm in D."""

import torch
from torch import nn
from torch.optim import Adam

from tests.adoption.data import BATCH, load_batch, text_encoder
from tests.adoption.hosts.attngan import (
    CONDITION,
    EMBEDDING,
    GET_IMAGE_G,
    GF_DIM,
    INIT_STAGE_G,
    Z_DIM,
    ResBlock,
    bce,
    upBlock,
)


class NEXT_STAGE_G(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.avg = nn.AvgPool2d(kernel_size=size)
        self.A, self.B = nn.Linear(EMBEDDING, 1, bias=False), nn.Linear(GF_DIM, 1, bias=False)
        self.M_w = nn.Sequential(nn.Conv1d(EMBEDDING, GF_DIM * 2, 1), nn.ReLU())
        self.M_r = nn.Sequential(nn.Conv1d(GF_DIM, GF_DIM * 2, 1), nn.ReLU())
        self.key = nn.Sequential(nn.Conv1d(GF_DIM * 2, GF_DIM, 1), nn.ReLU())
        self.value = nn.Sequential(nn.Conv1d(GF_DIM * 2, GF_DIM, 1), nn.ReLU())
        self.response_gate = nn.Sequential(nn.Conv2d(GF_DIM * 2, 1, 1), nn.Sigmoid())
        self.residual = ResBlock(GF_DIM * 2)
        self.upsample = upBlock(GF_DIM * 2, GF_DIM)

    def forward(self, h_code, c_code, word_embs, mask, cap_lens):
        batch, _, height, width = h_code.shape
        h_avg = self.avg(h_code).detach().flatten(2)
        words = word_embs.size(2)
        gate = torch.sigmoid(
            self.A(word_embs.transpose(1, 2)) + self.B(h_avg.transpose(1, 2))
        ).transpose(1, 2)
        memory = self.M_w(word_embs) * gate + self.M_r(h_avg.repeat(1, 1, words)) * (1 - gate)
        key, value = self.key(memory), self.value(memory)
        scores = torch.bmm(h_code.flatten(2).transpose(1, 2), key)
        scores = scores.masked_fill(mask[:, None], -float("inf"))
        att = scores.softmax(2).transpose(1, 2)
        response = torch.bmm(value, att).view(batch, -1, height, width)
        r = self.response_gate(torch.cat((h_code, response), 1))
        h_code = h_code * (1 - r) + response * r
        out_code = self.upsample(self.residual(torch.cat((h_code, h_code), 1)))
        return out_code, att.view(batch, words, height, width)


class G_NET(nn.Module):
    def __init__(self):
        super().__init__()
        self.ca_net = nn.Linear(EMBEDDING, 2 * CONDITION)
        self.h_net1, self.img_net1 = INIT_STAGE_G(), GET_IMAGE_G()
        self.h_net2, self.img_net2 = NEXT_STAGE_G(8), GET_IMAGE_G()
        self.h_net3, self.img_net3 = NEXT_STAGE_G(16), GET_IMAGE_G()

    def forward(self, z_code, sent_emb, word_embs, mask, cap_lens):
        mu, logvar = self.ca_net(sent_emb).chunk(2, 1)
        c_code = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        h_code1 = self.h_net1(z_code, c_code)
        h_code2, att1 = self.h_net2(h_code1, c_code, word_embs, mask, cap_lens)
        h_code3, att2 = self.h_net3(h_code2, c_code, word_embs, mask, cap_lens)
        images = [self.img_net1(h_code1), self.img_net2(h_code2), self.img_net3(h_code3)]
        return images, [att1, att2], mu, logvar


class D_NET(nn.Module):
    def __init__(self):
        super().__init__()
        conv = nn.utils.spectral_norm(nn.Conv2d(3, 8, 4, 2, 1))
        self.img_code = nn.Sequential(conv, nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(4))
        self.outlogits = nn.Conv2d(8 + EMBEDDING, 1, 4)

    def forward(self, x, sent_emb):
        sentence = sent_emb[:, :, None, None].expand(-1, -1, 4, 4)
        return self.outlogits(torch.cat((self.img_code(x), sentence), 1))


class condGANTrainer:
    def __init__(self):
        torch.manual_seed(0)
        self.netG, self.netsD = G_NET(), [D_NET() for _ in range(3)]
        self.text_encoder = text_encoder(EMBEDDING)
        self.optimizerG = Adam(self.netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizersD = [Adam(netD.parameters(), 2e-4, (0.5, 0.999)) for netD in self.netsD]

    def train(self, first_step, last_step):
        for gen_iterations in range(first_step, last_step):
            torch.manual_seed(gen_iterations)
            imgs, captions, cap_lens = load_batch(gen_iterations, (8, 16, 32))
            words_embs, sent_emb = self.text_encoder(captions, cap_lens)
            mask = (captions == 0)[:, : words_embs.size(2)]
            noise = torch.randn(BATCH, Z_DIM)
            fake_imgs, _, mu, logvar = self.netG(noise, sent_emb, words_embs, mask, cap_lens)
            for netD, optimizerD, real, fake in zip(self.netsD, self.optimizersD, imgs, fake_imgs):
                netD.zero_grad()
                errD = bce(netD(real, sent_emb), 1.0) + bce(netD(fake.detach(), sent_emb), 0.0)
                errD.backward()
                optimizerD.step()
            self.netG.zero_grad()
            errG_total = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).mean()
            for netD, fake in zip(self.netsD, fake_imgs):
                errG_total = errG_total + bce(netD(fake, sent_emb), 1.0)
            errG_total.backward()
            self.optimizerG.step()

    def state(self):
        return {
            "netG": self.netG,
            "optimizerG": self.optimizerG,
            **{f"netD{i}": netD for i, netD in enumerate(self.netsD)},
            **{f"optimizerD{i}": optimizerD for i, optimizerD in enumerate(self.optimizersD)},
        }

    def save_model(self, path):
        torch.save({name: part.state_dict() for name, part in self.state().items()}, path)

    def load_model(self, path):
        saved = torch.load(path)
        for name, part in self.state().items():
            part.load_state_dict(saved[name])
