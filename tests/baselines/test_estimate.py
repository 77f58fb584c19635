import json
import re

import pytest
import torch

from baselines import damsm, stream, train
from baselines.config import Config, ConfigError, override
from baselines.estimate import GIB, memory, parameters, require_memory, steps, summary
from baselines.hosts import HOSTS, build_discriminators, build_generator
from baselines.training.loop import run_step
from baselines.trial import duration
from tests.baselines.commands import train_command

ALL_PRESETS = [(host, name) for host in HOSTS for name in HOSTS[host].presets]


@pytest.mark.parametrize(
    ("host", "name", "changes"),
    [
        *((host, name, ()) for host, name in ALL_PRESETS),
        ("dfgan", "cub", ("model.base_size=32", "model.noise_dim=300")),
        ("dfgan", "demo", ("model.base_size=128", "encoder.embedding_dim=512")),
        ("stackgan", "cub", ("model.stages=1", "model.base_size=256")),
        ("stackgan", "cub", ("model.stages=4", "model.residual_blocks=0")),
        ("stackgan", "demo", ("model.residual_blocks=8", "model.condition_dim=512")),
        ("mirrorgan", "demo", ("model.residual_blocks=1", "model.condition_dim=512")),
    ],
)
def test_parameters_are_those_of_the_networks(host, name, changes):
    config = override(HOSTS[host].presets[name], changes)
    with torch.device("meta"):
        generator, discriminators = build_generator(config), build_discriminators(config)
    built = {"generator": generator}
    built |= {f"D{network.image_size}": network for network in discriminators}
    counted = {
        name: sum(p.numel() for p in network.parameters()) for name, network in built.items()
    }
    assert parameters(config) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    "setting",
    [
        "optim.batch_size=40", "model.stages=4", "model.feature_dim=64", "data.max_words=36",
        "model.base_size=128", "model.discriminator_dim=128", "encoder.input_size=128",
        "model.residual_blocks=4", "loss.bank=4096", "data.workers=16", "data.train_images=40000",
    ],
)  # fmt: skip
def test_memory_grows_with_everything_that_is_held(setting):
    config = HOSTS["alrgan"].presets["scenes"]
    assert memory(override(config, [setting]), "train") > memory(config, "train")
    assert memory(config, "train") > memory(HOSTS["attngan"].presets["scenes"], "train")


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("data.max_words=1000000000", "data.max_words"),
        ("model.stages=1000000", "model.stages"),
        (f"model.base_size={2**40}", "model.base_size"),
        (f"model.base_size={2**5000}", "model.base_size"),
        ("model.feature_dim=1000000", "model.feature_dim"),
        ("model.noise_dim=100000000000", "model.noise_dim"),
        ("optim.batch_size=1000000", "optim.batch_size"),
        ("model.residual_blocks=100000000", "model.residual_blocks"),
        ("data.train_images=1000000000000", "data.train_images"),
        ("data.workers=100000", "data.workers"),
        ("loss.bank=10000000000", "loss.bank"),
        ("model.discriminator_dim=100000", "model.discriminator_dim"),
    ],
)
def test_absurd_settings_are_refused_by_name(setting, key):
    config = override(HOSTS["alrgan"].presets["demo"], [setting])
    with pytest.raises(ConfigError) as caught:
        require_memory(config, "train", 64 * GIB, "cpu")
    message = str(caught.value)
    assert message.startswith(f"{key}=") and f"choose a smaller {key}" in message
    assert "cpu has 64.0 GiB" in message and len(message) < 400 and "\n" not in message


@pytest.mark.parametrize(("host", "name"), ALL_PRESETS)
@pytest.mark.parametrize("command", ["train", "damsm"])
def test_presets_fit_where_they_are_meant_to_run(host, name, command):
    gib = 4 if name in ("demo", "cub-small") else 24
    require_memory(HOSTS[host].presets[name], command, gib * GIB, "cpu")


