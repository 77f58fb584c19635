"""Checkpoints of the original hosts and of DAMSM to ours and back, one by one and as runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.config import Config, EncoderConfig, ModelConfig, from_dict, save_config
from baselines.conversion.foreign import NETWORKS, read_foreign
from baselines.conversion.recognise import build_like, original_names
from baselines.data.originals import save_captions_pickle, vocabulary_from_captions_pickle
from baselines.data.vocabulary import Vocabulary
from baselines.files import write_json
from baselines.hosts import HOSTS, preset
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import StackedGenerator
from baselines.networks.originals import ConversionError
from baselines.networks.trunks import UNUSED_INCEPTION_KEYS
from baselines.runs import (
    CONFIG,
    ENCODERS,
    GENERATOR,
    VOCABULARY,
    Encoders,
    load_run,
    save_encoders,
)
from baselines.training.checkpoint import save_torch, save_weights

# The originals evaluate with longer captions than they train with.
EVALUATION_WORDS = {"cub": 25, "coco": 20}
SHOWN = 12
# A 1x1 convolution over words, which the originals write as a 2-d one.
FLATTENED = "att.conv_context.weight"


def from_original(state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Our network with the weights of an original one, in evaluation mode.

    Which network it is and how large follows from the keys and shapes. Read are files of torch 0.3
    (no `num_batches_tracked`), keys behind `module.`, and image encoders that still carry
    Inception's classifier. A generator gets `legacy_mask = True`, as it was trained that way.

    Args:
        state_dict: as loaded from the original's file; not modified, nothing is shared with it.

    Returns:
        A TextEncoder, an ImageEncoder, or a network of some host, of the
        state's dtype.

    Raises:
        ConversionError: listing what does not fit.
    """
    state = _cleaned(state_dict)
    module = build_like(state)
    names, expected = original_names(module), module.state_dict()
    if isinstance(module, ImageEncoder):
        state = {k: v for k, v in state.items() if not k.startswith(UNUSED_INCEPTION_KEYS)}
    for theirs in names.values():
        if theirs.endswith("num_batches_tracked"):
            state.setdefault(theirs, torch.zeros((), dtype=torch.int64))
        if theirs.endswith(FLATTENED) and theirs in state and state[theirs].dim() == 4:
            state[theirs] = state[theirs].flatten(2)
    _require_fit(type(module).__name__, state, {names[k]: v for k, v in expected.items()})
    values = {ours: state[theirs].clone() for ours, theirs in names.items()}
    module.load_state_dict(values, assign=True)
    if isinstance(module, StackedGenerator):
        module.legacy_mask = True
    return module.eval()


def to_original(module: nn.Module) -> dict[str, Tensor]:
    """The state_dict under the originals' names, for people who run the old code.

    The old code masks padding the wrong way round, so it draws what ours draws only for captions
    one at a time, or of one length.

    Raises:
        ConversionError: the originals have no such network or size.
    """
    if isinstance(module, StackedGenerator):
        stages = len(module.stages) + 1
        if module.base_size != 64 or stages > 3:
            raise ConversionError(
                "the originals draw 64 px and at most two doublings of it, this generator starts "
                f"at {module.base_size} px and has {stages} stages"
            )
    state = module.state_dict()
    converted = {theirs: state[ours].clone() for ours, theirs in original_names(module).items()}
    return {k: v[..., None] if k.endswith(FLATTENED) else v for k, v in converted.items()}


