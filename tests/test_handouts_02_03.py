"""What the handouts of lessons 02 and 03 state: each of their blocks runs alone, prints what the text says about it, and
the numbers in their sentences are the ones that the solutions give."""

import json
import math
import os
import re
import subprocess
import sys
from functools import cache

import pytest
from conftest import ROOT

from autograder.lesson import load

pytestmark = pytest.mark.slow

_RUNNER = """
import contextlib, io, json, sys, traceback
import torch

torch.set_num_threads(1)
said = []
for code in json.load(sys.stdin):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(code, "block", "exec"), {"__name__": "__main__"})
        except Exception:
            print("FAILED", traceback.format_exc())
    said.append(output.getvalue())
print(json.dumps(said))
"""


def outputs(name: str, snippets: list[str], folder) -> list[str]:
    """What each snippet prints, run without what the others have defined."""
    lesson = load(name, ROOT)
    folders = [lesson.solution, *(used.solution for used in lesson.prerequisites())]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
    }
    environment["MPLCONFIGDIR"] = str(folder / "matplotlib")
    run = subprocess.run(
        [sys.executable, "-c", _RUNNER],
        input=json.dumps(snippets),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@cache
def handout(name: str) -> str:
    return load(name, ROOT).handout.read_text("utf-8")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """said(lesson, heading) -> what the blocks below that heading print. The blocks of a lesson run once."""

    @cache
    def by_heading(name):
        pieces = re.split(r"^### +(.+)$", handout(name), flags=re.MULTILINE)
        blocks = [
            (heading, block)
            for heading, text in zip(pieces[1::2], pieces[2::2], strict=True)
            for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        ]
        printed = outputs(name, [block for _, block in blocks], tmp_path_factory.mktemp(name))
        found = {}
        for (heading, _), text in zip(blocks, printed, strict=True):
            found[re.sub(r"^\d+\. ", "", heading)] = found.get(re.sub(r"^\d+\. ", "", heading), "") + text
        return found

    return lambda name, heading=None: by_heading(name) if heading is None else by_heading(name)[heading]


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", text)]


def line(text: str, start: str) -> str:
    """The rest of the one line that starts so."""
    (found,) = [each for each in text.splitlines() if each.strip().startswith(start)]
    return found.strip()[len(start) :]


@pytest.mark.parametrize("name", ["02-transformer", "03-generation"])
def test_every_block_runs_alone(name, said):
    failed = {heading: text[-800:] for heading, text in said(name).items() if "FAILED" in text}

    assert not failed


# ---------------------------------------------------------------------------------------------- sentences with numbers

# Lesson, a sentence of its handout with § for the number, and code that prints the number.
SENTENCES = [
    (
        "02-transformer",
        "It is off by up to §.",
        """
import torch, torch.nn.functional as F
x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
print(f"{(F.gelu(x) - F.gelu(x, approximate='tanh')).abs().max():.4f}")
""",
    ),
    (
        "02-transformer",
        "= §$ times η, because",
        """
m, v = 0.1 * 5.0, 0.001 * 5.0**2  # after one gradient of 5
print(f"{m / v**0.5:.1f}")
""",
    ),
    (
        "02-transformer",
        "weights, § % of the size of GPT-2 small",
        """
import torch
from transformer import GPTModel
with torch.device("meta"):
    model = GPTModel(50_257, num_heads=12)
print(f"{50_257 * 768 / sum(weight.numel() for weight in model.parameters()):.0%}".rstrip("%"))
""",
    ),
    ("02-transformer", "$\\ln V$: § for 50,257 tokens", "import math; print(f'{math.log(50_257):.1f}')"),
    ("02-transformer", "131,072 = § · L", "print(131_072 // 8_192)"),
    (
        "02-transformer",
        "ends at $§ \\cdot 10^{-8}$",
        """
import torch
smallest = torch.tensor(1, dtype=torch.int16).view(torch.float16).item()  # the first number above 0
print(f"{smallest * 1e8:.0f}")
""",
    ),
    (
        "02-transformer",
        "But bfloat16 has only § digits, so an update of $10^{-4}$ times a weight would vanish",
        """
import math, torch
weight = torch.tensor(3.0, dtype=torch.bfloat16)
assert weight - 1e-4 * weight == weight
digits = -math.log10(torch.finfo(torch.bfloat16).eps)
print(math.floor(digits), "to", math.ceil(digits))
""",
    ),
    (
        "02-transformer",
        "float16 has § digit more than bfloat16",
        """
import math, torch
more = math.log10(torch.finfo(torch.bfloat16).eps / torch.finfo(torch.float16).eps)
print({1: "one"}[round(more)])
""",
    ),
    (
        "03-generation",
        "their sum of §?",
        """
import torch
start, end = torch.tensor([0.1, 0.2, 0.0, 3.0, 0.1, 2.5]), torch.tensor([0.0, 4.0, 0.1, 2.0, 0.1, 2.4])
assert (start.argmax(), end.argmax()) == (3, 1)
print(round((start.max() + end.max()).item()))
""",
    ),
    (
        "02-transformer",
        "there it is § half",
        """
from transformer import DecoderLayer, EncoderLayer
matrices = lambda part: sum(weight.numel() for weight in part.parameters() if weight.dim() > 1)
shares = []
for layer in (EncoderLayer(64, 4, 256), DecoderLayer(64, 4, 256)):
    shares.append(matrices(layer.feed_forward) / matrices(layer))
print("one" if shares == [2 / 3, 1 / 2] else shares)
""",
    ),
    (
        "03-generation",
        "With θ = 1.3 a logit of 2 falls to §, but",
        "print(round(2 / 1.3, 1))",
    ),
    (
        "03-generation",
        "a logit of −2 rises to −§: that token",
        """
import torch
from text_generation import apply_repetition_penalty
logits, seen = torch.tensor([[2.0, -2.0, 0.0]]), torch.tensor([[0, 1]])
assert apply_repetition_penalty(logits, seen, 1.3)[0, 1] < -2, "the rule of the lesson lowers it"
print(round(2 / 1.3, 1))
""",
    ),
    (
        "03-generation",
        "the usual replacement character � is § bytes long",
        "print({3: 'three'}[len('\N{REPLACEMENT CHARACTER}'.encode())])",
    ),
    (
        "03-generation",
        "an I-X that continues no X, after an O or after another type, § an entity",
        """
from text_classification import decode_bio
print("starts" if decode_bio([0, 1, 2], ["O", "I-X", "I-Y"]) == [("X", 1, 2), ("Y", 2, 3)] else "?")
""",
    ),
]


@pytest.fixture(scope="module")
def number_of(tmp_path_factory):
    """number_of(lesson)[sentence] -> what its code prints. One process for all of a lesson."""

    @cache
    def of_lesson(name):
        mine = [(sentence, code) for lesson, sentence, code in SENTENCES if lesson == name]
        printed = outputs(name, [code for _, code in mine], tmp_path_factory.mktemp(name))
        return dict(zip([sentence for sentence, _ in mine], printed, strict=True))

    return of_lesson


@pytest.mark.parametrize(("name", "sentence"), [(name, sentence) for name, sentence, _ in SENTENCES])
def test_a_number_in_a_sentence_is_the_one_that_code_gives(name, sentence, number_of):
    words = " ".join(handout(name).split())

    assert sentence.replace("§", number_of(name)[sentence].strip()) in words


# ---------------------------------------------------------------------------------------------- 02: what the blocks show


@pytest.mark.lesson("02-transformer")
def test_gradients_at_the_output_shrink_with_the_depth_in_pre_norm_only(said):
    text = said("02-transformer", "Pre-norm and post-norm")
    last = {
        (style, depth): numbers(line(text, f"{style}, {depth:2d} sub-layers:"))[1]
        for style in ("post-norm", "pre-norm")
        for depth in (6, 48)
    }

    assert last["pre-norm", 48] < 0.7 * last["pre-norm", 6]
    assert last["post-norm", 48] >= last["post-norm", 6] > last["pre-norm", 6]


@pytest.mark.lesson("02-transformer")
def test_the_parameters_are_those_that_were_published(said):
    text = said("02-transformer", "Count the parameters")

    assert round(numbers(line(text, "GPT-2 small:"))[0]) == 124
    assert round(numbers(line(text, "GPT-2 XL:"))[0]) == 1558
    pooler = (768 * 768 + 768) / 1e6
    assert round(numbers(line(text, "BERT base:"))[0] + pooler, -1) == 110
    assert numbers(line(text, "Transformer base:"))[0] > 65


@pytest.mark.lesson("02-transformer")
def test_the_first_loss_of_a_start_that_is_small_enough_is_ln_v(said):
    text = said("02-transformer", "The first loss")

    assert abs(numbers(line(text, "start  1 times as large: loss"))[0] - numbers(line(text, "ln V is"))[0]) < 0.1
    assert numbers(line(text, "start 20 times as large: loss"))[0] > 2 * math.log(500)


@pytest.mark.lesson("02-transformer")
def test_bert_sees_both_sides_of_a_hole_and_gpt_one(said):
    text = said("02-transformer", "Fill in the blank: BERT")
    rows = [numbers(line(text, f"place {place}:")) for place in range(1, 6)]  # BERT, GPT in percent

    assert all(bert > 90 for bert, _ in rows)
    assert all(gpt < 20 for _, gpt in rows[:2])
    assert all(gpt > 90 for _, gpt in rows[2:])


@pytest.mark.lesson("02-transformer")
def test_the_encoder_alone_cannot_choose_between_two_answers(said):
    text = said("02-transformer", "One task, three models")
    right = {
        (task, model): numbers(line(text, f"{task}: {model} "))[0]
        for task in ("reverse", "one of the ends")
        for model in ("encoder only", "decoder only", "encoder-decoder")
    }

    assert all(share > 85 for (task, _), share in right.items() if task == "reverse")
    assert right["one of the ends", "encoder only"] < 40
    assert right["one of the ends", "decoder only"] > 80
    assert right["one of the ends", "encoder-decoder"] > 80


@pytest.mark.lesson("02-transformer")
def test_thirty_pairs_are_learnt_by_heart_and_a_thousand_are_not(said):
    text = said("02-transformer", "Validation curves")
    few, many = [
        [
            tuple(map(float, pair.split("/")))
            for pair in line(text, f"{pairs} pairs, training and validation loss:").split()
        ]
        for pairs in (30, 1000)
    ]

    assert few[-1][0] < 0.1
    assert few[-1][1] > few[0][1] > 1
    assert many[-1][0] < 0.5
    assert many[-1][1] < 0.5


@pytest.mark.lesson("02-transformer")
def test_a_larger_model_has_a_smaller_validation_loss(said):
    losses = [numbers(row)[-1] for row in said("02-transformer", "Model size").splitlines()]

    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)


