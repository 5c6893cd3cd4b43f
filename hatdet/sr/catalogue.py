"""What HAT weights exist: the sizes of the network, what ships with hatdet, what was published and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hatdet.core.errors import OptionsError

__all__ = ["CATALOGUE", "FAMILIES", "WeightsRecord", "default_record", "named_record"]

# `network_g` of each size, less its scale. window, overlap, conv_scale and the reconstruction are the same for all
# published files; HAT-XS is this project's own.
_COMMON: dict[str, Any] = {
    "in_chans": 3,
    "img_size": 64,
    "window_size": 16,
    "conv_scale": 0.01,
    "overlap_ratio": 0.5,
    "img_range": 1.0,
    "mlp_ratio": 2,
    "upsampler": "pixelshuffle",
    "resi_connection": "1conv",
}
_HAT: dict[str, Any] = {**_COMMON, "embed_dim": 180, "compress_ratio": 3, "squeeze_factor": 30}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "hat-xs": {
        **_COMMON,
        "window_size": 8,
        "embed_dim": 48,
        "depths": [4, 4],
        "num_heads": [3, 3],
        "compress_ratio": 4,
        "squeeze_factor": 16,
    },
    "hat-s": {
        **_COMMON,
        "embed_dim": 144,
        "depths": [6] * 6,
        "num_heads": [6] * 6,
        "compress_ratio": 24,
        "squeeze_factor": 24,
    },
    "hat": {**_HAT, "depths": [6] * 6, "num_heads": [6] * 6},
    "hat-l": {**_HAT, "depths": [6] * 12, "num_heads": [6] * 12},
    "real-hat": {**_HAT, "depths": [6] * 6, "num_heads": [6] * 6},
}


@dataclass(frozen=True)
class WeightsRecord:
    """One weights file: what is in it, how to know it, where it is.

    Attributes:
        name: the file's name without its ending; what `--upscaler` takes.
        family: a key of `FAMILIES`.
        scale: the factor.
        parameters: how many numbers the network learned.
        file: the name under which the file is stored.
        sha256: of the whole file, hexadecimal.
        licence: of the weights.
        urls: tried in order, the hash decides. None for a file that ships with hatdet.
        note: what to use it for.
    """

    name: str
    family: str
    scale: int
    parameters: int
    file: str
    sha256: str
    licence: str
    urls: tuple[str, ...] = ()
    note: str = ""

    @property
    def kind(self) -> Literal["embedded", "published"]:
        return "published" if self.urls else "embedded"

    @property
    def network_g(self) -> dict[str, Any]:
        """The network's arguments, as an option file gives them."""
        return {**FAMILIES[self.family], "upscale": self.scale}


_PARAMETERS = {
    ("hat-s", 2): 9_473_471,
    ("hat-s", 3): 9_658_111,
    ("hat-s", 4): 9_621_183,
    ("hat", 2): 20_624_795,
    ("hat", 3): 20_809_435,
    ("hat", 4): 20_772_507,
    ("hat-l", 2): 40_698_863,
    ("hat-l", 3): 40_883_503,
    ("hat-l", 4): 40_846_575,
    ("real-hat", 4): 20_772_507,
}
_RELEASE = "https://github.com/TensoRaws/ccrestoration/releases/download/model_zoo/"
_HUB = "https://huggingface.co/jaideepsingh/upscale_models/resolve/867e7c0ad519aba5d36b5bb4ef4a4a91781914c4/HAT/"
_HUB_HAT = "https://huggingface.co/Acly/hat/resolve/8403819bcbf5959d54c72383f0725f2525472d30/"


def _published(name: str, family: str, scale: int, sha256: str, *urls: str, note: str = "") -> WeightsRecord:
    parameters = _PARAMETERS[family, scale]
    return WeightsRecord(name, family, scale, parameters, f"{name}.pth", sha256, "Apache-2.0", urls, note)


