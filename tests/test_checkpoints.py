"""A checkpoint is judged by the files that would be opened, and what is wrong with one is said in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from rlhf_mini import hub
from rlhf_mini.checkpoint_files import weight_files
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.reward_model import load_reward_model, reward_model_from

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 548105171\n"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Change = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this file may open a pickle."""
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Save changed weights."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def shard(folder: Path, name: Any, index: str = INDEX) -> None:
    """Let an index name the weights, which get this name (if they can)."""
    tensors = load_file(folder / WEIGHTS)
    if isinstance(name, str) and not Path(name).is_absolute():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).rename(folder / name)
    else:
        (folder / WEIGHTS).unlink()
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, name)}))


def refusal(folder: Path | str) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(InputError) as caught:
        load_language_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- which files are opened -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "why"), [
    ("pytorch_model.bin", "could run any code"), ("../elsewhere.bin", "could run any code"),
    ("weights", "could run any code"), (7, "could run any code"), (None, "could run any code"),
    ("x.safetensors.bin", "could run any code"), ("../elsewhere.safetensors", "outside the folder"),
    ("a/../../elsewhere.safetensors", "outside the folder"), ("/tmp/elsewhere.safetensors", "outside the folder"),
    ("..\\elsewhere.safetensors", "outside the folder"), ("C:\\elsewhere.safetensors", "outside the folder")])
@pytest.mark.parametrize("beside", [True, False])
def test_an_index_names_only_safetensors_in_its_folder(broken: Path, name: Any, why: str, beside: bool) -> None:
    shard(broken, name)
    if beside:
        (broken / "other.safetensors").write_bytes(b"")
    assert why in refusal(broken)


def test_an_index_cannot_lead_out_through_a_link(broken: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (broken / "sub").symlink_to(tmp_path / "elsewhere")
    shard(broken, "sub/model.safetensors")
    assert "outside the folder" in refusal(broken)


@pytest.mark.parametrize("name", ["model-00001-of-00001.safetensors", "sub/model.safetensors"])
def test_shards_load_as_the_whole_does(saved: Path, broken: Path, name: str) -> None:
    shard(broken, name)
    for key, value in load_language_model(broken)[0].state_dict().items():
        assert torch.equal(value, load_language_model(saved)[0].state_dict()[key])


@pytest.mark.parametrize("content", ["", "not JSON", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}',
                                     '{"weight_map": {"a": "model.safetensors"}}', "[" * 100_000, POINTER])
def test_an_index_of_another_shape_is_one_line(broken: Path, content: str) -> None:
    (broken / WEIGHTS).unlink()
    (broken / INDEX).write_text(content)
    assert INDEX in refusal(broken)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from([
    "a.safetensors", "../a.safetensors", "a.bin", "/a.safetensors"]), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["weight_map", "metadata", "a", "b"]), inner, max_size=3), max_leaves=9)


@given(json_values)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_index_holds_only_safetensors_in_the_folder_are_named(tmp_path: Path, index: Any) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    try:
        names = weight_files(tmp_path)
    except InputError:
        return
    assert names == ["a.safetensors"]


@given(st.sampled_from(["architectures", "model_type", "vocab_size", "n_layer", "n_positions", "dtype", "auto_map",
                        "pad_token_id", "eos_token_id", "transformers_weights", "quantization_config",
                        "activation_function", "_attn_implementation", "attn_pdrop"]), json_values)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_config_holds_is_loaded_or_refused_in_one_line(broken: Path, key: str, value: Any) -> None:
    before = (broken / "config.json").read_text()
    edit(broken / "config.json", **{key: value})
    try:
        load_language_model(broken)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        (broken / "config.json").write_text(before)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../saved/model.safetensors", "adapter_model.bin"])
def test_a_config_cannot_name_other_weights(broken: Path, name: str) -> None:
    edit(broken / "config.json", transformers_weights=name)
    assert f"config.json names '{name}'" in refusal(broken)


def test_an_index_that_a_config_names_is_judged_too(broken: Path) -> None:
    shard(broken, "pytorch_model.bin", "other.safetensors.index.json")
    edit(broken / "config.json", transformers_weights="other.safetensors.index.json")
    assert "other.safetensors.index.json names 'pytorch_model.bin'" in refusal(broken)