@pytest.mark.lesson("02-transformer")
def test_accumulation_has_the_gradient_of_the_whole_batch(said):
    text = said("02-transformer", "The mean of means")

    assert numbers(line(text, "mean of the two means: relative error"))[0] > 0.1
    assert numbers(line(text, "OptimizedTransformerTrainer: relative error"))[0] < 1e-5


@pytest.mark.lesson("02-transformer")
def test_autocast_chooses_a_type_for_each_operation(said):
    text = said("02-transformer", "Which type does autocast choose?")
    wide = ("embedding:", "linear + float32:", "cross-entropy:", "the weights:")

    assert [line(text, name).strip() for name in wide] == ["torch.float32"] * 4
    assert [line(text, name).strip() for name in ("linear:", "relu:")] == ["torch.bfloat16"] * 2


@pytest.mark.lesson("02-transformer")
def test_the_bugs_of_lesson_2_show(said):
    text = said("02-transformer", "Find the bug")

    assert json.loads(line(text, "A "))[0] == [1, 1, 1, 0], "the first position sees the future"
    after, before = line(text, "B ").split("from")
    assert json.loads(after) != json.loads(before), "the norm stands on the direct path"
    assert numbers(line(text, "C ")) == [20], "two Parameters"


# ---------------------------------------------------------------------------------------------- 03: what the blocks show


