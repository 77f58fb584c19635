"""Layout refinement for AttnGAN-like generators in two lines: attach."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alr_layers import _checks
from alr_layers._stage_host import StageHost
from alr_layers.alr import ALRLoss, ALRModule
from alr_layers.attached import AttachedRefinement
from alr_layers.balance import TermBalance
from alr_layers.encoder import LayoutEncoder
from alr_layers.options import DECODES, Decode
from alr_layers.refinement import LayoutRefinement


def attach(
    generator: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    balance: TermBalance | None = None,
    decode: Decode = "stage",
    stages: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    feature_dims: Sequence[int] | None = None,
    downsample: int | None = None,
    own_layout: bool | None = None,
    word_dim: int | None = None,
    use_lvr: bool = True,
    alr: Callable[[int], ALRLoss] = ALRLoss,
) -> AttachedRefinement:
    """Attach layout refinement (E4-E12) to the stages of an AttnGAN-like generator.

    The generator's forward, its `state_dict()` and what it computes stay as they are; see
    `AttachedRefinement` for which generators this is made and what it does in a step.

    Args:
        generator: the network, plain, compiled or in DDP.
        optimizer: the generator's, which the refinement's parameters join as a further group; None:
            add `refinement.parameters()` to it yourself.
        balance: how terms are weighed; None is TermBalance(alr=0.05, lvr=0.02), with reconstruction
            at weight 1.
        decode: our readings of the decoder in E4: "stage", the refinement stage and its head on h*;
            "head", the image head that reads h; "generator", all of it called anew from h* on.
        stages: names of the modules that read h; None finds h_net2, h_net3, ...
        heads: for every stage the image head that decodes: with "stage" the one that reads what the
            stage returns, with "head" the one that reads h. None finds img_net1, img_net2, ...
        feature_dims: D of every stage's h; None reads them off the weights.
        downsample: side of the decoded images over that of h, a power of two; None is 2 for
            "stage", 1 for "head".
        own_layout: bring an `ALRModule` along for Θ; None does so where the stage has neither `att`
            (AttnGAN) nor `M_w` (DM-GAN).
        word_dim: C, channels of the words, for `own_layout`.
        use_lvr: whether to add the LVR loss.
        alr: builds the ALR loss of a stage from D, e.g. functools.partial(ALRLoss, max_words=77).

    Raises:
        ValueError: stages, heads or sizes are not found; the message says what to name.
        TypeError: `generator` is not a module, `alr` builds none, or what is named stage by stage
            is no list.
    """
    network = unwrapped(generator)
    _check_builder(alr)
    plan = _plan(network, decode, stages, heads, feature_dims, downsample)
    # Initial weights are drawn from a copy of the random stream: the host's goes on undisturbed.
    with torch.random.fork_rng(devices=[]):
        hosts = [_stage_host(network, entry, own_layout, word_dim) for entry in plan]
        refinements = [_refinement(network, host, alr, use_lvr) for host in hosts]
    if balance is None:
        balance = TermBalance(alr=0.05, lvr=0.02) if use_lvr else TermBalance(alr=0.05)
    attached = AttachedRefinement(network, hosts, refinements, balance).to(_weight(network).device)
    if optimizer is not None:
        _join(optimizer, attached)
    return attached


def _join(optimizer: torch.optim.Optimizer, attached: nn.Module) -> None:
    """Train what is attached with the settings of the optimizer's first group."""
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    optimizer.add_param_group({**group, "params": list(attached.parameters())})


def _check_builder(alr: object) -> None:
    """Every stage has a D of its own, and so a loss of its own."""
    if isinstance(alr, nn.Module) or not callable(alr):
        raise TypeError(
            f"alr is a {type(alr).__name__}, expected what builds the loss of a stage from its D:"
            " ALRLoss, or functools.partial(ALRLoss, max_words=77)"
        )


class _Entry(NamedTuple):
    """One stage by name."""

    stage: str
    head: str | None
    feature_dim: int
    decode: Decode
    downsample: int


