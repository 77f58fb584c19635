"""A metric as a stranger would add it: one file."""

from baselines.metrics.spec import MetricSpec, Score


class Brightness:
    """The mean of all pixels."""

    def __init__(self, context, images):
        self.sum = self.count = 0

    def update(self, batch):
        self.sum += float(batch.images.mean(dim=(1, 2, 3)).sum())
        self.count += len(batch.rows)

    def scores(self):
        return {"brightness": Score(self.sum / self.count, count=self.count)}


SPEC = MetricSpec(
    name="brightness",
    start=Brightness,
    title=lambda part: "mean brightness",
    better="",
    settings=lambda context, part: {"range": "-1..1"},
    warnings=lambda context: [f"of {context.drawn} images"],
    note="Bright is not good.",
)