@pytest.mark.lesson("03-generation")
def test_the_hours_of_lesson_3_add_up():
    text = handout("03-generation")
    hours = {"¼": 0.25, "½": 0.5, "¾": 0.75}

    def value(words):
        return sum(hours[sign] if sign in hours else int(sign) for sign in words)

    _, most, rest = re.search(r"\*\*Time to plan:\*\* (\d) to (\d) hours: (.+)", text).groups()
    parts = {module: value(time) for time, module in re.findall(r"([\d¼½¾]+) h for `(\w+)\.py`", rest)}
    tables = {
        module: sum(map(int, re.findall(r"\((\d+) min\)", row))) / 60
        for module, row in re.findall(r"^\| `(\w+)\.py` \|(.+)$", text, re.MULTILINE)
    }

    assert parts == tables
    assert sum(parts.values()) == int(most)


@pytest.mark.parametrize("name", ["02-transformer", "03-generation"])
def test_the_time_to_plan_is_that_of_the_lesson(name):
    assert f"**Time to plan:** {load(name, ROOT).hours} hours" in handout(name)


@pytest.mark.lesson("03-generation")
def test_greedy_search_goes_round_in_the_model_of_three_lines(said):
    assert said("03-generation", "A model of three lines").split() == "the cat sat on the cat sat on the".split()


