"""What is compared: rows of the table as settings on top of a host's preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from baselines.config import Config, override
from baselines.hosts import preset
from baselines.training.objective import GANObjective
from benchmarks.ablation import weights

NOTHING: tuple[str, ...] = ()
SPECTRAL = ("model.discriminator_norm=spectral",)
ENTRY = ("refine.alr.start=100", "refine.alr.ramp=200")
LVR_ENTRY = ("refine.terms=alr,lvr", "refine.lvr.start=100", "refine.lvr.ramp=200")

# The paper's refinement at a share of the host's gradient; as printed; on the layout of DAMSM.
STAGE = ("refine.terms=alr", "refine.normalization=rms", "refine.alr.share=0.05", *ENTRY)
STAGE_LVR = (*STAGE, *LVR_ENTRY, "refine.lvr.share=0.02")
HEAD = ("refine.decode=head",)
PRINTED = ("refine.terms=alr",)
DAMSM = (
    "refine.source=damsm",
    "refine.terms=alr",
    "refine.normalization=rms",
    "refine.alr.share=0.15",
    *ENTRY,
)
DAMSM_LVR = (*DAMSM, *LVR_ENTRY, "refine.lvr.share=0.05")
EQUAL = (*DAMSM, "refine.weighting=equal", "refine.alr.share=0.3")
EQUAL_LVR = (*EQUAL, *LVR_ENTRY, "refine.lvr.share=0.05")


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    settings: on top of the host's preset, as on the command line; title: in the table; control: the
    row it is compared with, by seed; main: whether it belongs to the main rows (more seeds, more
    objects, every host); prepare: changes the objective before its first step, for what no setting
    of the trainers offers because it is an experiment alone.
    """

    name: str
    title: str
    settings: tuple[str, ...]
    control: str = "host"
    main: bool = False
    prepare: Callable[[GANObjective], None] = lambda objective: None


MAIN = (
    Variant("host", "host alone", NOTHING, main=True),
    Variant("damsm-alr", "+ ALR on DAMSM's layout", DAMSM, main=True),
    Variant("host-sn", "host + spectral norm in D", SPECTRAL, main=True),
    Variant(
        "sn-damsm-alr",
        "host + spectral norm + ALR on DAMSM's layout",
        (*SPECTRAL, *DAMSM),
        "host-sn",
        main=True,
    ),
    Variant(
        "sn-damsm-0.3",
        "host + spectral norm + ALR on DAMSM's layout, share 0.3",
        (*SPECTRAL, *DAMSM, "refine.alr.share=0.3"),
        "host-sn",
        main=True,
    ),
    Variant(
        "sn-equal",
        "host + spectral norm + ALR on DAMSM's layout, α = β = 1, share 0.3",
        (*SPECTRAL, *EQUAL),
        "host-sn",
        main=True,
    ),
    Variant(
        "sn-equal-lvr",
        "host + spectral norm + ALR, LVR on DAMSM's layout, α = β = 1 (the demo's)",
        (*SPECTRAL, *EQUAL_LVR),
        "host-sn",
        main=True,
    ),
    Variant("alr-lvr", "+ ALR, LVR (stage, rms, shares)", STAGE_LVR, main=True),
    Variant("alr", "+ ALR (stage, rms, share)", STAGE, main=True),
    Variant("printed", "+ ALR as printed", PRINTED, main=True),
    Variant("rec", "+ REC alone", (*PRINTED, "refine.alr.weight=0"), main=True),
    Variant("damsm-alr-lvr", "+ ALR, LVR on DAMSM's layout", DAMSM_LVR, main=True),
    Variant("alr-head", "+ ALR (head, rms, share)", (*STAGE, *HEAD), main=True),
    Variant("alr-lvr-head", "+ ALR, LVR (head, rms, shares)", (*STAGE_LVR, *HEAD), main=True),
)


def _one_change(
    name: str,
    title: str,
    *settings: str,
    prepare: Callable[[GANObjective], None] = lambda objective: None,
    base: tuple[str, ...] = DAMSM,
    control: str = "damsm-alr",
) -> Variant:
    return Variant(name, title, (*base, *settings), control, prepare=prepare)


