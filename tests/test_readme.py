"""What README.md shows to be added really works on an AttnGAN-like host."""

import re
from types import SimpleNamespace

import torch
from torch import nn

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def added_lines() -> list[str]:
    (block,) = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    return [line[1:] for line in block.splitlines() if line.startswith("+")]


def test_adoption_lines_run_and_train_the_host():
    imports, module, forward, *rest = added_lines()
    scope: dict = {"feature_dim": 8, "word_dim": 12}
    exec(imports, scope)
    exec(module.replace("self.alr", "alr"), scope)
    conv, head = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def stage(h, words, lengths):
        context, _ = scope["alr"](h, words, lengths)
        return nn.functional.interpolate(conv(torch.cat((h, context), 1)), scale_factor=2)

    stage.alr = scope["alr"]
    h = torch.randn(2, 8, 4, 4, requires_grad=True)
    scope |= {"h": h, "words": torch.randn(2, 12, 5), "lengths": torch.tensor([5, 2])}
    scope |= {"real_images": torch.rand(2, 3, 8, 8), "stage": stage, "head": head}
    scope |= {"self": SimpleNamespace(alr=scope["alr"])}
    scope |= dict.fromkeys(("adversarial", "damsm", "kl"), torch.zeros(()))
    exec("\n".join([forward, *rest]), scope)
    scope["loss"].backward()
    assert h.grad.abs().sum() > 0
    assert all(p.grad is not None for p in [*scope["refine"].parameters(), *head.parameters()])


def test_it_is_about_ten_lines():
    assert len(added_lines()) <= 10


def test_every_path_named_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"^\| `([a-z_/.]+)` \|", README, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_commands_named_exist():
    for module in set(re.findall(r"python -m (baselines\.\w+)", README)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