def test_the_commands_refuse_before_anything_is_built(tmp_path, encoders, monkeypatch):
    monkeypatch.setattr("baselines.train.build_objective", None)
    words = ["--set", "data.max_words=1000000000"]
    with pytest.raises(ConfigError, match=r"data\.max_words=1000000000: training would take about"):
        train.main([*train_command("alrgan", tmp_path / "run", encoders, 1), *words])
    with pytest.raises(ConfigError, match=r"encoder\.batch_size=10000000: training would take"):
        damsm.main(["--preset", "demo", "--run-dir", str(tmp_path / "run"), "--set",
                    "encoder.batch_size=10000000"])  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_what_training_takes_beside_the_configuration(tmp_path, capsys):
    arguments = ["attngan", "--preset", "cub", "--run-dir", str(tmp_path / "run"), "--dry-run"]
    train.main(arguments)
    out, err = capsys.readouterr()
    assert json.loads(out)["model"]["name"] == "attngan"
    parameters_, steps_, memory_ = err.splitlines()
    assert parameters_.startswith(
        "parameters (of the stacked networks in these sizes), about: generator 7.08 M, D64 6.31 M, "
    )
    assert steps_ == "steps: 265,650 on one process"
    assert memory_.startswith("memory, about: ")
    train.main(["dfgan", *arguments[1:]])
    assert capsys.readouterr().err.startswith("parameters, about: generator 9.74 M, D256 6.92 M\n")
    # Absurd values are shown, not computed with for ever.
    train.main([*arguments, "--set", "model.stages=1000000", "--set", f"data.max_words={10**30}"])
    assert "e+" in capsys.readouterr().err


TIMED = re.compile(
    r"time, without loading images: (\d+|\d+\.\d) (s|min|h|days), from 2 steps of "
    r"([\d.]+) s on cpu with \d+ threads"
)


def timed_steps(command, arguments, capsys, monkeypatch):
    """How many steps the time that is told is of, and the shapes of the images of a step."""
    seen = []

    def watched(objective, parts, *rest):
        seen.append([tuple(part.images.shape) for part in parts])
        run_step(objective, parts, *rest)

    monkeypatch.setattr("baselines.trial.STEPS", 2)
    monkeypatch.setattr("baselines.loading.SECONDS", 0.05)
    monkeypatch.setattr("baselines.trial.run_step", watched)
    command.main([*arguments, "--dry-run", "--timed"])
    line, loading = capsys.readouterr().err.splitlines()[-2:]
    found = TIMED.fullmatch(line)
    assert found, line
    assert re.fullmatch(r"loading: [\d,]+ images/s at \d+ px with data.workers=\d", loading)
    unit = {"s": 1, "min": 60, "h": 3600, "days": 86400}[found[2]]
    assert len(seen) == 3  # the first does not count
    return float(found[1]) * unit / float(found[3]), seen[-1]


def test_a_timed_dry_run_tells_how_long_training_takes_here(
    tmp_path, encoders, capsys, monkeypatch
):
    arguments = train_command("alrgan", tmp_path / "run", encoders, 1000, "optim.accumulate=2")
    for given in (arguments, without_encoders(arguments)):
        counted, images = timed_steps(train, given, capsys, monkeypatch)
        # 1000 steps of one batch are 500 of two; both numbers are shown with rounding.
        assert counted == pytest.approx(500, rel=0.3) and images == [(4, 3, 32, 32)] * 2
    assert not (tmp_path / "run").exists()


# The batch and the images of a command's own settings, whatever those of `train` are.
PRETRAINING = {
    damsm: (("encoder.images=6000", "encoder.batch_size=6", "encoder.input_size=64"), 64),
    stream: (("stream.images=6000", "stream.batch_size=6"), 32),
}


@pytest.mark.parametrize("command", PRETRAINING)
def test_a_timed_dry_run_of_pretraining_takes_its_own_batches(
    command, tmp_path, capsys, monkeypatch
):
    given = ["--preset", "demo", "--run-dir", str(tmp_path / "run"), "--set", "run.device=cpu"]
    settings, size = PRETRAINING[command]
    for setting in settings:
        given += ["--set", setting]
    counted, images = timed_steps(command, given, capsys, monkeypatch)
    assert counted == pytest.approx(1000, rel=0.3) and images == [(6, 3, size, size)]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [train, damsm, stream])
def test_timed_has_no_effect_without_a_dry_run(command, tmp_path):
    model = ["attngan"] if command is train else []
    with pytest.raises(ConfigError, match="--timed: has no effect without --dry-run"):
        command.main([*model, "--preset", "demo", "--run-dir", str(tmp_path / "run"), "--timed"])


def without_encoders(arguments):
    place = arguments.index("--encoders")
    return [*arguments[:place], *arguments[place + 2 :]]


def test_durations_are_shown_in_the_unit_that_fits():
    shown = [duration(seconds) for seconds in (42.4, 5000, 90000, 1e6)]
    assert shown == ["42 s", "83 min", "25.0 h", "11.6 days"]


def test_steps_count_the_images_of_all_processes():
    config = override(Config(), ["optim.images=1000", "optim.batch_size=30", "encoder.images=100"])
    assert steps(config, "train") == 34 and steps(config, "train", 4) == 9
    assert steps(override(config, ["optim.accumulate=2"]), "train") == 17
    assert steps(config, "damsm") == 3
    assert summary(config, "damsm").startswith("steps: 3 on")
