import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.config import (
    Config,
    ConfigError,
    OptimConfig,
    from_dict,
    load_config,
    override,
    save_config,
    settings,
    to_dict,
)
from baselines.hosts import HOSTS


@pytest.mark.parametrize("model", HOSTS)
def test_presets_survive_json_and_name_their_model(model, tmp_path):
    for name, config in HOSTS[model].presets.items():
        assert config.model.name == model, name
        save_config(config, tmp_path / "config.json")
        assert load_config(tmp_path / "config.json") == config


def test_presets_are_the_originals():
    attngan, dmgan = HOSTS["attngan"].presets, HOSTS["dmgan"].presets
    table = {
        ("attngan", "cub"): (attngan["cub"], 20, 600 * 8855, 5.0, 64, 32, 2, 18),
        ("attngan", "coco"): (attngan["coco"], 14, 120 * 82783, 50.0, 96, 48, 3, 12),
        ("dmgan", "cub"): (dmgan["cub"], 10, 800 * 8855, 5.0, 32, 64, 2, 18),
        ("dmgan", "coco"): (dmgan["coco"], 16, 200 * 82783, 50.0, 32, 64, 3, 12),
    }
    for c, batch, images, damsm, d, g, blocks, words in table.values():
        assert (c.optim.batch_size, c.optim.images, c.loss.damsm) == (batch, images, damsm)
        assert (c.model.discriminator_dim, c.model.feature_dim) == (d, g)
        assert (c.model.residual_blocks, c.data.max_words) == (blocks, words)
        assert (c.loss.gamma1, c.loss.gamma2, c.loss.gamma3) == (4, 5, 10)
        assert (c.optim.g_lr, c.optim.d_lr, c.optim.beta1, c.optim.ema) == (2e-4, 2e-4, 0.5, 0.999)


@given(st.floats(1e-9, 1e3), st.integers(1, 10**9), st.booleans())
def test_overrides_read_what_they_write(rate, images, board):
    settings_ = [f"optim.g_lr={rate!r}", f"optim.images={images}", f"run.tensorboard={board}"]
    config = override(Config(), settings_)
    assert (config.optim.g_lr, config.optim.images) == (rate, images)
    assert config.run.tensorboard is board
    assert dataclasses.replace(config, optim=OptimConfig(), run=Config().run) == Config()


def test_later_overrides_win_and_nested_groups_are_reached():
    config = override(Config(), ["refine.alr.share=0.5", "refine.alr.share=0.25"])
    assert config.refine.alr.share == 0.25
    assert "refine.alr.share" in settings(Config)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.g_lr", "write it as group.key=value"),
        ("optim=1", "names a group; its keys are optim.batch_size"),
        ("optim.g_lr.x=1", "unknown key"),
        ("optm.g_lr=1", "nearest is 'optim.g_lr'"),
        ("run.tensorboard=yes", "expected true or false"),
        ("optim.batch_size=2.5", "expected int"),
        ("optim.g_lr=inf", "finite"),
        ("model.stages=0", "above 0"),
        ("model.name=gan", "expected one of 'attngan'"),
        ("refine.terms=lvr", "expected one of"),
        ("refine.gamma=1.5", "between 0 and 1"),
        ("optim.ema=-0.1", "between 0 and 1"),
        ("loss.damsm=-1", "0 or more"),
        ("model.base_size=48", "power of two"),
        ("optim.batch_size=1", "2 or more"),
    ],
)
def test_bad_overrides_name_key_and_remedy(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(Config(), [assignment])


def test_a_saved_configuration_is_read_strictly():
    values = to_dict(Config())
    values["optim"]["batch_size"] = "20"
    with pytest.raises(ConfigError, match=r"optim\.batch_size='20': expected int"):
        from_dict(Config, json.loads(json.dumps(values)))
    with pytest.raises(ConfigError, match="nearest is 'model'"):
        from_dict(Config, {"modle": {}})
    with pytest.raises(ConfigError, match="not a group"):
        from_dict(Config, {"model": 3})
