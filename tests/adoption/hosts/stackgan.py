"""A StackGAN++ in miniature: sentence alone, channels halve per stage, DataParallel around all."""

import torch
from torch import nn
from torch.optim import Adam

from tests.adoption.data import BATCH, load_batch, text_encoder
from tests.adoption.hosts.attngan import D_NET, ResBlock, bce, conv3x3, upBlock

NGF, EMBEDDING, CONDITION, Z_DIM = 16, 12, 6, 5


class INIT_STAGE_G(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(CONDITION + Z_DIM, NGF * 16, bias=False)
        self.upsample1 = upBlock(NGF, NGF)

    def forward(self, z_code, c_code):
        return self.upsample1(self.fc(torch.cat((c_code, z_code), 1)).view(-1, NGF, 4, 4))


class NEXT_STAGE_G(nn.Module):
    def __init__(self, ngf):
        super().__init__()
        self.jointConv = nn.Sequential(conv3x3(ngf + CONDITION, ngf), nn.BatchNorm2d(ngf))
        self.residual = ResBlock(ngf)
        self.upsample = upBlock(ngf, ngf // 2)

    def forward(self, h_code, c_code):
        tiled = c_code[:, :, None, None].expand(-1, -1, *h_code.shape[2:])
        return self.upsample(self.residual(self.jointConv(torch.cat((tiled, h_code), 1))))


class GET_IMAGE_G(nn.Module):
    def __init__(self, ngf):
        super().__init__()
        self.img = nn.Sequential(conv3x3(ngf, 3), nn.Tanh())

    def forward(self, h_code):
        return self.img(h_code)


class G_NET(nn.Module):
    def __init__(self):
        super().__init__()
        self.ca_net = nn.Linear(EMBEDDING, 2 * CONDITION)
        self.h_net1, self.img_net1 = INIT_STAGE_G(), GET_IMAGE_G(NGF)
        self.h_net2, self.img_net2 = NEXT_STAGE_G(NGF), GET_IMAGE_G(NGF // 2)
        self.h_net3, self.img_net3 = NEXT_STAGE_G(NGF // 2), GET_IMAGE_G(NGF // 4)

    def forward(self, z_code, text_embedding):
        mu, logvar = self.ca_net(text_embedding).chunk(2, 1)
        c_code = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        h_code1 = self.h_net1(z_code, c_code)
        h_code2 = self.h_net2(h_code1, c_code)
        h_code3 = self.h_net3(h_code2, c_code)
        images = [self.img_net1(h_code1), self.img_net2(h_code2), self.img_net3(h_code3)]
        return images, mu, logvar


class condGANTrainer:
    def __init__(self):
        torch.manual_seed(0)
        self.netG = nn.DataParallel(G_NET())
        self.netsD = [nn.DataParallel(D_NET()) for _ in range(3)]
        self.text_encoder = text_encoder(EMBEDDING)
        self.optimizerG = Adam(self.netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizersD = [Adam(netD.parameters(), 2e-4, (0.5, 0.999)) for netD in self.netsD]

    def train(self, first_step, last_step):
        for count in range(first_step, last_step):
            torch.manual_seed(count)
            imgs, captions, cap_lens = load_batch(count, (8, 16, 32))
            words_embs, txt_embedding = self.text_encoder(captions, cap_lens)
            noise = torch.randn(BATCH, Z_DIM)
            fake_imgs, mu, logvar = self.netG(noise, txt_embedding)
            for netD, optD, real, fake in zip(self.netsD, self.optimizersD, imgs, fake_imgs):
                netD.zero_grad()
                errD = bce(netD(real, txt_embedding), 1.0)
                errD = errD + bce(netD(fake.detach(), txt_embedding), 0.0)
                errD.backward()
                optD.step()
            self.netG.zero_grad()
            errG_total = -(1 + logvar - mu.pow(2) - logvar.exp()).mean()
            for netD, fake in zip(self.netsD, fake_imgs):
                errG_total = errG_total + bce(netD(fake, txt_embedding), 1.0)
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
