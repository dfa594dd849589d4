import sys
import types

from trainer.model.kernels import flash_attention


def test_without_its_package_there_are_other_kernels():
    flash_attention.find.cache_clear()
    assert flash_attention.find() is None


def test_a_package_that_does_not_work_is_not_used(monkeypatch, caplog):
    for name in ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(submodule_search_locations=[])
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    flash_attention.find.cache_clear()
    assert flash_attention.find() is None
    assert "flash-attn-4 is not used" in caplog.text
    flash_attention.find.cache_clear()
