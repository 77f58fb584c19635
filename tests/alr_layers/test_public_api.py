"""The public surface is frozen: names, signatures, examples, and what importing it costs."""

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest

import alr_layers

CALLABLES = {
    "ALRModule": "(feature_dim, word_dim, *, backend=None)",
    "ALRModule.forward": "(self, features, words, lengths)",
    "ALRModule.layout": "(self, features, words, lengths)",
    "ALRLoss": "(feature_dim, *, max_words=None, gamma=0.1, normalization='paper',"
    " detach_target=True, backend=None)",
    "ALRModule.from_conv": "(weight, *, backend=None)",
    "ALRLoss.forward": "(self, layout, real_layout, real_features, lengths=None)",
    "ALRLoss.terms": "(self, layout, real_layout, real_features, lengths=None)",
    "LVRLoss": "(*, mask='soft', normalization='paper', detach_target=True, backend=None)",
    "LVRLoss.forward": "(self, features, real_features, layout, real_layout, lengths=None)",
    "LVRLoss.terms": "(self, features, real_features, layout, real_layout, lengths=None)",
    "LayoutEncoder": "(feature_dim, *, downsample=1, width=None, grid=None)",
    "LayoutEncoder.forward": "(self, images)",
    "LayoutRefinement": "(module, *, decode, use_lvr=True, alr=None, lvr=None,"
    " encoder=None, host=None)",
    "LayoutRefinement.forward": "(self, features, layout, real_images, words, lengths, *,"
    " decode_args=())",
    "LayoutRefinement.terms": "(self, features, layout, real_images, words, lengths, *,"
    " decode_args=(), real=None)",
    "LayoutRefinement.total": "(terms)",
    "LayoutRefinement.real_branch": "(self, real_images, words, lengths)",
    "attach": "(generator, *, optimizer=None, balance=None, decode='stage', stages=None,"
    " heads=None, feature_dims=None, downsample=None, own_layout=None, word_dim=None,"
    " use_lvr=True, alr=<class 'alr_layers.alr.ALRLoss'>)",
    "AttachedRefinement": "(generator, hosts, refinements, balance)",
    "AttachedRefinement.forward": "(self, host_loss, real_images, *, step, words=None,"
    " lengths=None)",
    "AttachedRefinement.terms": "(self, real_images, *, words=None, lengths=None)",
    "AttachedRefinement.remove": "(self)",
    "TermBalance": "(*, start=0, ramp=0, every=16, weights=None, **shares)",
    "TermBalance.forward": "(self, host_loss, terms, *, at, step, anchors=None)",
    "TermBalance.weighted": "(self, host_loss, terms, *, at, step, anchors=None)",
    "TermBalance.measure": "(self, host_loss, terms, *, at, step, anchors=None)",
    "TermBalance.weight": "(self, name, step)",
    "TermBalance.report": "(self)",
    "LayoutSource.layout": "(self, features, words, lengths)",
    "LayoutOutput": "(context, layout)",
    "semantic_similarity": "(features, projected_words, lengths, *, backend=None)",
    "text_vision_matrix": "(layout, projected_words, *, backend=None)",
    "alr_residual": "(layout, real_layout, *, gamma)",
    "alr_loss": "(easy, hard, alpha, beta, *, feature_dim, normalization='paper', backend=None)",
    "lengths_from_mask": "(mask, *, padding)",
    "lengths_from_clip_tokens": "(tokens, *, end=None)",
    "layout_mask": "(layout, *, mask='soft')",
    "perception_refinement_loss": "(features, real_features, layout, real_layout, *, mask='soft',"
    " normalization='paper', backend=None)",
    "style_refinement_loss": "(features, real_features, layout, real_layout, *, mask='soft',"
    " backend=None)",
    "use_backend": "(backend)",
    "explain": "(op, *tensors)",
    "frozen_statistics": "(module)",
}
MODULES = [
    "alr",
    "lvr",
    "balance",
    "refinement",
    "functional",
    "kernels.dispatch",
    "kernels.reference",
]


def signature(name: str) -> str:
    value = alr_layers
    for part in name.split("."):
        value = getattr(value, part)
    found = inspect.signature(value)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return str(inspect.Signature(plain))


def test_names():
    frozen = {name for name in CALLABLES if "." not in name} | {
        "FusedUnavailableError",
        "LayoutSource",
    }
    assert set(alr_layers.__all__) == frozen
    assert all(hasattr(alr_layers, name) for name in frozen)


@pytest.mark.parametrize("name", CALLABLES)
def test_signatures(name):
    assert signature(name) == CALLABLES[name]


@pytest.mark.parametrize("name", sorted(alr_layers.__all__))
def test_everything_public_is_documented(name):
    documentation = inspect.getdoc(getattr(alr_layers, name))
    assert documentation and len(documentation.splitlines()[0]) > 20


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"alr_layers.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    if name != "kernels.reference":
        assert result.attempted > 0


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_needs_torch_alone():
    """Triton out of reach, nothing heavy pulled in, the reference at work."""
    code = """
import sys, torch
import importlib.util
for name in ("triton", "torchvision", "timm", "einops"):
    sys.modules[name] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
before = set(sys.modules)
import alr_layers
added = {name.split(".")[0] for name in set(sys.modules) - before}
heavy = {"scipy", "sympy", "matplotlib", "PIL"} & added
assert not heavy, heavy
assert not any(name.startswith("torch._dynamo") for name in set(sys.modules) - before)
alr_layers.ALRModule(4, 4)(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 3), torch.tensor([2]))
print(alr_layers.explain("layout_context"))
"""
    assert "triton is not installed" in run_python(code)
