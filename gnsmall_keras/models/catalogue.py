"""What each network is, as facts that load no framework."""

from typing import NamedTuple

from gnsmall_keras.models.spec import COUNTS


class Size(NamedTuple):
    """A network and how wide it is."""

    model: str
    width: float

    def __str__(self) -> str:
        return f"{self.model} {self.width:g}"


# The package has networks of these trained on CIFAR-10, of which all but the
# layers behind the pooling can be taken for other images.
STARTS = (
    *(Size("gns", width) for width in (0.25, 0.5, 0.85, 1.0, 1.6)),
    Size("gns_nogate", 0.5),
)
# Of what they did not learn from: seed and fraction of the split.
STARTS_HELD_OUT = (0, 0.1)


class Network(NamedTuple):
    """One network for `create_model`, with 10 classes and 32 x 32 images."""

    parameters: int  # trainable
    macs: int  # multiply-accumulates of an image; GhostNets fused
    what: str
    source: str
    scales: bool = False  # whether it takes `width` and `head_units`


_HE = "He et al. 2016"
# tests/models/test_teachers.py checks every number.
NETWORKS: dict[str, Network] = {
    "gns": Network(
        COUNTS["gns", 1.0].parameters,
        COUNTS["gns", 1.0].deployed_macs,
        "GhostNetV3-Small",
        "arXiv 2509.12380",
        scales=True,
    ),
    "gns_nogate": Network(
        COUNTS["gns_nogate", 1.0].parameters,
        COUNTS["gns_nogate", 1.0].deployed_macs,
        "GhostNetV3-Small without attention gates",
        "this package",
        scales=True,
    ),
    "gnd": Network(
        COUNTS["gnd", 1.0].parameters,
        COUNTS["gnd", 1.0].deployed_macs,
        "GhostNetV3, first stride 1",
        "arXiv 2509.12380",
        scales=True,
    ),
    "resnet18": Network(11_173_962, 140_186_624, "the paper's teacher", _HE),
    "resnet34": Network(21_282_122, 291_181_568, "the paper's teacher", _HE),
    "resnet50": Network(23_520_842, 325_799_936, "the paper's teacher", _HE),
    "vgg13_bn": Network(
        28_334_410,
        247_177_216,
        "the paper's teacher",
        "Simonyan, Zisserman 2015",
    ),
    "densenet161": Network(
        26_482_570,
        618_894_912,
        "the paper's teacher",
        "Huang et al. 2017",
    ),
    "inception_v3": Network(
        21_638_954,
        3_460_465_664,
        "the paper's teacher",
        "Szegedy et al. 2016",
    ),
    "efficientnetv2_s": Network(
        20_190_298,
        2_848_628_672,
        "the paper's teacher, at 224 x 224",
        "Tan, Le 2021",
    ),
    "resnet18_nopool": Network(
        11_173_962, 555_422_720, "strong: no max-pool", "kuangliu/pytorch-cifar"
    ),
    "wrn_16_4": Network(
        2_748_890,
        392_612_352,
        "small enough for a CPU",
        "Zagoruyko, Komodakis 2016",
    ),
    "wrn_28_10": Network(
        36_479_194,
        5_243_328_768,
        "strongest",
        "Zagoruyko, Komodakis 2016",
    ),
}


def list_models() -> dict[str, Network]:
    """Returns the networks that `create_model` builds, by name, with facts.

    Each has `parameters` (trainable) and `macs`, the multiply-accumulates of
    one image, of 10 classes and 32 x 32 RGB images; `what` it is, its `source`,
    and whether it `scales`, by `width` and `head_units`.

    Example:
        >>> list(gns.list_models())[:3]
        ['gns', 'gns_nogate', 'gnd']
        >>> gns.list_models()["resnet18"].parameters
        11173962
    """
    return dict(NETWORKS)


def check_network(name: str) -> Network:
    """Returns the facts of a network.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in NETWORKS:
        raise ValueError(
            f"`model` must be one of {sorted(NETWORKS)}. Received: {name!r}."
        )
    return NETWORKS[name]


def can_start(model: str, width: float) -> bool:
    """Returns whether the package has weights to start a network from."""
    return (model, width) in STARTS