@pytest.mark.lesson("03-generation")
def test_the_filters_keep_three_and_the_penalty_lowers_both(said):
    text = said("03-generation", "Filters and temperature")

    for name in ("top-p 0.8:", "min-p 0.2:"):
        assert [p > 0 for p in numbers(line(text, name))] == [True] * 3 + [False] * 2
    before, after = numbers(line(text, "before:")), numbers(line(text, "after:"))
    assert after[0] < before[0]
    assert after[1] < before[1]


@pytest.mark.lesson("03-generation")
def test_two_beams_find_what_greedy_search_misses(said):
    text = said("03-generation", "What greedy search misses")

    assert "[[0, 1, 0]]" in line(text, "greedy:")
    assert "[[0, 2, 0]]" in line(text, "two beams:")
    assert abs(numbers(line(text, "two beams:"))[-1] - math.log(0.4 * 0.9) / 2) < 1e-3


@pytest.mark.lesson("03-generation")
def test_no_draft_changes_the_distribution(said):
    text = said("03-generation", "A draft that changes nothing")
    accepted = {}
    for name in ("the same", "similar", "opposite"):
        accepted[name], *shares = numbers(line(text, f"{name}:"))
        assert all(abs(share - p) < 0.04 for share, p in zip(shares, (0.7, 0.2, 0.1), strict=True))  # 5 deviations

    assert accepted["the same"] == 1
    assert accepted["the same"] > accepted["similar"] > accepted["opposite"]


@pytest.mark.lesson("03-generation")
def test_the_prompt_and_the_style_choose_the_direction(said):
    text = said("03-generation", "Train a writer, then prompt it")

    for prompt, digits in {"45": "4567", "43": "4321", "up 4": "4567", "down 4": "4321"}.items():
        found = re.findall(r"4\d{3}", line(text, f"{prompt!r} ->"))
        assert found.count(digits) >= 5, prompt  # of six
    for style, digits in {"up": "456", "down": "432"}.items():
        assert line(text, f"style {style!r} ->").strip().startswith(digits)


@pytest.mark.lesson("03-generation")
def test_the_pretrained_model_writes_and_searches(said):
    text = said("03-generation", "A pretrained model")

    assert text.count("sampled: 'Once") + text.count('sampled: "Once') == 2
    assert "Once" in line(text, "the best beam:")
    assert line(text, "the best beam:").endswith("and again the same: True")


@pytest.mark.lesson("03-generation")
def test_the_text_under_conditions_keeps_them(said):
    assert said("03-generation", "Text under conditions").splitlines()[-1] == "True True"


@pytest.mark.lesson("03-generation")
def test_a_bag_of_words_can_count(said):
    shares = [numbers(row)[1] for row in said("03-generation", "More sevens than eights").splitlines()]

    assert len(shares) == 2
    assert min(shares) > 85


@pytest.mark.lesson("03-generation")
def test_entities_and_answers_are_as_the_text_says(said):
    text = said("03-generation", "Entities and answers")

    assert text.splitlines()[:3] == ["PER Ada Lovelace", "PER Babbage", "LOC London"]


@pytest.mark.lesson("03-generation")
def test_the_translator_reverses(said):
    for row in said("03-generation", "Translate, and measure").splitlines():
        assert numbers(row)[1] > 90


@pytest.mark.lesson("03-generation")
def test_bleu_sees_words_only(said):
    scores = [numbers(row)[0] for row in said("03-generation", "What BLEU sees").splitlines()]
    same, short, turned, repeated, other_words = scores

    assert same == 100
    assert same > turned > short > 0
    assert repeated == other_words == 0


@pytest.mark.lesson("03-generation")
def test_the_bugs_of_lesson_3_show(said):
    text = said("03-generation", "Find the bug")

    kept, kept_after_the_shift = [[p > 0 for p in numbers(row.split("with")[0])[:4]] for row in text.splitlines()[:2]]
    assert kept == [True, True, False, False], "right by luck where the greatest logit is positive"
    assert kept_after_the_shift != kept
    share = numbers(line(text, "B "))
    assert abs(share[0] - 0.7) > 0.05, "not the distribution of p"
    assert line(text, "C ") == "[True, True]", "the eos of the first row is in its prompt"
    assert numbers(line(text, "D "))[0] == 0.5, "the mean of the sentences' shares"
