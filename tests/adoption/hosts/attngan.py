"""An AttnGAN in miniature: three stages from 8 to 32 px, attention masked as the original does."""

import torch
from torch import nn
from torch.optim import Adam

from tests.adoption.data import BATCH, load_batch, text_encoder

GF_DIM, EMBEDDING, CONDITION, Z_DIM = 8, 12, 6, 5


class GLU(nn.Module):
    def forward(self, x):
        half = x.size(1) // 2
        return x[:, :half] * torch.sigmoid(x[:, half:])


def conv3x3(in_planes, out_planes):
    return nn.Conv2d(in_planes, out_planes, 3, padding=1, bias=False)


def upBlock(in_planes, out_planes):
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        conv3x3(in_planes, out_planes * 2),
        nn.BatchNorm2d(out_planes * 2),
        GLU(),
    )


class GlobalAttentionGeneral(nn.Module):
    def __init__(self, idf, cdf):
        super().__init__()
        self.conv_context = nn.Conv2d(cdf, idf, 1, bias=False)
        self.mask = None

    def applyMask(self, mask):
        self.mask = mask  # batch x words, True at padding

    def forward(self, h, words):
        batch, _, ih, iw = h.shape
        queries = h.flatten(2).transpose(1, 2)
        source = self.conv_context(words.unsqueeze(3)).squeeze(3)
        scores = torch.bmm(queries, source).view(batch * ih * iw, -1)
        if self.mask is not None:
            tiled = self.mask.repeat(ih * iw, 1)  # rows in the wrong order, as published
            scores = scores.masked_fill(tiled, -float("inf"))
        attn = scores.softmax(1).view(batch, ih * iw, -1).transpose(1, 2).contiguous()
        context = torch.bmm(source, attn).view(batch, -1, ih, iw)
        return context, attn.view(batch, -1, ih, iw)


class ResBlock(nn.Module):
    def __init__(self, planes):
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(planes, planes * 2),
            nn.BatchNorm2d(planes * 2),
            GLU(),
            conv3x3(planes, planes),
            nn.BatchNorm2d(planes),
        )

    def forward(self, x):
        return x + self.block(x)


class INIT_STAGE_G(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(CONDITION + Z_DIM, GF_DIM * 2 * 16 * 2, bias=False), GLU()
        )
        self.upsample1 = upBlock(GF_DIM * 2, GF_DIM)

    def forward(self, z_code, c_code):
        out = self.fc(torch.cat((c_code, z_code), 1))
        return self.upsample1(out.view(-1, GF_DIM * 2, 4, 4))


class NEXT_STAGE_G(nn.Module):
    def __init__(self):
        super().__init__()
        self.att = GlobalAttentionGeneral(GF_DIM, EMBEDDING)
        self.residual = ResBlock(GF_DIM * 2)
        self.upsample = upBlock(GF_DIM * 2, GF_DIM)

    def forward(self, h_code, c_code, word_embs, mask):
        self.att.applyMask(mask)
        context, att = self.att(h_code, word_embs)
        out_code = self.residual(torch.cat((h_code, context), 1))
        return self.upsample(out_code), att


class GET_IMAGE_G(nn.Module):
    def __init__(self):
        super().__init__()
        self.img = nn.Sequential(conv3x3(GF_DIM, 3), nn.Tanh())

    def forward(self, h_code):
        return self.img(h_code)


class G_NET(nn.Module):
    def __init__(self):
        super().__init__()
        self.ca_net = nn.Linear(EMBEDDING, 2 * CONDITION)
        self.h_net1, self.img_net1 = INIT_STAGE_G(), GET_IMAGE_G()
        self.h_net2, self.img_net2 = NEXT_STAGE_G(), GET_IMAGE_G()
        self.h_net3, self.img_net3 = NEXT_STAGE_G(), GET_IMAGE_G()

    def forward(self, z_code, sent_emb, word_embs, mask):
        mu, logvar = self.ca_net(sent_emb).chunk(2, 1)
        c_code = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        h_code1 = self.h_net1(z_code, c_code)
        h_code2, att1 = self.h_net2(h_code1, c_code, word_embs, mask)
        h_code3, att2 = self.h_net3(h_code2, c_code, word_embs, mask)
        codes = ((h_code1, self.img_net1), (h_code2, self.img_net2), (h_code3, self.img_net3))
        return [head(code) for code, head in codes], [att1, att2], mu, logvar


class D_NET(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_code = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2))
        self.outlogits = nn.Conv2d(8 + EMBEDDING, 1, 4)

    def forward(self, x, sent_emb):
        code = nn.functional.adaptive_avg_pool2d(self.img_code(x), 4)
        return self.outlogits(torch.cat((code, sent_emb[:, :, None, None].expand(-1, -1, 4, 4)), 1))


def bce(logits, label):
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


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
            fake_imgs, _, mu, logvar = self.netG(noise, sent_emb, words_embs, mask)
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
