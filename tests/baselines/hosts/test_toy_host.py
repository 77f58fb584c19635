"""A host with networks and losses of its own joins by one file and one line, and takes ALR.

Single stage, no layout, no conditioning augmentation, hinge losses, one extra term in G.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from baselines import evaluate, sample, train
from baselines.config import ModelConfig
from baselines.hosts import HOSTS
from baselines.hosts.host import GeneratorOutput, Host, RefinableStage
from baselines.presets import DEMO
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.loop import Phase
from baselines.training.objective import GANObjective
from baselines.training.terms import PhaseLoss, Term
from tests.baselines.commands import differences, stats_of

SIDE, WIDTH = 32, 6


class ToyGenerator(nn.Module):
    legacy_mask = False

    def __init__(self, config):
        super().__init__()
        self.noise_dim, self.condition_dim = config.model.noise_dim, config.model.condition_dim
        self.start = nn.Linear(self.noise_dim + config.encoder.embedding_dim, WIDTH * 16 * 16)
        self.paint = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, 3, 3, padding=1))

    def forward(self, noise, sentence, words, lengths, *, eps=None):
        features = self.start(torch.cat((noise, sentence), 1)).view(-1, WIDTH, 16, 16)
        nothing = noise.new_zeros(len(noise), 0)
        image = torch.tanh(self.paint(features))
        return GeneratorOutput((image,), (features,), (), nothing, nothing)


class ToyCritic(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten())
        self.judge = nn.Linear(8 * 64 + config.encoder.embedding_dim, 1)

    def forward(self, images, sentence):
        return self.judge(torch.cat((self.look(images), sentence), 1))


def brightness(step):
    """A term of G: one line in the objective's list."""
    return Term("brightness", step.fake.images[-1].mean().square(), 0.1)


class ToyObjective(GANObjective):
    def discriminator_phases(self):
        return [Phase("D", self.adam(self.discriminators, 1e-3), self.hinge)]

    def hinge(self, step):
        critic, sentence = self.discriminators[0], step.captions.sentence
        with self.autocast():
            real = (1 - critic(step.real[-1], sentence)).relu().mean()
            fake = (1 + critic(step.fake.images[-1].detach(), sentence)).relu().mean()
        return PhaseLoss(real + fake, [Term("real", real, 1.0), Term("fake", fake, 1.0)])

    def host_terms(self, step):
        logits = self.discriminators[0](step.fake.images[-1], step.captions.sentence)
        return [Term("adversarial", -logits.mean(), 1.0), brightness(step)]


def decode(generator, features, inputs):
    return torch.tanh(generator.paint(features))


def stages(config, generator):
    return (
        RefinableStage(
            name="grid16",
            feature_dim=WIDTH,
            features=lambda output: output.features[0],
            layout=None,
            source=None,
            decode=partial(decode, generator),
            image_size=SIDE,
            downsample=2,
            anchor=generator.paint[1].weight,
            host=generator,
        ),
    )


MODEL = ModelConfig(name="toy", noise_dim=5, condition_dim=4, base_size=SIDE, stages=1)
TOY = Host(
    name="toy",
    summary="One linear layer and a hinge.",
    presets={"demo": replace(DEMO, model=MODEL)},
    generator=ToyGenerator,
    discriminators=lambda config: nn.ModuleList([ToyCritic(config)]),
    stages=stages,
    objective=ToyObjective,
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(HOSTS, "toy", TOY)


def train_toy(run_dir, encoders, steps, *settings):
    arguments = ["toy", "--preset", "demo", "--run-dir", str(run_dir), "--encoders", str(encoders)]
    shared = (
        "data.train_images=16", "data.test_images=12", "optim.batch_size=4", "run.device=cpu",
        "run.log_every=1", "run.checkpoint_every=100", f"optim.images={4 * steps}", *settings,
    )  # fmt: skip
    for setting in shared:
        arguments += ["--set", setting]
    train.main(arguments)
    return load_torch(checkpoints(run_dir)[-1])


REFINED = ("refine.terms=alr,lvr", "refine.normalization=rms", "refine.alr.share=0.1")


@pytest.mark.parametrize("source", ["module", "damsm"])
def test_a_host_of_its_own_trains_with_alr_draws_is_evaluated_and_resumes(
    toy, source, encoders, tmp_path
):
    settings = (*REFINED, f"refine.source={source}")
    whole = train_toy(tmp_path / "whole", encoders, 4, *settings)
    train_toy(tmp_path / "parts", encoders, 2, *settings)
    parts = train_toy(tmp_path / "parts", encoders, 4, *settings)
    assert differences(whole["networks"], parts["networks"]) == []
    assert stats_of(tmp_path / "whole") == stats_of(tmp_path / "parts")
    logged = stats_of(tmp_path / "whole")[-1]
    assert {"D/real", "D/fake", "G/adversarial", "G/brightness", "G/host"} <= logged.keys()
    assert ("layout_modules" in whole["networks"]) == (source == "module")
    assert not any("alr" in key for key in whole["networks"]["generator"])

    run = str(tmp_path / "whole")
    pictures = tmp_path / "pictures"
    sample.main(["--run", run, "--text", "a red star", "--out", str(pictures), "--device", "cpu"])
    assert list(pictures.rglob("*.png"))
    evaluate.main(["--run", run, "--images", "12", "--metrics", "r_precision", "--device", "cpu"])
    assert "r_precision" in (tmp_path / "whole" / "evaluation.json").read_text()


def test_zero_weights_leave_the_toy_unchanged_to_the_bit(toy, encoders, tmp_path):
    plain = train_toy(tmp_path / "plain", encoders, 3)
    zero = [f"refine.{term}.weight=0" for term in ("alr", "reconstruction", "lvr")]
    refined = train_toy(tmp_path / "refined", encoders, 3, *REFINED, *zero)
    for name in ("generator", "discriminators", "average"):
        assert differences(plain["networks"][name], refined["networks"][name]) == []


def test_help_names_every_host(toy, capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in HOSTS)
