"""A host on CLIP words in miniature: (B, T, C) words, 28 px images, 16 px features."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.adoption.data import BATCH, load_batch

NF, NZ, CLIP_DIM, CONTEXT = 16, 5, 12, 11
START, END = 40, 41


class CLIPTextEncoder(nn.Module):
    """Token ids (B, T) to words (B, T, C) and the feature of the end token (B, C)."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(42, CLIP_DIM)
        layer = nn.TransformerEncoderLayer(CLIP_DIM, 2, 16, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 1)

    def forward(self, tokens):
        words = self.transformer(self.token_embedding(tokens))
        return words, words[torch.arange(len(tokens)), tokens.argmax(1)]


def tokenize(captions, cap_lens):
    tokens = torch.zeros(len(captions), CONTEXT, dtype=torch.int64)
    tokens[:, 0] = START
    for row, length in enumerate(cap_lens):
        tokens[row, 1 : length + 1] = captions[row, :length]
        tokens[row, length + 1] = END
    return tokens


class NetG(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(NZ + CLIP_DIM, NF * 16)
        self.up = nn.Sequential(
            nn.Upsample(size=16), nn.Conv2d(NF, NF, 3, padding=1), nn.BatchNorm2d(NF), nn.ReLU()
        )
        self.cond = nn.Linear(CLIP_DIM, NF)
        self.to_rgb = nn.Sequential(
            nn.Upsample(size=28), nn.Conv2d(NF, NF, 3, padding=1), nn.BatchNorm2d(NF), nn.ReLU(),
            nn.Conv2d(NF, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise, sent_emb):
        h = self.up(self.fc(torch.cat((noise, sent_emb), 1)).view(-1, NF, 4, 4))
        return self.to_rgb(h + self.cond(sent_emb)[..., None, None])


class NetD(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, NF, 4, 2, 1), nn.LeakyReLU(0.2))
        self.out = nn.Conv2d(NF + CLIP_DIM, 1, 4)

    def forward(self, x, c):
        h = F.adaptive_avg_pool2d(self.conv(x), 4)
        return self.out(torch.cat((h, c[:, :, None, None].expand(-1, -1, 4, 4)), 1))


class Trainer:
    def __init__(self):
        torch.manual_seed(0)
        self.netG, self.netD = NetG(), NetD()
        self.CLIP4text = CLIPTextEncoder().eval().requires_grad_(False)
        self.optimizer_G = torch.optim.Adam(self.netG.parameters(), lr=0.0001, betas=(0.0, 0.9))
        self.optimizer_D = torch.optim.Adam(self.netD.parameters(), lr=0.0004, betas=(0.0, 0.9))

    def train(self, first_step, last_step):
        for step in range(first_step, last_step):
            torch.manual_seed(step)
            (real,), captions, cap_lens = load_batch(step, (28,))
            CLIP_tokens = tokenize(captions, cap_lens)
            words_embs, sent_emb = self.CLIP4text(CLIP_tokens)
            fake = self.netG(torch.randn(BATCH, NZ), sent_emb)
            errD = F.relu(1 - self.netD(real, sent_emb)).mean()
            errD = errD + F.relu(1 + self.netD(fake.detach(), sent_emb)).mean()
            self.optimizer_D.zero_grad()
            errD.backward()
            self.optimizer_D.step()
            errG = -self.netD(fake, sent_emb).mean()
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
