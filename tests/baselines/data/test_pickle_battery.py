"""Pickles out of chance and malice, in numbers: each is read or refused in one line of ours.

The suite tries a sample; `pytest -m battery -s` tries them all and prints the figures.
"""

import os
import pickle
import pickletools
import random
import re
import sys
from collections import Counter

import numpy as np

from baselines.data.cub import Cub
from baselines.data.originals import vocabulary_from_captions_pickle
from baselines.data.restricted_pickle import load_pickle
from baselines.errors import UserError
from baselines.metrics.soa import read_caption_list
from baselines.training.checkpoint import load_torch
from tests.baselines.conversion.test_foreign import zipped
from tests.baselines.data.makers import make_cub
from tests.baselines.test_battery import damaged, sizes
from tests.support.bounded import bounded

# What a pickle may call here, and what it must not.
GLOBALS = (
    "numpy dtype", "numpy ndarray", "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray scalar", "numpy._core.numeric _frombuffer", "_codecs encode",
    "builtins bytes", "builtins complex", "builtins set", "builtins bytearray",
    "posix system", "builtins eval", "builtins getattr", "collections OrderedDict",
    "collections Counter", "torch Size", "torch._utils _rebuild_tensor_v2",
    "copyreg _reconstructor",
)  # fmt: skip
TEXTS = ("", "u1", "O8", "x", "latin1", "C", "<end>", "touch marker", "x" * 3000, "\u0394", "'")
NUMBERS = (0, 1, -1, 2, 255, 2**31 - 1, -(2**31), 2**61 - 1, 2**63, 10**30, 10**400)
USUAL = [op for op in pickletools.opcodes if op.name not in ("STOP", "PERSID", "BINPERSID")]
# What the look at the opcodes mostly refuses: without these a stream gets to the unpickler.
REFUSED = re.compile(r".*(SET|DICT|EXT|BUFFER|PROTO|FRAME|ADDITEMS|NEWOBJ)")
QUIET = [op for op in USUAL if not REFUSED.match(op.name)]
LARGEST = 200_000  # bytes that one repetition adds


