"""What TermBalance measures, in words, in the log of `alr_layers`; nothing is said twice."""

import logging

_log = logging.getLogger("alr_layers")


class Journal:
    """Remembers what was said last of every term."""

    def __init__(self) -> None:
        self._said: dict[str, float | str] = {}

    def dropped(self, label: str, reason: str) -> None:
        """A measurement that gave no ratio: a warning, once per term and reason."""
        if self._said.get(label) != reason:
            self._said[label] = reason
            _log.warning("%s: %s; its scale stays as it was", label, reason)

    def measured(self, label: str, ratio: float, scale: float, share: float) -> None:
        """A measurement: at INFO the first time and once the scale has halved or doubled."""
        last = self._said.get(label)
        news = not isinstance(last, float) or not 0.5 < scale / last < 2
        if news:
            self._said[label] = scale
        _log.log(
            logging.INFO if news else logging.DEBUG,
            "%s is %.1g of the host's gradient; scaled by %.3g to %g of it",
            label,
            ratio,
            scale,
            share,
        )
