"""What README.md shows to be added is what is run, and works on an AttnGAN-like host."""

import json
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import alr_layers
from tests.adoption.support import added, recipe
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


REPOSITORY = "https://github.com/alr-layers/alr-layers"
RAW = "https://raw.githubusercontent.com/alr-layers/alr-layers/main/"


def added_lines(shown: int) -> list[str]:
    """The lines that one of the diffs on the page adds."""
    blocks = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    return [line[1:] for line in blocks[shown].splitlines() if line.startswith("+")]


def test_two_lines_are_the_recipe_that_is_run():
    run = [line.strip() for line in added(recipe("attngan"))]
    assert [line.strip() for line in added_lines(0)] == run
    assert len(run) == 4, "the import, two lines, and one for the checkpoint"


def test_ten_lines_run_and_train_the_host():
    imports, module, forward, *rest = added_lines(1)
    scope: dict = {"feature_dim": 8, "word_dim": 12}
    exec(imports, scope)
    exec(module.replace("self.alr", "alr"), scope)
    conv, head = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def stage(h, words, lengths):
        context, _ = scope["alr"](h, words, lengths)
        return nn.functional.interpolate(conv(torch.cat((h, context), 1)), scale_factor=2)

    stage.alr = scope["alr"]
    parameters = [*conv.parameters(), *head.parameters(), *scope["alr"].parameters()]
    scope["optimizer"] = torch.optim.Adam(parameters)
    h = torch.randn(2, 8, 4, 4, requires_grad=True)
    scope |= {"h": h, "words": torch.randn(2, 12, 5), "lengths": torch.tensor([5, 2]), "step": 0}
    scope |= {"real_images": torch.rand(2, 3, 8, 8) * 2 - 1, "stage": stage, "head": head}
    scope |= {"self": SimpleNamespace(alr=scope["alr"])}
    exec(forward, scope)
    host = head(stage(h, scope["words"], scope["lengths"])).square().mean()
    scope |= {"adversarial": host, "damsm": torch.zeros(()), "kl": torch.zeros(())}
    exec("\n".join(rest), scope)
    assert scope["balance"].report()["alr"]["scale"] > 0
    scope["loss"].backward()
    assert h.grad.abs().sum() > 0
    new = scope["optimizer"].param_groups[1]["params"]
    assert {id(p) for p in new} == {id(p) for p in scope["refine"].parameters()}
    assert all(p.grad is not None for p in [*new, *parameters])


def test_it_is_ten_lines():
    assert len(added_lines(1)) == 10


def test_every_command_of_the_trainers_is_listed():
    listed = (ROOT / "baselines" / "README.md").read_text(encoding="utf-8")
    commands = [
        path.stem
        for path in (ROOT / "baselines").glob("*.py")
        if "if __name__ ==" in path.read_text(encoding="utf-8")
    ]
    assert len(commands) > 10
    for command in commands:
        assert f"\n| `python -m baselines.{command}` |" in listed, command


def test_addresses_of_the_repository_lead_to_files():
    """They are absolute, so that the page looks right on an index."""
    links = re.findall(rf"{REPOSITORY}/(?:blob|tree)/main/([^)\s]+)", README)
    links += re.findall(rf"{RAW}([^)\s]+)", README)
    assert len(links) > 8
    for path in links:
        assert (ROOT / path).exists(), path
    assert not re.findall(r"!\[[^]]*\]\((?!https://)", README), "no relative image"


def test_names_of_the_library_exist():
    names = set(re.findall(r"`([A-Z]\w+)\(|`(lengths_\w+|frozen_\w+|attach)\(", README))
    for name in {first or second for first, second in names}:
        assert hasattr(alr_layers, name), name


def test_every_path_named_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"^\| `([a-z_/.]+)` \|", README, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_commands_named_exist():
    for module in set(re.findall(r"python -m (baselines\.\w+)", README)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


RECIPES = re.findall(
    r"^python -m baselines\.(damsm|stream|train) (.+)$",
    (ROOT / "baselines" / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("command", "options"), RECIPES)
def test_recipes_are_accepted(command, options, capsys):
    # What the commands before them would have made is not here.
    options = re.sub(r"--(encoders|captioner) \S+", "", options)
    import_module(f"baselines.{command}").main([*options.split(), "--dry-run"])
    assert json.loads(capsys.readouterr().out)["data"]["max_words"]


def test_encoders_that_judge_see_with_another_trunk():
    """The recipe of independent encoders: a timm network, not the trunk that trains the host."""
    import timm

    (judge,) = [o for _, o in RECIPES if "--run-dir runs/cub-judge" in o]
    trunk = re.search(r"encoder\.trunk=(\S+)", judge)[1]
    assert timm.is_model(trunk) and trunk != "inception_v3"


def test_the_table_of_hosts_is_that_of_the_list():
    from baselines.hosts import HOSTS

    page = (ROOT / "baselines" / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- hosts:.*?-->\n(.*?)<!-- /hosts -->", page, re.DOTALL)[1]
    rows = [f"| `{host.name}` | {host.summary} |" for host in HOSTS.values()]
    assert table.splitlines()[2:] == rows
