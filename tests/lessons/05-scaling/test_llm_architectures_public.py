"""Public tests of llm_architectures: small numbers, and what you can see from outside. The hidden tests look closer."""

import pytest
import torch


def test_rms_norm_of_3_and_4(student, check):
    """The mean of 9 and 16 is 12.5; its root is 3.5355."""

    def probe():
        from llm_architectures import RMSNorm

        return RMSNorm(2)(torch.tensor([[3.0, 4.0]]))

    result = student.run(probe)

    check(result, torch.tensor([[0.848528, 1.131371]]), terms=4096, mistakes={
        "x is divided by its length, the root of the sum; it should be the root of the mean": torch.tensor([[0.6, 0.8]]),
        "the mean is subtracted, as in LayerNorm": torch.tensor([[-1.0, 1.0]]),
    })  # fmt: skip


def test_swiglu_of_one_number(student, check):
    """down · silu(gate · x) · up · x with x = 1: 5 · silu(2) · 3, and silu(2) = 1.761594."""

    def probe():
        from llm_architectures import SwiGLU

        layer = SwiGLU(1, 1)
        for name, number in (("gate", 2.0), ("up", 3.0), ("down", 5.0)):
            getattr(layer, name).weight.data = torch.tensor([[number]])
        return layer(torch.tensor([[1.0]]))

    check(student.run(probe), torch.tensor([[26.423912]]), terms=4096, mistakes={
        "silu is used on up, not on gate": torch.tensor([[28.577224]]),
    })  # fmt: skip


def test_shapes(student, check):
    """All models, each with a text of 6 tokens; T5 with targets of 4, and without any."""

    def probe():
        import llm_architectures as models

        ids = torch.tensor([[1, 5, 0, 2, 10, 3]])
        t5 = models.T5Model(11, 8, 2, 2)
        results = [
            models.GPTModel(11, 8, 2, 2)(ids),
            models.BERTModel(11, 8, 2, 2, 16)(ids),
            models.BERTForMaskedLM(11, 8, 2, 2, 16)(ids),
            t5(ids, ids[:, :4]),
            t5(ids),
            models.LlamaModel(11, 8, 2, 4, 2, 12)(ids),
        ]
        return [list(result.shape) for result in results]

    shapes = student.run(probe)

    check(shapes, [[1, 6, 11], [1, 6, 8], [1, 6, 11], [1, 4, 11], [1, 6, 8], [1, 6, 11]])


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_decoders_do_not_see_the_future(student, check, name):
    """Another last token changes the last logits, and no others."""

    def probe(name):
        from llm_architectures import LlamaModel, T5Model

        one, other = torch.tensor([[4, 5, 6]]), torch.tensor([[4, 5, 7]])
        if name == "llama":
            model = LlamaModel(10, 8, 2, 2, 1, 16)
            return model(one), model(other)
        model = T5Model(10, 8, 2, 2)
        return model(one, one), model(one, other)

    one, other = student.run(probe, name)

    check(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2]), "the last logits do not depend on the last token"


def test_a_tiny_llama_is_loaded(student, check):
    """The logits are those of transformers' model."""
    pytest.importorskip("transformers")

    def probe():
        from llm_architectures import LlamaModel
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        theirs = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
        for weight in theirs.parameters():
            weight.data.mul_(20 if weight.dim() > 1 else 1)
        ours = LlamaModel(11, 8, 2, 4, 2, 12)
        ids = torch.tensor([[1, 5, 0, 2, 10, 3]])
        return ours.load_huggingface(theirs)(ids), theirs(ids).logits

    ours, theirs = student.run(probe)

    check(ours, theirs, within=1e-4)


def test_a_mixture_of_equal_experts(student, check):
    """With equal experts the weights, which sum to 1, do not matter; with an even router the loss is top_k."""

    def probe():
        from llm_architectures import MixtureOfExperts

        moe = MixtureOfExperts(4, 6, 3, top_k=2)
        for expert in moe.experts:
            expert.load_state_dict(moe.experts[0].state_dict())
        moe.router.weight.data.zero_()
        x = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 1.0, -1.0]])
        output, loss = moe(x)
        return output, moe.experts[0](x), loss

    output, expected, loss = student.run(probe)

    check(output, expected)
    check(loss, torch.tensor(2.0))
