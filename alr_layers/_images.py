"""Do real and decoded images lie in one range? Looked at once, without waiting for a device."""

import torch
from torch import Tensor

from alr_layers import _checks


class RangeCheck:
    """Compares the ranges of the first real and decoded images it is shown; warns once.

    On a GPU the four numbers are copied in the background and looked at in a later call. Other
    devices are left alone.
    """

    def __init__(self) -> None:
        self._done = False
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None

    def __reduce__(self) -> tuple[type["RangeCheck"], tuple[()]]:
        return RangeCheck, ()  # a copy looks for itself: events can be neither copied nor pickled

    @torch.no_grad()
    def __call__(self, real: Tensor, decoded: Tensor) -> None:
        """Look at (B, 3, H, W) real and decoded images."""
        if self._done or torch.compiler.is_compiling() or real.numel() == 0:
            return
        if real.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # asking for an event would break a CUDA graph
        if self._copied is not None:
            numbers, copied = self._copied
            if copied.query():  # type: ignore[no-untyped-call]  # torch leaves it untyped
                self._judge(*numbers.tolist())
        elif real.device.type not in ("cpu", "cuda"):
            self._done = True
        else:
            found = torch.stack([*real.float().aminmax(), *decoded.float().aminmax()])
            if real.device.type == "cpu":
                self._judge(*found.tolist())
            else:
                self._copy(found)

    def _copy(self, found: Tensor) -> None:
        numbers = torch.empty(4, pin_memory=True)
        numbers.copy_(found, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        copied.record(torch.cuda.current_stream(found.device))
        self._copied = numbers, copied

    def _judge(self, low: float, high: float, decoded_low: float, decoded_high: float) -> None:
        self._done, self._copied = True, None
        drawn = f"decode draws in [{decoded_low:.2g}, {decoded_high:.2g}]"
        given = f"real_images lie in [{low:.3g}, {high:.3g}] while {drawn}"
        if high > 2 and decoded_high < 2 and low >= 0:
            _checks.warn(f"{given}: bytes? hand over real_images / 127.5 - 1")
        elif high > low >= 0 > decoded_low:
            _checks.warn(f"{given}: hand over 2 * real_images - 1 if decode ends in a tanh")
        elif low < -1.1 and decoded_low >= -1:
            _checks.warn(f"{given}: undo the normalisation by mean and standard deviation")
