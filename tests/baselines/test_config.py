import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.config import (
    Config,
    ConfigError,
    OptimConfig,
    RefineConfig,
    from_dict,
    load_config,
    override,
    save_config,
    settings,
    to_dict,
)
from baselines.data import SOURCES
from baselines.errors import UserError
from baselines.hosts import HOSTS
from baselines.settings import describe


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


@given(st.floats(1e-9, 1.0), st.integers(1, 10**9), st.booleans())
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
        ("optim.g_lr=1e300", r"optim\.g_lr=1e\+300: expected a number above 0, at most 1"),
        ("loss.gamma1=0", r"loss\.gamma1=0\.0: expected a number above 0"),
        ("loss.gamma2=-5", "above 0"),
        ("loss.gamma3=0", "above 0"),
        ("encoder.lr_decay=0", "above 0, at most 1"),
        ("encoder.lr_decay=1.5", "above 0, at most 1"),
        ("encoder.embedding_dim=65", "an even number"),
        ("optim.beta1=1", "from 0 to below 1"),
        ("run.seed=99999999999999999999", "64 bits"),
        ("data.name=cup", "expected one of 'scenes', 'cub'"),
        ("loss.bank=-1", "0 or more"),
        ("optim.accumulate=0", "1 or more"),
        ("optim.decay=1.1", "between 0 and 1"),
        ("optim.amp=bf8", "'auto', 'bf16'"),
        ("refine.source=text", "'module', 'damsm'"),
        ("model.discriminator_norm=layer", "'batch', 'spectral'"),
        ("run.evaluate_every=-1", "0 or more"),
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
    with pytest.raises(ConfigError, match="not a group"):
        from_dict(Config, [])


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"optim": {"g_lr": 1e999}}', "\xff"])
def test_a_damaged_configuration_is_named(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json: ") as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_configuration_of_before_a_setting_existed_opens_with_its_default(tmp_path):
    values = to_dict(Config())
    del values["loss"]["bank"], values["run"]["evaluate_every"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_config(tmp_path / "config.json") == Config()


def test_values_are_checked_however_a_group_is_made():
    with pytest.raises(ConfigError, match=r"g_lr=-1\.0: expected a number above 0"):
        OptimConfig(g_lr=-1.0)
    with pytest.raises(ConfigError, match="batch_size=True: expected int, got bool"):
        dataclasses.replace(OptimConfig(), batch_size=True)
    assert type(OptimConfig(g_lr=1).g_lr) is float


def test_every_setting_says_what_it_means_and_its_default_keeps_its_rule():
    for key, one in settings(Config).items():
        assert len(one.help) > 10 and not one.help.endswith("."), key
        assert one.checked(one.default) == one.default, key


@pytest.mark.parametrize("command", ["train", "damsm", "stream"])
def test_help_lists_every_setting_that_the_command_reads(command):
    text = describe(Config, command)
    for key, one in settings(Config).items():
        assert (f"  {key} (" in text) == (one.only in ("", command)), key
    names = ", ".join(map(repr, SOURCES))
    assert f"  data.name (str, one of {names}; default 'scenes')" in text
    line = next(line for line in text.splitlines() if line.startswith("  data.workers "))
    assert line == "  data.workers (int, 0 or more; default 0; may change on resume)"


def test_the_added_terms_are_named_one_by_one():
    names = {terms: RefineConfig(terms=terms).names for terms in ("", "alr", "alr,lvr")}
    assert names == {"": (), "alr": ("alr",), "alr,lvr": ("alr", "lvr")}