def _plan(
    network: nn.Module,
    decode: Decode,
    stages: Sequence[str] | None,
    heads: Sequence[str | None] | None,
    feature_dims: Sequence[int] | None,
    downsample: int | None,
) -> list[_Entry]:
    """What is to be attached where."""
    _checks.choice("decode", decode, DECODES)
    for given, what in ((stages, "stages"), (heads, "heads"), (feature_dims, "feature_dims")):
        if given is not None and (isinstance(given, str) or not isinstance(given, Sequence)):
            raise TypeError(
                f"{what} is {given!r}, expected a list with an entry for every stage:"
                f" {what}=[{given!r}]"
            )
    names = _stage_names(network) if stages is None else list(stages)
    if decode == "generator":
        heads = [None] * len(names)
        if downsample is None:
            raise ValueError(
                'decode="generator" needs downsample: the side of the generator\'s images over that'
                " of the features that the stage reads, e.g. 256 / 64 = 4"
            )
    elif heads is None:
        heads = [_head_name(name, 0 if decode == "stage" else 1) for name in names]
    if feature_dims is None:
        feature_dims = [_feature_dim(network, name) for name in names]
    for given, what in ((heads, "heads"), (feature_dims, "feature_dims")):
        if len(given) != len(names):
            raise ValueError(f"{what} has {len(given)} entries, expected one for each of {names}")
    factor = downsample or (2 if decode == "stage" else 1)
    return [
        _Entry(*entry, decode, factor) for entry in zip(names, heads, feature_dims, strict=True)
    ]


def _stage_host(
    network: nn.Module, entry: _Entry, own_layout: bool | None, word_dim: int | None
) -> StageHost:
    stage = _part(network, entry.stage, "stages")
    # A block without attention may keep `self.att = None` for it.
    attends = any(getattr(stage, name, None) is not None for name in ("att", "M_w"))
    own = not attends if own_layout is None else own_layout
    return StageHost(
        network,
        stage,
        None if entry.head is None else _part(network, entry.head, "heads"),
        feature_dim=entry.feature_dim,
        own=_own_module(entry.feature_dim, word_dim, entry.stage) if own else None,
        decode=entry.decode,
        downsample=entry.downsample,
    )


def _refinement(
    network: nn.Module, host: StageHost, alr: Callable[[int], ALRLoss], use_lvr: bool
) -> LayoutRefinement:
    return LayoutRefinement(
        host,
        decode=host.decode,
        use_lvr=use_lvr,
        alr=alr(host.feature_dim),
        encoder=LayoutEncoder(host.feature_dim, downsample=host.downsample),
        host=network,
    )


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"generator is a {type(network).__name__}, expected a torch.nn.Module")
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and "Parallel" in type(network).__name__:
            inner = getattr(network, "module", None)
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def _stage_names(network: nn.Module) -> list[str]:
    numbers = sorted(
        int(found[1])
        for name, _ in network.named_children()
        if (found := re.fullmatch(r"h_net(\d+)", name)) and int(found[1]) > 1
    )
    if not numbers:
        raise ValueError(
            f"{type(network).__name__} has no refinement stages h_net2, h_net3, ...: name them and"
            " their image heads, attach(..., stages=[...], heads=[...]), or wire LayoutRefinement"
            " explicitly"
        )
    return [f"h_net{number}" for number in numbers]


def _head_name(stage: str, before: int) -> str:
    """The image head of a stage by its number, or the one `before` it."""
    found = re.fullmatch(r"h_net(\d+)", stage)
    if found is None:
        raise ValueError(f"stage {stage!r} has a name of its own: name its image head, heads=[...]")
    return f"img_net{int(found[1]) - before}"


def _part(network: nn.Module, name: str, argument: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        children = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"{type(network).__name__} has no {name}; name what stands for it, {argument}=[...],"
            f" out of: {children}"
        ) from None


def _feature_dim(network: nn.Module, stage: str) -> int:
    """D of the features that `stage` reads: channels that the head before it reads."""
    context = getattr(getattr(_part(network, stage, "stages"), "att", None), "conv_context", None)
    if isinstance(context, nn.Module):
        return int(_weight(context).shape[0])
    found = re.fullmatch(r"h_net(\d+)", stage)
    head = getattr(network, f"img_net{int(found[1]) - 1}", None) if found else None
    for part in head.modules() if isinstance(head, nn.Module) else ():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
    raise ValueError(
        f"the number of channels that {stage} reads cannot be told from the weights: name it,"
        " attach(..., feature_dims=[...])"
    )


def _own_module(feature_dim: int, word_dim: int | None, stage: str) -> ALRModule:
    if word_dim is None:
        raise ValueError(
            f"{stage} has no attention of its own: say how many channels the words have,"
            " attach(..., word_dim=...), and hand over words and lengths in every step"
        )
    return ALRModule(feature_dim, word_dim)


def _weight(module: nn.Module) -> Tensor:
    return next(module.parameters())
