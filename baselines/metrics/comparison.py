"""Runs side by side: only what was measured under the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.console import printable
from baselines.errors import UserError
from baselines.files import read_json
from baselines.metrics.record import RESULT, load_entries
from baselines.metrics.report import LAST, NOTHING, cell, markdown
from baselines.runs import CONFIG

TRAINED, GIVEN = "trained", "images"
# Of a configuration, but nothing that was chosen.
NO_SETTINGS = {"run.device"}
Entry = Mapping[str, Any]


class MixedSettingsError(UserError):
    """Runs that were not measured alike; the message says what differs."""


def load_alike(paths: Sequence[Path]) -> list[Entry]:
    """Read for every run the newest evaluation of a protocol that all of them have.

    Args:
        paths: run directories, or files of `evaluate --out`.

    Raises:
        MixedSettingsError: no protocol is common to all; names what differs between the newest.
        UserError: a run was not evaluated.
    """
    files = [path / RESULT if path.is_dir() else path for path in paths]
    found = [[e for e in load_entries(file) if "protocol" in e] for file in files]
    for path, entries in zip(paths, found, strict=True):
        if not entries:
            raise UserError(f"{path}: not evaluated; run python -m baselines.evaluate --run {path}")
    for candidate in reversed(found[0]):
        alike = [
            next((e for e in reversed(entries) if e["protocol"] == candidate["protocol"]), None)
            for entries in found
        ]
        if all(entry is not None for entry in alike):
            return [entry for entry in alike if entry is not None]
    newest = [entries[-1]["protocol"] for entries in found]
    differing = [
        printable(f"  {key}: " + ", ".join(str(protocol.get(key)) for protocol in newest))
        for key in dict.fromkeys(key for protocol in newest for key in protocol)
        if any(protocol.get(key) != newest[0].get(key) for protocol in newest)
    ]
    raise MixedSettingsError(
        "the runs were measured under different settings; evaluate them alike:\n"
        + "\n".join(differing)
    )


def compare(paths: Sequence[Path]) -> str:
    """Lay runs out as a Markdown table, with what differs in their settings below.

    A row that was measured in another way in some run (other encoders, another extractor) is left
    out and named.

    Raises:
        MixedSettingsError, UserError: as of `load_alike`.
    """
    entries = load_alike(paths)
    names = names_of(paths)
    lines = [["metric", *names, "real images"]]
    left_out = []
    for row in dict.fromkeys(row for entry in entries for row in entry["metrics"]):
        facts = [entry["rows"].get(row) for entry in entries]
        scores = [measured(entry["metrics"].get(row, {})) for entry in entries]
        if not any(scores):
            continue
        known = [fact["settings"] for fact in facts if fact is not None]
        if any(settings != known[0] for settings in known):
            left_out.append(f"{row} ({_differences(known)})")
            continue
        shown = next(fact for fact in facts if fact is not None)
        cells = [cell(score, shown) for score in scores]
        best = best_of(scores, shown["better"])
        cells = [f"**{text}**" if n == best else text for n, text in enumerate(cells)]
        real = next(
            (e["metrics"][row][LAST] for e in entries if LAST in e["metrics"].get(row, {})), None
        )
        lines.append([shown["title"], *cells, cell(real, shown)])
    protocol = entries[0]["protocol"]
    below = [
        "",
        f"{protocol['images']:,} captions, {protocol['real_images']:,} real images, "
        f"seed {protocol['seed']}, data {protocol['data']['name']} ({protocol['fingerprint']}).",
    ]
    if left_out:
        below.append("Not compared, measured differently: " + "; ".join(left_out) + ".")
    environments = [entry["environment"] for entry in entries]
    if any(environment != environments[0] for environment in environments):
        below.append("The machines or versions differ, which moves the last digits.")
    below += _settings_below(paths, names)
    return "\n".join([*markdown(lines), *below])


def settings_that_differ(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """Find the settings of training in which runs differ: by name, the value of each run.

    What a run does not have is "–". Folders of images have no settings at all.
    """
    configs = []
    for path in paths:
        file = (path if path.is_dir() else path.parent) / CONFIG
        configs.append(_flat(read_json(file)) if file.is_file() else {})
    found = {}
    for key in sorted({key for config in configs for key in config} - NO_SETTINGS):
        values = [config.get(key, NOTHING) for config in configs]
        if any(value != values[0] for value in values):
            found[key] = values
    return found


def _settings_below(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    lines = []
    for key, values in settings_that_differ(paths).items():
        named = ", ".join(f"{n}: {v}" for n, v in zip(names, values, strict=True))
        lines.append(f"- {key}: {named}")
    return ["", "Settings that differ:", *lines] if lines else []


def measured(scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The score of a row that is compared: of a run's trained images, or of a folder's."""
    return scores.get(TRAINED, scores.get(GIVEN))


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names of runs: of their folders, or whole paths where those are not enough."""
    names = [path.name if path.is_dir() else path.stem for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def best_of(scores: Sequence[Mapping[str, Any] | None], better: str) -> int | None:
    """The place of the best of several scores; None where that means nothing."""
    values = {n: s["value"] for n, s in enumerate(scores) if s and s["value"] is not None}
    if len(values) < 2 or not better:
        return None
    return (max if better == "higher" else min)(values, key=lambda n: values[n])


def _differences(settings: Sequence[Mapping[str, Any]]) -> str:
    keys = dict.fromkeys(key for each in settings for key in each)
    return ", ".join(k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