# The published files in the order of the HAT repository's own table (XPixelGroup/HAT). The first record of a family and
# scale is what the family's name stands for.
CATALOGUE: tuple[WeightsRecord, ...] = (
    WeightsRecord(
        "hat-xs-x4",
        "hat-xs",
        4,
        672_057,
        "hat-xs-x4.safetensors",
        "19e2cb5d941ccb52a65ac4a6142c35fad85f02ea13b2d680ba46f5d4a34f535a",
        "AGPL-3.0-or-later",
        note="clean low-resolution images, on any machine",
    ),
    _published(
        "HAT-S_SRx2",
        "hat-s",
        2,
        "3e249a901c2aed6b82548875e21847ef6c015a40c814237a7a0abb10c69d5ddf",
        _RELEASE + "HAT_S_2x.pth",
    ),
    _published(
        "HAT-S_SRx3",
        "hat-s",
        3,
        "3733345caeb2b6cb0a7514d634b143f318e2441faf32316195a47e4cda67669e",
        _RELEASE + "HAT_S_3x.pth",
    ),
    _published(
        "HAT-S_SRx4",
        "hat-s",
        4,
        "a92f81bd2c0c1aaa371a6e4d6cac69e749fde2e36196885ee47a4a3667542c9a",
        _RELEASE + "HAT_S_4x.pth",
        _HUB + "HAT-S_SRx4.pth",
    ),
    _published(
        "HAT_SRx2_ImageNet-pretrain",
        "hat",
        2,
        "82ebd911263bcc886fbef46b30cf97b92a932a27a3cba30163d4577afb09b9d7",
        _RELEASE + "HAT_ImageNet_pretrain_2x.pth",
    ),
    _published(
        "HAT_SRx3_ImageNet-pretrain",
        "hat",
        3,
        "8469db903d464497f94419587054c9e83dff994edc409d563ab8f5a503767be8",
        _RELEASE + "HAT_ImageNet_pretrain_3x.pth",
    ),
    _published(
        "HAT_SRx4_ImageNet-pretrain",
        "hat",
        4,
        "4ee053c42461187846dc0e93aa5abd34591c0725a8e044a59000e92ee215e833",
        _RELEASE + "HAT_ImageNet_pretrain_4x.pth",
        _HUB + "HAT_SRx4_ImageNet-pretrain.pth",
        _HUB_HAT + "HAT_SRx4_ImageNet-pretrain.pth",
    ),
    _published(
        "HAT_SRx2",
        "hat",
        2,
        "35e9409849016ab2bfc0c549639ea4f1d4d5b2bdd75f856a925e124dd05670d0",
        _RELEASE + "HAT_2x.pth",
    ),
    _published(
        "HAT_SRx3",
        "hat",
        3,
        "453c90b94d494d041c8bff2d222987af311f07b4a09b4dafbd9ab6492f15206c",
        _RELEASE + "HAT_3x.pth",
    ),
    _published(
        "HAT_SRx4",
        "hat",
        4,
        "02dabea478aa5902a7170ad89350124e691bd89c91356f24b3267022622dc030",
        _RELEASE + "HAT_4x.pth",
    ),
    _published(
        "HAT-L_SRx2_ImageNet-pretrain",
        "hat-l",
        2,
        "2818c7ca8d72ec4cc5f31c93203d55252a662dd35cda34ce1a69661f97dcd38f",
        _RELEASE + "HAT_L_ImageNet_pretrain_2x.pth",
    ),
    _published(
        "HAT-L_SRx3_ImageNet-pretrain",
        "hat-l",
        3,
        "78af181bedf1e805fd7517d3738bc5824f7ebdc477fc9f757b708bcf49ad4e3d",
        _RELEASE + "HAT_L_ImageNet_pretrain_3x.pth",
    ),
    _published(
        "HAT-L_SRx4_ImageNet-pretrain",
        "hat-l",
        4,
        "5992bd38522f2b8faf11ea4bd8ee08de92465bb66892166576999afc36d60043",
        _RELEASE + "HAT_L_ImageNet_pretrain_4x.pth",
        _HUB + "HAT-L_SRx4_ImageNet-pretrain.pth",
    ),
    _published(
        "Real_HAT_GAN_SRx4",
        "real-hat",
        4,
        "f5b1e3bbbb05147ca2beefcc715279cb647d7976cbda67d62ea7e6e20d5ffcc7",
        _RELEASE + "HAT_Real_GAN_4x.pth",
        note="photos with noise, blur and JPEG; invents detail",
    ),
    _published(
        "Real_HAT_GAN_SRx4_sharper",
        "real-hat",
        4,
        "5800b67136006eb8cab3b4ed7c8d73b6a195bb18e6cc709b674f9aa069c00271",
        _RELEASE + "HAT_Real_GAN_sharper_4x.pth",
        note="as Real_HAT_GAN_SRx4, sharper",
    ),
)


def named_record(name: str) -> WeightsRecord | None:
    """The record of that name, with or without the file's ending; None if there is none."""
    for record in CATALOGUE:
        if name in (record.name, record.file):
            return record
    return None


def default_record(family: str, scale: int) -> WeightsRecord:
    """The file that a family's name stands for at a scale.

    Raises:
        OptionsError: the family has no weights at that scale; the message lists those it has.
    """
    records = [record for record in CATALOGUE if record.family == family]
    for record in records:
        if record.scale == scale:
            return record
    scales = ", ".join(str(scale) for scale in sorted({record.scale for record in records}))
    raise OptionsError(f"{family} has no weights for scale {scale}: it has {scales}")
