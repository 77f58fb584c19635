"""What a host is: one frozen value with everything that differs from host to host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from baselines.config import Config
from baselines.networks.contracts import (
    Fusion,
    GeneratorInputs,
    GeneratorOutput,
    RefinableStage,
    Text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from baselines.data.vocabulary import Vocabulary

__all__ = [
    "Companion",
    "Fusion",
    "GeneratorInputs",
    "GeneratorOutput",
    "Host",
    "RefinableStage",
    "Text",
    "deferred",
]


def deferred(place: str) -> Callable[..., Any]:
    """The function or class at "module:name", imported when it is first called.

    So that a list of hosts, their presets and `--help` need not wait for torch.
    """
    module, _, name = place.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    call.__qualname__ = call.__name__ = name
    return call


STACKED = deferred("baselines.training.objective:StackedGANObjective")
STACKED_READS = ("loss.wrong", "loss.kl", "optim.sync_batch_norm")


@dataclass(frozen=True)
class Companion:
    """A frozen network that a host's losses read, trained beforehand by a command of its own.

    A run keeps a copy of its file, so that going on with the run needs nothing else.

    option: of the train command, which names the run directory of `command`; the objective is given
        the network by the same name.
    command: the module that trains it.
    file: its name in a run directory.
    needed: config -> whether the losses read it.
    settings: config, file -> the config with the settings that the network was trained with.
    load: file, the run's vocabulary -> the network.
    convert: converted networks, their vocabulary, file -> those that were written to it: all of its
        parts, or none where one is missing.
    untrained: config, vocabulary, file -> nothing; writes a fresh network to it, as good as any
        other for measuring what it costs.
    """

    option: str
    command: str
    file: str
    needed: Callable[[Config], bool]
    settings: Callable[[Config, Path], Config]
    load: Callable[[Path, Vocabulary], nn.Module]
    convert: Callable[[Sequence[nn.Module], Vocabulary, Path], Sequence[nn.Module]]
    untrained: Callable[[Config, Vocabulary, Path], None]


@dataclass(frozen=True)
class Host:
    """A text-to-image GAN that trains here, with and without layout refinement.

    name: of its folder, and on the command line.
    summary: one sentence for `--help` and README's table.
    presets: configurations by name.
    generator: config -> a module called as (noise, sentence, words, lengths, *, eps=None) that
        returns a `GeneratorOutput` and has `legacy_mask`, `noise_dim`, `condition_dim`.
    discriminators: config -> the networks that judge, in the order of their phases.
    stages: config, generator -> the stages that layout refinement may refine, first to last.
    objective: (config, generator, discriminators, text_encoder, image_encoder, world, *,
        extra_terms) -> what a run optimises, see `training.objective.GANObjective`; for a host with
        a companion that is needed, with that as a keyword too.
    companion: the further network that its losses read, if there is one.
    reads: settings that its losses read and not every host's do; those of the default objective.
    parameters: config -> parameters of the generator and of every discriminator ("D64"), about, and
        without torch; None: as the stacked networks in these sizes.
    read_original: a state_dict of the original code -> our network without values, on the meta
        device, or None if it is none of this host's; None: there is nothing to convert.
    layouts: whether its generator tells where it puts the words.
    layout_source: `refine.source` under `--refine`; "" is that of ALR-GAN's presets.
    stages_of_generator: attribute of the generator with the modules, one after the other, that
        hold most of its activations, and whose forward changes nothing but running statistics.
    layers_of_discriminator: the same of every discriminator; their forward may also move the
        vectors of `SpectralNorm`.
    wrong_images: whether its losses need an image of another class beside every captioned one.
    original_names: our network -> the original's name of every entry of its state_dict, or None if
        it is none of this host's.
    describe: a network that was read -> its "kind", which names its file, and its sizes in plain
        values, for a generator those of `ModelConfig`; None if it is none of this host's.
    """

    name: str
    summary: str
    presets: Mapping[str, Config]
    generator: Callable[[Config], nn.Module]
    discriminators: Callable[[Config], nn.ModuleList]
    stages: Callable[[Config, nn.Module], Sequence[RefinableStage]]
    objective: Callable[..., Any] = STACKED
    companion: Companion | None = None
    reads: Sequence[str] = STACKED_READS
    parameters: Callable[[Config], dict[str, float]] | None = None
    layouts: bool = True
    layout_source: str = ""
    stages_of_generator: str = "stages"
    layers_of_discriminator: str = "trunk"
    wrong_images: bool = False
    read_original: Callable[[Mapping[str, Tensor]], nn.Module | None] | None = None
    original_names: Callable[[nn.Module], dict[str, str] | None] | None = None
    describe: Callable[[nn.Module], dict[str, Any] | None] | None = None
