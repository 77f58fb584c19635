"""A host on BERT words in miniature: attention_mask, own attention, accumulated gradients."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.adoption.data import BATCH, VOCABULARY, load_batch

DIM, NZ, HIDDEN = 16, 5, 12


class BertModel(nn.Module):
    """last_hidden_state (B, T, C) and pooler_output (B, C)."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, HIDDEN)
        layer = nn.TransformerEncoderLayer(HIDDEN, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask):
        padding = attention_mask == 0
        states = self.encoder(self.embeddings(input_ids), src_key_padding_mask=padding)
        return states, states[:, 0]


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_kv = nn.Conv2d(DIM, DIM, 1), nn.Linear(HIDDEN, DIM)

    def forward(self, h, words, attention_mask):
        q, kv = self.to_q(h).flatten(2), self.to_kv(words)
        scores = kv @ q
        scores = scores.masked_fill(attention_mask[:, :, None] == 0, float("-inf"))
        weights = scores.softmax(1)
        return (kv.transpose(1, 2) @ weights).view_as(h)


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = CrossAttention()
        self.conv = nn.Sequential(nn.Conv2d(2 * DIM, DIM, 3, padding=1), nn.BatchNorm2d(DIM))
        self.rgb = nn.Conv2d(DIM, 3, 3, padding=1)

    def forward(self, h, words, attention_mask):
        context = self.attention(h, words, attention_mask)
        h = F.interpolate(F.relu(self.conv(torch.cat((h, context), 1))), scale_factor=2)
        return self.rgb(h).tanh()


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.stem = nn.Linear(NZ + HIDDEN, DIM * 16), nn.Conv2d(DIM, DIM, 3, padding=1)
        self.stage = Stage()

    def features(self, noise, sentence):
        h = self.fc(torch.cat((noise, sentence), 1)).view(-1, DIM, 4, 4)
        return self.stem(F.interpolate(h, scale_factor=4))


class Trainer:
    def __init__(self):
        torch.manual_seed(0)
        self.netG = Generator()
        self.netD = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(4), nn.Conv2d(8, 1, 4)
        )
        self.bert = BertModel().eval().requires_grad_(False)
        self.opt_g = torch.optim.AdamW(self.netG.parameters(), lr=1e-4, betas=(0.0, 0.99))
        self.opt_d = torch.optim.AdamW(self.netD.parameters(), lr=1e-4, betas=(0.0, 0.99))

    def train(self, first_step, last_step, accumulate=2):
        for step in range(first_step, last_step):
            torch.manual_seed(step)
            self.opt_g.zero_grad()
            self.opt_d.zero_grad()
            for part in range(accumulate):
                (real,), input_ids, cap_lens = load_batch(step * accumulate + part, (32,))
                attention_mask = (torch.arange(input_ids.size(1)) < cap_lens[:, None]).long()
                words, sentence = self.bert(input_ids, attention_mask)
                h = self.netG.features(torch.randn(BATCH, NZ), sentence)
                fake = self.netG.stage(h, words, attention_mask)
                loss_d = F.softplus(self.netD(fake.detach())) + F.softplus(-self.netD(real))
                (loss_d.mean() / accumulate).backward()
                loss_g = F.softplus(-self.netD(fake)).mean()
                (loss_g / accumulate).backward(inputs=list(self.netG.parameters()))
            self.opt_g.step()
            self.opt_d.step()

    def state(self):
        return {
            "netG": self.netG,
            "netD": self.netD,
            "opt_g": self.opt_g,
            "opt_d": self.opt_d,
        }

    def save_model(self, path):
        torch.save({name: part.state_dict() for name, part in self.state().items()}, path)

    def load_model(self, path):
        saved = torch.load(path)
        for name, part in self.state().items():
            part.load_state_dict(saved[name])