def test_files_that_are_not_opened_do_not_matter(saved: Path, broken: Path) -> None:
    (broken / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    (broken / "trainer_state.json").write_text(POINTER)
    for name in ("pytorch_model.bin", "tf_model.h5", "optimizer.pt", "other.safetensors"):
        (broken / name).write_text("anything")
    load_language_model(broken)


@pytest.mark.parametrize(("name", "what"), [
    ("pytorch_model.bin", "only pickled weights"), ("model.ckpt", "only pickled weights"),
    ("tf_model.h5", "only TensorFlow weights"), ("flax_model.msgpack", "only Flax weights"),
    ("model.gguf", "only GGUF weights"), ("model.fp16.safetensors", "only safetensors of other names"),
    ("README.md", "no weights")])
def test_weights_of_another_format_are_named(broken: Path, name: str, what: str) -> None:
    (broken / WEIGHTS).rename(broken / name)
    assert what in refusal(broken)


def test_weights_may_be_links_as_in_the_cache_of_the_hub(broken: Path, tmp_path: Path) -> None:
    (broken / WEIGHTS).rename(tmp_path / "blob")
    (broken / WEIGHTS).symlink_to(tmp_path / "blob")
    load_language_model(broken)
    (tmp_path / "blob").unlink()
    assert f"a link {WEIGHTS} to a file that does not exist" in refusal(broken)


def test_a_link_to_a_pickle_is_refused(broken: Path, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"PK\3\4" + b"\0" * 999)
    (broken / WEIGHTS).unlink()
    (broken / WEIGHTS).symlink_to(tmp_path / "x.bin")
    assert "is a pickle" in refusal(broken)


def test_a_folder_with_the_name_of_the_weights_is_no_weights(broken: Path) -> None:
    (broken / WEIGHTS).unlink()
    (broken / WEIGHTS).mkdir()
    assert "a folder with the name model.safetensors" in refusal(broken)


def test_an_adapter_is_no_whole_model(broken: Path) -> None:
    (broken / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    assert "merge it into its base" in refusal(broken)
    (broken / "config.json").unlink()
    assert "merge it into its base" in refusal(broken)


@pytest.mark.parametrize("key", ["_attn_implementation", "_experts_implementation"])
def test_a_config_cannot_ask_for_code_from_the_hub(broken: Path, key: str) -> None:
    edit(broken / "config.json", **{key: "kernels-community/flash-attn"})
    assert "asks for code from the hub" in refusal(broken)


def test_code_beside_a_model_is_not_run(broken: Path) -> None:
    (broken / "own.py").write_text("raise AssertionError('run')")
    edit(broken / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    assert "custom code" in refusal(broken)


# --- what the files hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
                                  WEIGHTS, "merges.txt"])
def test_a_git_lfs_pointer_is_called_so(broken: Path, name: str) -> None:
    (broken / name).write_text(POINTER)
    assert f"{name} is a Git LFS pointer" in refusal(broken) and "git lfs pull" in refusal(broken)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
@pytest.mark.parametrize(("content", "what"), [("", "is empty"), ("<!DOCTYPE html><html>", "is a web page")])
def test_a_file_that_was_not_downloaded_is_called_so(broken: Path, name: str, content: str, what: str) -> None:
    (broken / name).write_text(content)
    assert f"{name} {what}" in refusal(broken)


@pytest.mark.parametrize("size", [1, 7, 8, 100, 3000, -1])
def test_weights_that_are_cut_off_are_called_so(broken: Path, size: int) -> None:
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:size])
    assert "is damaged or cut off" in refusal(broken)


@pytest.mark.parametrize(("part", "who"), [
    ("_orig_mod.", "torch.compile"), ("module.", "DataParallel"), ("base_model.model.", "an adapter")])
def test_the_names_of_a_wrapper_are_known(broken: Path, part: str, who: str) -> None:
    rewrite(broken, lambda tensors: {part + key: value for key, value in tensors.items()})
    assert f"{part!r} in their names, which come from {who}" in refusal(broken)


def test_a_compiled_layer_is_known_too(broken: Path) -> None:
    rewrite(broken, lambda tensors: {key.replace(".h.0.", ".h.0._orig_mod."): x for key, x in tensors.items()})
    assert "torch.compile" in refusal(broken)


def test_a_vocabulary_size_that_lies_is_named(broken: Path) -> None:
    edit(broken / "config.json", vocab_size=500)
    assert "transformer.wte.weight has the shape (320, 32), and by config.json (500, 32)" in refusal(broken)


def test_layers_that_the_config_leaves_out_are_named(broken: Path) -> None:
    edit(broken / "config.json", n_layer=1)
    assert "weights that its config.json leaves out (the first is transformer.h.1." in refusal(broken)


def test_a_bias_that_the_config_leaves_out_is_named(broken: Path) -> None:
    rewrite(broken, lambda tensors: {**tensors, "lm_head.bias": torch.ones(320)})
    assert "leaves out (the first is lm_head.bias)" in refusal(broken)