def repeated(content: bytes, start: int, end: int, rng: random.Random) -> bytes:
    """`content` with a part of it many times over, at most `LARGEST` bytes more."""
    block = content[start:end]
    times = min(rng.choice([2, 60, 3000, 20_000]), LARGEST // max(len(block), 1))
    return content[:end] + block * times + content[end:]


class Stream:
    """A random pickle whose opcodes mostly find on the stack what they take from it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.depth, self.memo = rng, 0, 0
        self.careless, self.opcodes = rng.choice([(0.0, QUIET), (0.005, USUAL)])
        self.marks: list[int] = []
        self.content = bytes([0x80, rng.randrange(6)])
        starts = []
        for _ in range(rng.randrange(1, 300)):
            starts.append(len(self.content))
            self.add()
            if rng.random() < 0.02:  # what is harmless once
                start = rng.choice(starts[-12:])
                self.content = repeated(self.content, start, len(self.content), rng)
        self.content += b"."

    def add(self) -> None:
        opcode = self.rng.choice(self.opcodes)
        if not self.fits(opcode) and self.rng.random() >= self.careless:
            return
        self.content += opcode.code.encode("latin1") + self.argument(opcode)
        self.move(opcode)

    def fits(self, opcode) -> bool:
        before = [part.name for part in opcode.stack_before]
        if "mark" in before and not self.marks:
            return False
        if opcode.name in ("GET", "BINGET", "LONG_BINGET") and not self.memo:
            return False
        below = self.marks[-1] if "mark" in before else self.depth
        return below >= len([name for name in before if name not in ("mark", "stackslice")])

    def move(self, opcode) -> None:
        before = [part.name for part in opcode.stack_before]
        if opcode.name == "MARK":
            self.marks.append(self.depth)
            return
        if "mark" in before and self.marks:
            self.depth = self.marks.pop()
        taken = len([name for name in before if name not in ("mark", "stackslice")])
        self.depth = max(0, self.depth - taken) + len(opcode.stack_after)
        self.memo += "PUT" in opcode.name or opcode.name == "MEMOIZE"

    def argument(self, opcode) -> bytes:
        rng = self.rng
        if opcode.arg is None:
            return b""
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            return self.line(opcode).encode("latin1", "replace") + b"\n"
        if opcode.arg.n >= 0:
            if "GET" in opcode.name or "PUT" in opcode.name:
                index = self.index(opcode, 2**30)
                return (index % 256**opcode.arg.n).to_bytes(opcode.arg.n, "little")
            return rng.choice([rng.randbytes(opcode.arg.n), bytes(opcode.arg.n)])
        text = rng.choice(TEXTS).encode() if rng.random() < 0.8 else rng.randbytes(9)
        width = {-2: 1, -3: 4, -4: 4, -5: 8}[opcode.arg.n]
        length = min(len(text), 255)
        if rng.random() < 5 * self.careless:
            length = rng.getrandbits(8 * width)
        return length.to_bytes(width, "little") + text[:length]

    def index(self, opcode, absurd: int) -> int:
        if self.rng.random() < 5 * self.careless:
            return absurd
        return self.memo if "PUT" in opcode.name else self.rng.randrange(max(self.memo, 1))

    def line(self, opcode) -> str:
        rng = self.rng
        if opcode.name in ("GLOBAL", "INST"):
            return rng.choice(GLOBALS).replace(" ", "\n")
        if "GET" in opcode.name or "PUT" in opcode.name:
            return str(self.index(opcode, 10**12))
        if opcode.name in ("INT", "LONG"):
            return str(rng.choice(NUMBERS)) + "L" * (opcode.name == "LONG")
        return {"FLOAT": "1e308", "STRING": "'x'"}.get(opcode.name, rng.choice(TEXTS))


def real_pickles() -> list[object]:
    """What the files of the data sets hold."""
    words = ["<end>", "a", "red", "bird"]
    captions = [[1, 2, 3], [2, 3]]
    vocabulary = [dict(enumerate(words)), {word: n for n, word in enumerate(words)}]
    return [
        [captions, captions, *vocabulary],
        [[np.array(caption) for caption in captions], [], *vocabulary],
        ["001.Auk/Auk_0001_11", "001.Auk/Auk_0002_12"],
        [1, 1],
        np.array([1, 1]),
        np.arange(300.0).reshape(3, 100),
        [{"caption": "a red bird", "image_id": 3}, {"caption": "two birds", "image_id": 4}],
    ]


def mutation(rng: random.Random) -> bytes:
    """A real pickle after few accidents or none, or with somebody else's opcodes in its middle."""
    content = pickle.dumps(rng.choice(real_pickles()), rng.randrange(6))
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        place = rng.randrange(len(content))
        kind = rng.random()
        if kind < 0.6:
            content = damaged(content, rng)[1] or b"."
        elif kind < 0.8:
            content = content[:place] + Stream(rng).content[2:-1] + content[place:]
        else:
            content = repeated(content, place, place + rng.randrange(1, 60), rng)
    return content


def forbid_calls() -> None:
    """End this process where anything is imported by a pickle or started."""

    def audit(event, _):
        if event in ("pickle.find_class", "os.system", "subprocess.Popen"):
            os._exit(99)

    sys.addaudithook(audit)


def outcomes(content: bytes, folder) -> list[str]:
    """What every reader of pickles makes of `content`: "read", or the one line it says."""
    forbid_calls()
    path = folder / "captions.pickle"
    path.write_bytes(content)
    readers = [load_pickle, vocabulary_from_captions_pickle, read_caption_list]
    found = [_outcome(reader, path) for reader in readers]
    for name in ("filenames", "class_info"):
        file = folder / "train" / f"{name}.pickle"
        before = file.read_bytes()
        file.write_bytes(content)
        found.append(_outcome(Cub, folder, "train"))
        file.write_bytes(before)
    found.append(_outcome(load_torch, zipped(folder, content, "captions.pickle.pt")))
    return found


def _outcome(reader, *arguments) -> str:
    try:
        reader(*arguments)
    except UserError as error:
        return str(error)
    return "read"


@sizes(11, 600)
def test_random_pickles_are_read_or_refused_in_one_line(count, tmp_path):
    rng, found = random.Random(6), Counter()
    folder = make_cub(tmp_path)
    for number in range(count):
        content = Stream(rng).content if number % 2 else mutation(rng)
        kind, said = bounded(outcomes, content, folder)
        (tmp_path / "last").write_bytes(content)
        assert kind == "returned", (number, kind, said, content[:300])
        for line in said:
            assert line == "read" or ("\n" not in line and ".pickle" in line), (number, line)
            assert len(line) < 1000, (number, line)
            found["read" if line == "read" else "refused"] += 1
    assert found["read"] and found["refused"]
    print(f"\npickles: {count} random ones, six readers each: {dict(found)}, nothing was called")
