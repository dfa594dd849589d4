import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.model.pretrained import (
    LoadReport,
    WeightsError,
    find_snapshot,
    load_weights,
    read_tensors,
)
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config


@pytest.fixture
def facts(golden):
    return json.loads((golden / "pixart_sigma_a" / "mapping.json").read_text())


@pytest.fixture
def pixart(golden, facts):
    return golden / "pixart_sigma_a" / facts["checkpoint"]


def smoke_model(seed=0, **fields):
    torch.manual_seed(seed)
    return STDiT3(STDiT3Config(**{**SIZES["STDiT3-smoke"], **fields}))


def equal(one, other):
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_a_pixart_file_fills_the_spatial_part(golden, facts, pixart):
    model = STDiT3(STDiT3Config(**facts["stdit3_config"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_weights(model, pixart)
    assert sorted(report.loaded) == sorted(facts["loaded"])
    assert report.missing == tuple(facts["missing"])
    assert (report.unexpected, report.mis_shaped) == ((), ())
    assert list(report.dropped) == facts["dropped"]
    assert str(report) == "46 tensors loaded, 43 keep their start values, 1 of no use"

    state, file = model.state_dict(), dict(read_tensors(pixart))
    for theirs, ours in facts["key_map_checkpoint_to_model"].items():
        expected = file[theirs]
        if ours == "x_embedder.proj.weight":
            expected = expected[:, :, None]
        if ours != "y_embedder.y_embedding":
            assert torch.equal(state[ours], expected.float()), ours
    [null] = load_file(golden / "pixart_sigma_a" / "expected_y_embedding.safetensors").values()
    assert torch.equal(model.null_caption, null.float())
    assert all(torch.equal(state[name], before[name]) for name in report.missing)


def test_a_longer_null_caption_is_cut(facts, pixart):
    fields = {**facts["stdit3_config"], "model_max_length": 5}
    model = STDiT3(STDiT3Config(**fields))
    load_weights(model, pixart)
    assert torch.equal(model.null_caption, dict(read_tensors(pixart))["y_embedder.y_embedding"][:5])


def test_a_pixart_file_of_another_size_is_refused(pixart):
    with pytest.raises(ValueError, match="of another shape") as error:
        load_weights(smoke_model(), pixart)
    assert "x_embedder.proj.weight is 72x4x1x2x2 and should be 64x4x1x2x2, " in str(error.value)


def test_weights_that_are_refused_change_nothing_and_every_tensor_is_named(tmp_path):
    tensors = smoke_model(1).state_dict()
    lacking = [name for name in tensors if name.startswith("final_layer.")]
    for name in lacking:
        del tensors[name]
    tensors["x_embedder.proj.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors")
    model = smoke_model(2)
    with pytest.raises(WeightsError) as refused:
        load_weights(model, tmp_path)
    assert equal(model, smoke_model(2))
    assert str(refused.value) == (
        f"{tmp_path} does not fit the model; tensors: "
        f"{len(lacking)} missing ({', '.join(lacking)}); "
        "1 of another shape (x_embedder.proj.bias is 3 and should be 64)"
    )


def test_a_pixart_file_may_not_lack_anything_else(facts, pixart, tmp_path):
    tensors = dict(read_tensors(pixart))
    del tensors["blocks.1.mlp.fc1.bias"], tensors["t_block.1.weight"]
    tensors["blocks.1.attn.sr.weight"] = torch.zeros(3)
    torch.save({"state_dict": tensors}, tmp_path / "some.pth")
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(STDiT3(STDiT3Config(**facts["stdit3_config"])), tmp_path / "some.pth")
    assert str(error.value) == (
        f"{tmp_path}/some.pth does not fit the model; tensors: "
        "2 missing (t_block.1.weight, spatial_blocks.1.mlp.fc1.bias); "
        "1 not the model's (blocks.1.attn.sr.weight)"
    )


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_folder_of_shards_is_read(kind, tmp_path):
    source = smoke_model(1)
    names = list(source.state_dict())
    weight_map = {}
    (tmp_path / "model").mkdir()
    for number, part in enumerate((names[:40], names[40:])):
        tensors = {name: source.state_dict()[name] for name in part}
        file = f"model-{number}.{kind}"
        save = torch.save if kind == "bin" else save_file
        save(tensors, tmp_path / "model" / file)
        weight_map |= dict.fromkeys(part, file)
    index = tmp_path / "model" / f"model.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for path in (tmp_path, tmp_path / "model", index):
        model = smoke_model(2)
        report = load_weights(model, path)
        assert equal(model, source)
        assert report == LoadReport(report.loaded, (), (), (), ())
        assert sorted(report.loaded) == sorted(names)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.pt"])
def test_a_single_file_and_its_type_do_not_matter(name, tmp_path):
    source = smoke_model(1).bfloat16()
    save = save_file if name.endswith("safetensors") else torch.save
    save(source.state_dict(), tmp_path / name)
    model = smoke_model(2)
    load_weights(model, tmp_path / name)
    assert equal(model, source.float())
    if name == "model.safetensors":
        load_weights(smoke_model(3), tmp_path)


def test_only_a_constant_may_be_missing_from_a_whole_model(tmp_path):
    source = smoke_model(1)
    tensors = source.state_dict()
    del tensors["rope.freqs"]
    save_file(tensors, tmp_path / "model.safetensors")
    model = smoke_model(2)
    assert load_weights(model, tmp_path).missing == ("rope.freqs",)
    assert equal(model, source)
    del tensors["temporal_blocks.0.mlp.fc2.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \(temporal_blocks.0.mlp.fc2.bias\)"):
        load_weights(model, tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"state_dict": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        load_weights(smoke_model(), tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("half.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "cannot be read"),
        ("half.pth", b"PK\x03\x04", "cannot be read as plain tensors"),
        ("empty.pt", b"", "cannot be read as plain tensors"),
        ("notes.txt", b"hello", "expected a .safetensors, .pth, .pt, .bin file"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_weights(smoke_model(), tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt is no table of named tensors"):
        load_weights(smoke_model(), tmp_path / "list.pt")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "["])
def test_a_broken_index_is_named(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ValueError, match="is no index of files") as error:
        load_weights(smoke_model(), tmp_path)
    assert str(error.value).startswith(f"{index} ")


def test_a_file_that_an_index_names_must_be_there(tmp_path):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-00001.bin"}}')
    with pytest.raises(ValueError, match=r"pytorch_model-00001\.bin cannot be read"):
        load_weights(smoke_model(), index)


def test_a_folder_without_weights_or_with_two_indexes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has neither an index nor one of"):
        load_weights(smoke_model(), tmp_path)
    for name in ("a.index.json", "b.index.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"more than one index: a\.index\.json, b\.index\.json"):
        load_weights(smoke_model(), tmp_path)


@pytest.mark.parametrize("path", ["/no/such/place", "runs/007/model.pth", "nothing", "a/b/c"])
def test_a_mistyped_path_is_called_a_path(path):
    with pytest.raises(ValueError, match=f"no file or folder {path}"):
        find_snapshot(path)


def test_a_snapshot_in_the_cache_is_found_by_its_repository(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="fetch it once with `hf download owner/weights`"):
        find_snapshot("owner/weights")
    repository = tmp_path / "models--owner--weights"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(smoke_model(1).state_dict(), snapshot / "model.safetensors")
    assert find_snapshot("owner/weights") == snapshot
    model = smoke_model(2)
    load_weights(model, "owner/weights")
    assert equal(model, smoke_model(1))