def test_what_is_no_part_of_the_model_is_left_out(broken: Path) -> None:
    """A value head of another library, and the masks of old files."""
    rewrite(broken, lambda tensors: {**tensors, "v_head.summary.weight": torch.ones(1, 32),
                                     "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
                                     "transformer.h.0.attn.bias": torch.ones(1, 1, 96, 96)})
    load_language_model(broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["transformer.wpe.weight", "transformer.h.1.mlp.c_fc.bias"])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(broken: Path, key: str, value: float) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[key].view(-1)[-1] = value
        return tensors

    rewrite(broken, damage)
    assert f"{key} has values that are not finite numbers" in refusal(broken)


def test_half_precision_that_overflowed_is_found(broken: Path) -> None:
    rewrite(broken, lambda tensors: {key: (x * 1e7).half() for key, x in tensors.items()})
    assert "not finite numbers" in refusal(broken)


def test_quantised_weights_are_called_so(broken: Path) -> None:
    rewrite(broken, lambda tensors: {key: (x * 100).to(torch.int8) for key, x in tensors.items()})
    assert "is stored as I8" in refusal(broken)
    rewrite(broken, lambda tensors: {key.removeprefix("transformer."): x for key, x in tensors.items()})
    assert "is stored as I8" in refusal(broken)
    edit(broken / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "has quantised weights" in refusal(broken)


def test_a_type_of_numbers_in_the_config_changes_nothing(saved: Path, broken: Path) -> None:
    edit(broken / "config.json", dtype="float16", torch_dtype="float16")
    loaded = load_language_model(broken)[0].state_dict()
    assert all(torch.equal(x, load_language_model(saved)[0].state_dict()[key]) for key, x in loaded.items())


def test_a_pad_token_without_a_row_is_named(saved: Path, broken: Path) -> None:
    edit(broken / "tokenizer_config.json", pad_token="[PAD]")
    assert "has 320 tokens, and no row for the pad token '[PAD]' of its tokenizer (id 320)" in refusal(broken)
    shutil.copy(saved / "tokenizer_config.json", broken)
    edit(broken / "config.json", pad_token_id=320)
    assert "no row for the pad_token_id 320 of its config.json" in refusal(broken)


def test_an_end_that_no_row_stands_for_is_that_of_the_tokenizer(broken: Path) -> None:
    """As GPT-2's 50256 in the config of a smaller model."""
    edit(broken / "config.json", eos_token_id=50256)
    edit(broken / "generation_config.json", eos_token_id=[0, 50256], pad_token_id=320)
    model, _ = load_language_model(broken)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 0
    assert model.generation_config.pad_token_id == 1


def test_code_beside_a_tokenizer_is_not_run(broken: Path) -> None:
    (broken / "own.py").write_text("raise AssertionError('run')")
    edit(broken / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    try:
        load_language_model(broken)
    except InputError as error:
        assert "AssertionError" not in repr(error.__cause__)


@pytest.mark.parametrize("name", ["n" * 300, "a/" + "n" * 300, "a\0b", "a b", "a/b/c", "@", "-x"])
def test_a_name_that_cannot_be_one_is_one_line(name: str) -> None:
    refusal(name)


@pytest.mark.parametrize("change", [
    lambda folder: shard(folder, "pytorch_model.bin"), lambda folder: (folder / WEIGHTS).write_text(POINTER),
    lambda folder: edit(folder / "config.json", vocab_size=500),
    lambda folder: rewrite(folder, lambda tensors: {"_orig_mod." + key: x for key, x in tensors.items()}),
    lambda folder: (folder / "adapter_config.json").write_text("{}")])
def test_a_reward_model_is_judged_in_the_same_way(saved: Path, tmp_path: Path, change: Change) -> None:
    save_language_model(*reward_model_from(*load_language_model(saved), seed=0), tmp_path)
    load_reward_model(tmp_path)
    change(tmp_path)
    with pytest.raises(InputError):
        load_reward_model(tmp_path)


def test_a_template_and_a_vocabulary_may_begin_with_a_tag(broken: Path) -> None:
    (broken / "chat_template.jinja").write_text("<|im_start|>{{ messages }}")
    (broken / "vocab.txt").write_text("<s>\n</s>\n")
    load_language_model(broken)


# --- the hub ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody/some-gpt2 in a cache of the hub."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "models--somebody--some-gpt2"
    shutil.copytree(saved, model / "snapshots" / revision)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return model / "snapshots" / revision


def test_a_model_of_the_hub_is_loaded_from_its_cache(cached: Path) -> None:
    model, _ = load_language_model("somebody/some-gpt2")
    assert model.config.n_layer == 2


def test_a_model_of_the_hub_is_judged_in_the_same_way(cached: Path) -> None:
    shard(cached, "pytorch_model.bin")
    assert "could run any code" in refusal("somebody/some-gpt2")


def test_a_model_that_is_in_the_cache_in_part_says_what_to_do(cached: Path) -> None:
    (cached / WEIGHTS).unlink()
    assert "hf download somebody/some-gpt2" in refusal("somebody/some-gpt2")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """No proxy, an empty cache, and the hub at an address that is reserved for examples."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    close_session()
    yield monkeypatch
    close_session()


@pytest.fixture
def proxy() -> Iterator[Callable[[bytes | None], int]]:
    """A proxy on a port of this machine that gives one answer, or (None) is silent."""
    servers: list[socket.socket] = []

    def start(answer: bytes | None) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve() -> None:
            held = []
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return server.getsockname()[1]

    yield start
    for server in servers:
        server.close()


def given_up(seconds: float = 10) -> str:
    started = time.perf_counter()
    line = refusal("somebody/some-gpt2")
    assert time.perf_counter() - started < seconds
    assert "hf download somebody/some-gpt2" in line and "secret" not in line
    return line


@pytest.mark.parametrize("answer", [
    None, b"", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"what?",
    b"HTTP/1.1 200 OK\r\n\r\nand then no TLS"])
@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_that_does_not_serve_is_given_up_in_seconds(
        online: pytest.MonkeyPatch, proxy: Callable[[bytes | None], int], answer: bytes | None, variable: str) -> None:
    online.setenv(variable, f"http://user:secret@127.0.0.1:{proxy(answer)}")
    assert "a proxy is set for" in given_up()


@pytest.mark.parametrize("address", [
    "http://127.0.0.1:1", "http://user:secret@127.0.0.1:1", "http://[::1]:1", "http://127.0.0.1", "127.0.0.1:1",
    "http://127.0.0.1:none", "http://[::1", "socks5://127.0.0.1:1", "what://user:secret@127.0.0.1:1", "http://",
    "http://proxy.invalid:3128"])
def test_a_proxy_that_is_not_there_is_given_up_in_seconds(online: pytest.MonkeyPatch, address: str) -> None:
    online.setenv("https_proxy", address)
    given_up()


def test_no_proxy_goes_past_a_proxy(online: pytest.MonkeyPatch, proxy: Callable[[bytes | None], int]) -> None:
    direct = proxy(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{direct}")
    online.setenv("http_proxy", f"http://127.0.0.1:{proxy(None)}")
    assert hub.hub_problem() is not None
    online.setenv("no_proxy", "127.0.0.1")
    assert hub.hub_problem() is None


def test_a_hub_that_is_not_there_is_given_up_in_seconds(online: pytest.MonkeyPatch) -> None:
    given_up()


def test_a_model_comes_from_the_hub_without_what_is_not_opened(saved: Path, tmp_path: Path,
                                                               online: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    others = {"pytorch_model.bin": b"pickle", "other.safetensors": b"large", "onnx/config.json": b"{}", "own.py": b"x"}
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = (files | others).get(self.path.partition("/resolve/")[2].partition("/")[2])
            if "/tree/" in self.path:
                content = json.dumps([{"type": "file", "path": name, "size": len(each), "oid": "0" * 40}
                                      for name, each in (files | others).items()]).encode()
            elif self.path.startswith("/api/"):
                content = json.dumps({"id": "somebody/some-gpt2", "sha": "0" * 40,
                                      "siblings": [{"rfilename": name} for name in files | others]}).encode()
            elif self.command == "GET":
                asked.append(self.path.rpartition("/")[2])
            self.send_response(200 if content is not None else 404)
            for name, value in {"Content-Length": len(content or b""), "X-Repo-Commit": "0" * 40,
                                "ETag": f'"{hashlib.sha256(content or b"").hexdigest()}"'}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET" and content:
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        online.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/"
                                                                 "{filename}")
        assert load_language_model("somebody/some-gpt2")[0].config.n_layer == 2
        server.shutdown()
    assert sorted(asked) == sorted(path.name for path in saved.iterdir())


def test_a_model_in_the_cache_needs_no_hub(cached: Path, online: pytest.MonkeyPatch) -> None:
    online.setattr(constants, "HF_HUB_CACHE", str(cached.parents[2]))
    online.setenv("https_proxy", "http://127.0.0.1:1")
    load_language_model("somebody/some-gpt2")
    assert isinstance(AutoConfig.from_pretrained(cached).n_layer, int)
