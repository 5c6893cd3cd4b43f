"""What hatdet adds to BasicSR's registries."""

from __future__ import annotations

import pytest
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from hatdet.core.errors import OptionsError
from hatdet.sr.hat_arch import HAT
from hatdet.training import basicsr_compat, plugins
from hatdet.training.hat_model import HATModel


def test_ours_are_there_and_a_second_registration_changes_nothing():
    plugins.register()
    before = {kind: dict(iter(registry)) for kind, registry in plugins.REGISTRIES.items()}
    plugins.register()
    assert {kind: dict(iter(registry)) for kind, registry in plugins.REGISTRIES.items()} == before
    assert ARCH_REGISTRY.get("HAT") is HAT
    assert MODEL_REGISTRY.get("HATModel") is HATModel
    names = {"model": {"HATModel", "RealHATMSEModel", "RealHATGANModel", "SRModel"}}
    names["dataset"] = {"PairedImageDataset", "ImageNetPairedDataset", "RealESRGANDataset"}
    names["arch"] = {"HAT", "UNetDiscriminatorSN"}
    for kind, wanted in names.items():
        assert wanted <= set(plugins.known_names(kind))


@pytest.mark.parametrize(("kind", "name"), [("arch", "UNetDiscriminatorSN"), ("model", "RealESRGANModel")])
def test_what_basicsr_registers_under_a_longer_name_answers_quietly(kind, name, capsys):
    plugins.register()
    assert plugins.find(kind, name).__name__ == name
    assert plugins.REGISTRIES[kind].get(name).__name__ == name
    assert capsys.readouterr().out == ""


def test_a_miss_lists_the_known_names():
    plugins.register()
    with pytest.raises(
        OptionsError, match=r"model 'HatModel' is not registered: expected one of .*HATModel, .*SRModel"
    ):
        plugins.find("model", "HatModel")


def test_a_name_that_is_taken_is_not_shadowed(monkeypatch):
    plugins.register()
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "HAT", HATModel)
    with pytest.raises(OptionsError, match=r"HAT is taken in BasicSR's registry by hatdet.training.hat_model.HATModel"):
        plugins.register()


def test_without_basicsr_training_says_why(monkeypatch):
    monkeypatch.setattr(basicsr_compat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionsError, match=r"training needs basicsr, which is not installed .* 3\.11 and 3\.12 only"):
        basicsr_compat.make_importable()