SINGLE = (
    _one_change("equal-weights", "α = β = 1", "refine.weighting=equal"),
    _one_change("equal-0.3", "α = β = 1, share 0.3", base=EQUAL, control="equal-weights"),
    _one_change(
        "equal-lvr",
        "α = β = 1, share 0.3, and LVR (the demo's)",
        base=EQUAL_LVR,
        control="equal-0.3",
    ),
    _one_change("hard-only", "α = 0, β = 1", prepare=weights.constant(0.0, 1.0)),
    _one_change("no-order", "without the order term", prepare=weights.without_order),
    _one_change("fixed-mean", "φ with weights of mean ½", prepare=weights.fixed_mean),
    _one_change("ascending", "φ ascending the two norms", prepare=weights.ascending),
    *(
        _one_change(f"gamma-{gamma}", f"γ = {gamma}", f"refine.gamma={gamma}")
        for gamma in (0.02, 0.05, 0.2, 0.4)
    ),
    *(
        _one_change(f"share-{share}", f"share {share}", f"refine.alr.share={share}")
        for share in (0.05, 0.3, 0.6)
    ),
    _one_change("damsm-paper", "1/(N·D) under the share", "refine.normalization=paper"),
    _one_change("attached", "targets attached", "refine.detach_target=false"),
    _one_change(
        "hard-mask",
        "hard mask in LVR",
        "refine.mask=hard",
        base=DAMSM_LVR,
        control="damsm-alr-lvr",
    ),
    _one_change(
        "every-4",
        "refining every fourth step",
        "refine.every=4",
        base=STAGE,
        control="alr",
    ),
    _one_change(
        "alr-0.3",
        "share 0.3 (stage)",
        "refine.alr.share=0.3",
        base=STAGE,
        control="alr",
    ),
    *(
        _one_change(
            f"lambda1-{weight}",
            f"λ1 = {weight}",
            f"refine.reconstruction.weight={weight}",
            base=STAGE,
            control="alr",
        )
        for weight in (0.1, 0.3, 3.0)
    ),
)
VARIANTS = {variant.name: variant for variant in (*MAIN, *SINGLE)}


@dataclass(frozen=True)
class Size:
    """How large the runs are, by machine.

    preset: of the hosts; settings: on top of it, by number of objects, as is images, the length of
    a run; every: images between snapshots; captions: drawn for a measurement.
    """

    preset: str
    settings: dict[int, tuple[str, ...]]
    images: dict[int, int]
    every: int
    captions: int


SLOWLY = ("optim.g_lr=1e-3", "optim.d_lr=4e-4")


def drawn(encoder_images: dict[int, int], *settings: str) -> Size:
    """The demo's preset on a CPU, 36,000 images, by number of objects.

    One object is learned so fast at its rates that place saturates before the first marks; several
    are not, and at lower rates they are hardly learned in this time at all.
    """
    common = ("run.device=cpu", *settings)
    rates = {1: SLOWLY, 2: NOTHING, 3: NOTHING}
    return Size(
        "demo",
        {
            n: (*rates[n], f"encoder.images={images}", *common)
            for n, images in encoder_images.items()
        },
        dict.fromkeys(encoder_images, 36_000),
        every=3_000,
        captions=5_000,
    )


# ALR teaches no more than DAMSM sees, and of more objects that takes longer (`baselines.recognise`
# of real images, by words): after 48,000 images of one object it tells shapes apart 72 times in
# 100, after 144,000 99 times; after 192,000 of three objects places 32 times, after 576,000 58.
SIZES = {
    "cpu": drawn({1: 192_000, 2: 192_000, 3: 576_000}),
    "brief": drawn(dict.fromkeys((1, 2, 3), 48_000), "encoder.amp=no"),
    "gpu": Size(
        "scenes",
        dict.fromkeys((1, 2, 3), ("data.workers=8",)),
        {1: 400_000, 2: 800_000, 3: 800_000},
        every=50_000,
        captions=5_000,
    ),
}


def build_config(size: Size, variant: Variant, host: str, objects: int, seed: int) -> Config:
    """The configuration of one run."""
    config = preset(host, size.preset)
    config = replace(config, data=replace(config.data, max_objects=objects))
    return override(
        config,
        [
            f"optim.images={size.images[objects]}",
            f"run.seed={seed}",
            f"data.test_images={size.captions}",
            "run.grid_every=1000000",
            "run.keep=1",
            *size.settings[objects],
            *variant.settings,
        ],
    )
