"""The names and shapes of the originals' entries, as far as the project keeps them itself."""

from tests.support.paths import ROOT


def read_keys(host: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Network -> key -> shape, of a published network at its full size."""
    networks: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in (ROOT / "tests" / "data" / f"keys_{host}.txt").read_text().splitlines():
        if line.startswith("#"):
            keys = networks.setdefault(line[1:].strip(), {})
        else:
            key, _, shape = line.partition(" ")
            keys[key] = tuple(int(side) for side in shape.split("x")) if shape else ()
    return networks
