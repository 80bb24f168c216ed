"""Public tests of text_generation: small cases that you can work out by hand."""

import math

import torch


def test_filters_of_three_tokens(student, check):
    """Of the probabilities 0.5, 0.3, 0.2: two are top-2, two reach p = 0.6, and 0.2 is less than 0.5 · 0.5."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    two = logits.clone()
    two[0, 0] = -torch.inf

    for name, value in (("filter_top_k", 2), ("filter_top_p", 0.6), ("filter_min_p", 0.5)):
        check(student.call(f"text_generation.{name}", logits, value), two)


def test_repeated_tokens(student, check):
    """2 is halved, -2 doubled; that token 0 occurs twice makes no difference."""
    logits, ids = torch.tensor([[2.0, -2.0, 4.0]]), torch.tensor([[0, 1, 0]])

    check(student.call("text_generation.apply_repetition_penalty", logits, ids, 2.0), torch.tensor([[1.0, -4.0, 4.0]]))


def test_the_likeliest_of_one(student, check):
    """With top_k=1 there is nothing to draw."""
    tokens = student.call(
        "text_generation.sample_next_token", torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 2.0]]), top_k=1
    )

    check(tokens, torch.tensor([1, 0]))


def test_greedy_search_counts_up_to_eos(student, check):
    """The model says the number after the last one, and 4 is eos: row one needs three steps, row two one."""

    def probe():
        from text_generation import greedy_search

        def model(ids):
            return torch.nn.functional.one_hot((ids + 1) % 6, 6).float()

        return greedy_search(model, torch.tensor([[4, 1], [0, 3]]), max_length=9, eos_id=4)

    check(student.run(probe), torch.tensor([[4, 1, 2, 3, 4], [0, 3, 4, 4, 4]]), mistakes={
        "an eos in the prompt ends its row": torch.tensor([[4, 1, 4], [0, 3, 4]]),
    })  # fmt: skip


def test_two_beams_find_what_greedy_search_misses(student, check):
    """After 0 comes 1 (0.6) or 2 (0.4), after 1 nothing beyond 0.4, after 2 comes 0 with 0.9: 0.36 beats 0.24."""

    def probe():
        from text_generation import beam_search

        probs = torch.tensor([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
        ids, scores = beam_search(lambda ids: probs[ids].log(), torch.tensor([[0]]), num_beams=2, max_length=3)
        return ids, float(scores)

    ids, score = student.run(probe)

    check(ids, torch.tensor([[0, 2, 0]]), mistakes={"this is what greedy search finds": torch.tensor([[0, 1, 0]])})
    check(score, math.log(0.36) / 2, within=1e-4, mistakes={"the score is not divided by the length": math.log(0.36)})


def test_a_draft_that_is_the_target(student, check):
    """Nothing is rejected, and every row gets max_length tokens."""

    def probe():
        from text_generation import speculative_sample

        table = torch.randn(5, 5)
        prompt = torch.tensor([[1, 2], [3, 4]])
        ids, stats = speculative_sample(lambda ids: table[ids], lambda ids: table[ids], prompt, 12, return_stats=True)
        return tuple(ids.shape), ids[:, :2], float(stats.accepted)

    shape, beginning, accepted = student.run(probe)

    check(shape, (2, 12))
    check(beginning, torch.tensor([[1, 2], [3, 4]]))
    check(accepted, 1.0, within=0.01)


def test_gpt_generates_in_eval_mode(student, check):
    """Ten tokens a row with the prompt in front; a model that was in train mode is in train mode again."""

    def probe():
        from text_generation import GPTTextGenerator

        generator = GPTTextGenerator(vocab_size=20, d_model=16, num_layers=1, num_heads=2, max_len=10).train()
        ids = generator.generate(torch.tensor([[1, 2, 3]]), max_length=10, temperature=0.8, top_k=5)
        return tuple(ids.shape), ids[:, :3], generator.model.training

    check(student.run(probe), ((1, 10), torch.tensor([[1, 2, 3]]), True))


def test_a_text_holds_its_phrases(student):
    """A model that says "a" again and again; the phrases get in between or behind, and all fits into 24 bytes."""

    def probe():
        from text_generation import CreativeTextGenerator

        def model(ids):
            return 100.0 * torch.nn.functional.one_hot(torch.full_like(ids, ord("a")), 256)

        creative = CreativeTextGenerator(model)
        return creative.generate_with_constraints("é 1", ["two", "3"], 24), creative.generate_with_style_transfer(
            "é 1", "X", 9
        )

    held, styled = student.run(probe)

    assert held.startswith("é 1"), "the text does not start with the prompt"
    assert "two" in held, "a phrase is missing"
    assert "3" in held, "a phrase is missing"
    assert len(held.encode()) <= 24, "the text is too long: é is two bytes"
    assert styled.startswith("é 1a"), "the text is not the prompt and what the model says"
    assert "X" not in styled, "the style is in the text"