def _cleaned(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    odd = [
        f"{key!r}: {type(value).__name__}"
        for key, value in state_dict.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if odd:
        raise ConversionError("not a plain state_dict of tensors: " + "; ".join(odd[:SHOWN]))
    state = dict(state_dict)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _require_fit(kind: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = [f"missing: {key}" for key in expected if key not in state]
    problems += [f"not expected: {key}" for key in state if key not in expected]
    problems += [
        f"{key}: shape {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = "\n  ".join(problems[:SHOWN] + more)
        raise ConversionError(f"looks like a {kind}, but does not fit:\n  {lines}")


def describe(module: nn.Module) -> dict[str, object]:
    """What a converted network is, in plain values."""
    if isinstance(module, TextEncoder):
        sizes = {"vocabulary_size": module.vocabulary_size, "embedding_dim": module.embedding_dim}
        return {"kind": "text_encoder", **sizes}
    if isinstance(module, ImageEncoder):
        return {"kind": "image_encoder", "embedding_dim": module.embedding_dim}
    described = (host.describe(module) for host in HOSTS.values() if host.describe)
    return next(found for found in described if found is not None)


def write_run(
    directory: Path,
    text: TextEncoder,
    image: ImageEncoder,
    generator: nn.Module,
    vocabulary: Vocabulary,
    dataset: str,
) -> None:
    """Write a run directory (see `baselines.runs`) from a converted set.

    Raises:
        ConversionError: the parts do not belong together.
    """
    if len(vocabulary) != text.vocabulary_size:
        raise ConversionError(
            f"captions.pickle has {len(vocabulary)} words, the text encoder was trained with "
            f"{text.vocabulary_size}: they do not belong together"
        )
    widths = {
        "text encoder": text.embedding_dim,
        "image encoder": image.embedding_dim,
        "generator": generator.embedding_dim,
    }
    if len(set(widths.values())) > 1:
        raise ConversionError(f"embedding widths differ, so the files do not fit: {widths}")
    sizes = {name: value for name, value in describe(generator).items() if name != "kind"}
    model = from_dict(ModelConfig, sizes, "model.")
    encoder = EncoderConfig(
        embedding_dim=text.embedding_dim,
        token_dim=text.embedding.embedding_dim,
        input_size=image.input_size,
        pretrained=False,
    )
    base: Config = preset(model.name, dataset)
    data = replace(base.data, max_words=EVALUATION_WORDS[dataset])
    config = replace(base, data=data, encoder=encoder, model=model)
    save_encoders(Encoders(text, image, vocabulary, encoder), directory / ENCODERS)
    save_weights(generator, directory / GENERATOR, **describe(generator))
    vocabulary.save(directory / VOCABULARY)
    save_config(config, directory / CONFIG)


def networks_in(content: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """The state_dicts of an original's file: itself, or those of its networks (DF-GAN's)."""
    if not all(key.startswith(NETWORKS) for key in content):
        return [content]
    networks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in content.items():
        name, _, rest = key.removeprefix(NETWORKS).partition(".")
        networks.setdefault(name, {})[rest] = tensor
    return list(networks.values())


def convert(files: Sequence[Path], out: Path, captions: Path | None, dataset: str) -> list[str]:
    """Convert `files` into `out`; returns a line per thing written.

    A text encoder, an image encoder and a generator with `captions` become a run directory, the
    parts of a host's companion with `captions` its file.
    Everything else is written as `<kind>.safetensors` with a description `<kind>.json`.

    Raises:
        ConversionError: a file is no network of the originals, two are of the same kind, or the
            parts of a run do not belong together.
        CheckpointError: a file cannot be read without executing code from it, or only with
            more time or memory than weights of its size need.
    """
    found: dict[str, nn.Module] = {}
    for file in files:
        try:
            modules = [from_original(state) for state in networks_in(read_foreign(file))]
        except ConversionError as error:
            raise ConversionError(f"{file}: {error}") from error
        for module in modules:
            kind = str(describe(module)["kind"])
            if kind in found:
                raise ConversionError(f"{file}: a second {kind}; convert it into another directory")
            found[kind] = module
    vocabulary = None if captions is None else vocabulary_from_captions_pickle(captions).vocabulary
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    text, image, generator = (
        found.get(kind) for kind in ("text_encoder", "image_encoder", "generator")
    )
    if (
        isinstance(text, TextEncoder)
        and isinstance(image, ImageEncoder)
        and generator is not None
        and vocabulary is not None
    ):
        write_run(out, text, image, generator, vocabulary, dataset)
        lines.append(f"{out}: a run directory for baselines.sample and baselines.evaluate")
        found = {kind: m for kind, m in found.items() if m not in (text, image, generator)}
    elif vocabulary is not None:
        vocabulary.save(out / VOCABULARY)
        lines.append(f"{out / VOCABULARY}: {len(vocabulary)} words")
    for host in HOSTS.values():
        if host.companion and vocabulary is not None:
            file = out / host.companion.file
            written = host.companion.convert(list(found.values()), vocabulary, file)
            lines += [f"{file}: for --{host.companion.option}"] if written else []
            found = {kind: m for kind, m in found.items() if m not in written}
    for kind, module in found.items():
        save_weights(module, out / f"{kind}.safetensors", **describe(module))
        write_json(out / f"{kind}.json", describe(module))
        lines.append(f"{out / kind}.safetensors")
    return lines


def export(run_dir: Path, out: Path) -> list[str]:
    """Write a run's networks and vocabulary as the originals' files; returns their paths.

    An image encoder other than Inception has no original form and is left out.
    """
    run = load_run(run_dir)
    out.mkdir(parents=True, exist_ok=True)
    modules = {"netG": run.generator, "text_encoder": run.encoders.text}
    if run.encoders.image.trunk_name == "inception_v3":
        modules["image_encoder"] = run.encoders.image
    states = {name: to_original(module) for name, module in modules.items()}
    for name, state in states.items():
        save_torch(state, out / f"{name}.pth")
    save_captions_pickle(out / "captions.pickle", run.encoders.vocabulary, [], [])
    return [str(out / f"{name}.pth") for name in states] + [str(out / "captions.pickle")]
