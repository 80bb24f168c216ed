"""What handouts claim is so: each block runs alone and shows what the text says it shows."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import pytest
from conftest import ROOT
from handout_blocks import blocks_with_headings

from autograder.lesson import load

pytestmark = pytest.mark.slow

# Heading of a block -> code that is run after it.
CLAIMS = {
    "00-fundamentals": {
        "1. What UTF-8 costs": """
            assert len(samples["Emoji"]) == 8  # four pictures: one of them is three people and two joiners
            assert all(len(text.encode()) >= len(text) for text in samples.values())
            """,
        "2. Train a tokenizer and look at it": """
            assert len(tokenizer.encode("the functoin retruns")) > len(tokenizer.encode("the function returns"))
            """,
        "3. GPT-2's own tokenizer": """
            assert printed.count("the same ids: True") == 3
            bytes_have = {id for id, token in ours.vocab.items() if len(token) == 1}
            assert len(bytes_have) == 256 and bytes_have != set(range(256))
            """,
        "4. Vocabulary against length": """
            assert bytes_per_token == sorted(bytes_per_token) and bytes_per_token[0] == 1
            gains = [(after - before) / (large - small) for before, after, small, large in zip(
                bytes_per_token, bytes_per_token[1:], sizes, sizes[1:])]
            assert gains == sorted(gains, reverse=True)  # the first merges save most
            """,
        "5. A tokenizer is not fair": """
            assert tokens["English"] < tokens["German"] < tokens["Russian"] < tokens["Hindi"]
            assert tokens["Chinese"] > 1.5 * tokens["English"]  # although it has fewer bytes
            assert len(samples["Chinese"].encode()) < len(samples["English"].encode())
            """,
        "6. Cut a text to a context": """
            lines = printed.splitlines()
            assert lines[-1].endswith("or \ufffd'") and "\ufffd" not in "".join(lines[:-1])
            assert len(set(line.split(" ", 1)[1] for line in lines)) < len(lines)  # tokens without a character
            """,
        "7. A bigram model talks": """
            assert ids[-1] == tokenizer.encode(" ")[0]
            assert all(tokenizer.decode([id]).startswith(" ") for id in likely)
            """,
        "8. Tokens by the company they keep": """
            first = [line for line in printed.splitlines() if "' can' is like" in line]
            assert len(first) == 2 and all("' may'" in line and "' cannot'" in line for line in first)
            """,
        "9. How much smoothing?": """
            assert on_train == sorted(on_train) and on_test[0] == float("inf")
            assert on_test.index(min(on_test)) not in (0, len(on_test) - 1)
            """,
        "10. Perplexities that cannot be compared": r"""
            import re
            rows = [list(map(float, row)) for row in re.findall(r"perplexity +(\S+), (\S+) bits", printed)]
            assert len(rows) == 4
            assert rows == sorted(rows) and [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
            """,
    },
    "01-attention": {
        "1. Why the scale": """
            assert plotted[0] == sorted(plotted[0]) and plotted[0][-1] > 0.9
            assert max(plotted[1]) - min(plotted[1][1:]) < 0.1
            """,
        "2. See your masks": """
            assert torch.allclose(weights.sum(-1), torch.ones(()))
            assert not weights.masked_fill(masks["both"], 0).any()
            """,
        "3. The cache of grouped queries": """
            assert gigabytes[kv_heads.index(8)] == 1 and gigabytes[-1] == 4
            assert (80e9 - 16e9) // (4 * 2**30) == 14 and (80e9 - 16e9) // 2**30 == 59
            """,
        "4. Order, and its absence": r"""
            import re
            without, with_positions = map(float, re.findall(r"by (\S+)", printed))
            assert without < 1e-5 and with_positions > 0.01
            """,
        "5. Clocks": """
            import torch
            middle = [line[position - 15 : position + 16] for line, position in zip(plotted, (20, 100, 180))]
            assert torch.allclose(torch.tensor(middle[0]), torch.tensor(middle[1]), atol=1e-3)
            assert torch.allclose(torch.tensor(middle[0]), torch.tensor(middle[2]), atol=1e-3)
            """,
        "6. Distances and penalties": """
            assert plotted[-1][0] == max(line[0] for line in plotted)  # the last head looks back furthest
            assert alibi_bias(8, T)[3, -1, 0] == -(2.0 ** -(3 + 1)) * (T - 1)  # slope_h = 2^(-8 (h + 1) / H)
            """,
        "7. The online softmax, step by step": """
            yours, plain = [line.split(": ")[1] for line in printed.splitlines()[-2:]]
            assert yours == plain
            assert not (3 * torch.randn(12) + 100).exp().isfinite().all()
            """,
        "8. Count the memory": """
            assert plotted[0] == [2.0 * T * T for T in lengths]  # slope 2
            assert plotted[1] == [2.0 * max(16 * 16, 8 * T) for T in lengths]  # flat, then slope 1
            """,
        "9. Are the gradients right?": """
            assert printed.count("True") == 3  # causal=True among them
            """,
        "10. Three ways, one result": r"""
            import re
            errors = [float(number) for number in re.findall(r"off by (\S+)", printed)]
            assert len(errors) == 6 and max(errors) < 5e-6
            free, causal = plotted
            assert causal[0] == max(causal) > 5 * causal[-1] and max(free) < 2 * min(free)
            """,
        "11. Find the bug": r"""
            import re
            sums = [list(map(float, row.split(", "))) for row in re.findall(r"sum to (.*)", printed)]
            assert sums[:2] == [[2.0] * T] * 2 and all(total < 1 for total in sums[2][:-1]) and sums[2][-1] == 1
            assert re.findall(r"changes the rows (.*)", printed) == ["[7]", str(list(range(T)))]
            """,
        "1. One layer that looks back": r"""
            import re
            rows = {name: list(map(float, re.findall(r"([\d.]+) at length", line)))
                    for name, line in re.findall(r"^ *(\w+): (.*)$", printed, re.MULTILINE)}
            guessing = 2.77
            assert rows["none"][0] > 1 and rows["sinusoidal"][0] < 0.1 and rows["learned"][0] < 0.1
            assert rows["sinusoidal"][1] > guessing and rows["learned"][1] > guessing
            """,
        "2. How many heads?": """
            assert 0.3 < losses[1] < 0.69 and losses[2] < 0.05 and losses[8] < 0.05
            count = {sum(weight.numel() for weight in TwoBack(number).parameters()) for number in (1, 2, 8, 16, 32)}
            assert len(count) == 1
            """,
    },
    "04-optimization": {
        "1. What an outlier costs": """
            one, row, groups = errors.values()
            assert all(a > b > c for a, b, c in zip(one, row, groups))
            assert 0.9 < one[list(bits).index(4)] < 1.1  # as large as the weights
            assert groups[list(bits).index(4)] < one[list(bits).index(7)]  # three bits are saved
            assert all(1.6 < a / b < 2.6 for a, b in zip(groups[2:], groups[3:]))
            """,
        "2. Half of the integers": r"""
            import re
            found = {name.strip(): (float(a), float(b), int(z)) for name, a, b, z in re.findall(
                r"^(.+): error (\S+) symmetric, (\S+) affine; zero point (\d+), 0.0 comes back as 0.0$", printed, re.M)}
            assert len(found) == 3
            assert all(1.9 < found[name][0] / found[name][1] < 2.1 for name in ("after a ReLU", "around 5"))
            assert found["normal"][0] / found["normal"][1] < 1.2
            assert found["around 5"][2] == 0
            """,
        "3. Levels where the numbers are": """
            rms = {name: float(error.square().mean()) for name, error in errors.items()}
            assert rms["NF4"] < rms["int4"]
            assert used["int4"][0] == 0 and used["NF4"].min() > 0.01  # -8 is not used
            """,
        "4. Errors that make up for others": r"""
            import re
            rows = [tuple(map(float, row)) for row in re.findall(r"(\S+) in the output, (\S+) in the weight", printed)]
            nearest, gptq = rows[::2], rows[1::2]
            assert gptq[0][0] > 0.95 * nearest[0][0]
            assert all(a[0] < 0.5 * b[0] and a[1] > b[1] for a, b in zip(gptq[1:], nearest[1:]))
            """,
        "5. A feature of 60": r"""
            import re
            rows = [(int(count), float(error)) for count, error in re.findall(r"(\d+) features in floating point, error (\S+)", printed)]
            assert [count for count, _ in rows][:3] == [0, 1, 1] and rows[-1][0] == 128
            assert rows[0][1] > 3 * rows[2][1] and rows[2][1] < 1.1 * rows[-1][1]
            """,
        "6. Quantize a model": r"""
            import re
            rows = {name: tuple(map(float, rest)) for name, *rest in re.findall(
                r"(\w+): +(\S+) KiB, loss (\S+), (\S+)% right", printed)}
            assert rows["float32"][0] > 3 * rows["int8"][0] and rows["int8"][0] > 1.5 * rows["int4"][0]
            assert all(abs(loss - rows["float32"][1]) < 0.05 and right > 90 for _, loss, right in rows.values())
            """,
        "7. Stages and their bubble": r"""
            import re
            assert re.findall(r"(\d+)% of the time idle", printed) == ["75", "43", "27"]
            """,
        "8. Who has which layer?": r"""
            import re
            one, two, four = map(float, re.findall(r"(\S+) MiB on the CPU", printed))
            assert one / 2 < two < one and one / 4 < four < two
            assert printed.rstrip().endswith("the same logits: True")
            """,
        "9. The sentences in the middle": """
            assert extractive_summary(text, 1) == [text[4]]
            assert rouge_n(text[4], reference, 1)[2] > rouge_n(text[0], reference, 1)[2]
            """,
        "10. Learn to summarize": r"""
            import re
            rows = [list(map(float, row)) for row in re.findall(r"ROUGE-1 (\S+), ROUGE-2 (\S+), ROUGE-L (\S+)", printed)]
            assert len(rows) == 2 and all(one > 0.8 for one, _, _ in rows)
            """,
        "11. What ROUGE sees": r"""
            import re
            same, short, turned, denied, other = [
                list(map(float, row)) for row in re.findall(r"ROUGE-1 (\S+), ROUGE-2 (\S+), ROUGE-L (\S+)", printed)]
            assert same == [1, 1, 1] and turned[0] == 1 and turned[2] < 0.5
            assert denied[0] > 0.7 and max(other) < 0.3
            """,
        "12. Find the bug": """
            lines = printed.splitlines()
            assert lines[0] == "A [-1.0, -1.0, 0.5]" and lines[1] == "B [24.6, 0.0, 1.0]"
            assert lines[2].startswith("C [0.0, 0.39, 50.0") and lines[3] == "D [[0, 1], [2, 3], [4, 5]]"
            """,
    },
    "05-scaling": {
        "1. What a budget buys": r"""
            import re
            rows = [tuple(map(float, row)) for row in re.findall(
                r"says (\S+) parameters, \S+ tokens, loss (\S+); the law (\S+) parameters, \S+ tokens, loss (\S+)", printed)]
            assert len(rows) == 3 and all(rule > best and loss > least for rule, loss, best, least in rows)
            assert all(loss - least < 0.01 for _, loss, _, least in rows)
            half = [float(chinchilla_loss(best / 2, budget / (3 * best))) for budget, (_, _, best, _) in zip((1e21, 1e23, 1e25), rows)]
            assert all(loss - least < 0.02 for loss, (_, _, _, least) in zip(half, rows))  # flat
            """,
        "2. Which runs a fit needs": r"""
            import re
            rows = [tuple(map(float, row)) for row in re.findall(r"tokens: (\S+), (\S+) by the true law", printed)]
            (grid, truth), (grid_off, truth_off), (line, _), (line_off, _) = rows
            assert abs(grid - truth) < 0.01 and abs(line - truth) < 0.01 and abs(grid_off - truth_off) < 0.02
            assert abs(line_off - truth_off) > 0.1
            """,
        "3. IsoFLOP curves": """
            assert abs(slope - 0.28 / 0.62) < 0.005
            assert best == sorted(best)
            """,
        "4. Does it fit?": r"""
            import re
            training = [float(size) for size in re.findall(r"training (\d+) GB", printed)]
            assert len(training) == 3 and min(training) > 80  # none can be trained on one GPU
            weights = [float(size) for size in re.findall(r"16, 8, 4 bits: (\S+) GB", printed)]
            assert weights[0] < weights[1] < 80 < weights[2]
            """,
        "5. A Llama of your own": r"""
            import re
            assert float(re.search(r"off by (\S+)", printed)[1]) < 1e-4
            assert re.findall(r"(\d+) cached", printed) == ["256", "128", "64"]
            """,
        "6. Experts that starve": r"""
            import re
            shares = [list(map(float, row.split(", "))) for row in re.findall(r"tokens (.*)", printed)]
            assert shares[0][0] < shares[1][0] < shares[2][0] and shares[0][-1] > 3 * shares[0][0]
            assert min(shares[2]) > 0.2
            """,
        "7. What a chosen token becomes": r"""
            import re
            rows = [tuple(map(float, row)) for row in re.findall(
                r"chosen (\S+): mask (\S+), kept (\S+), random (\S+)", printed)]
            assert len(rows) == 2
            for (chosen, *parts), prob in zip(rows, (0.15, 0.4)):
                assert abs(chosen - prob) < 0.01
                assert all(abs(part - right) < 0.02 for part, right in zip(parts, (0.8, 0.1, 0.1)))
            """,
        "8. One text, four objectives": r"""
            import re
            assert len(words) == 17
            rows = [row.split() for row in re.findall(r"labels: (.*)", printed)]
            assert len(rows) == 4 and len(rows[0]) == 16 and "·" not in rows[0]
            assert [len(row) for row in rows[1:3]] == [17, 17]
            assert sum(word != "·" for word in rows[2]) == sum(not word.startswith("<") for word in rows[3]) == 6
            """,
        "9. Losses that are worth nothing": r"""
            import re
            rows = [tuple(map(float, row)) for row in re.findall(r"0 to 4 (\S+), from 5 on (\S+),", printed)]
            assert rows[-1][0] < 0.5 * rows[0][0]
            assert abs(rows[-1][1] - math.log(8)) < 0.15  # noise cannot be predicted
            """,
        "10. What checkpointing saves": r"""
            import re
            plain, saving = map(float, re.findall(r"(\S+) · B·T·D values a layer", printed))
            assert 16 < plain and 0.9 < saving < 2.1
            """,
        "11. Many batches that are one": r"""
            import re
            rows = [tuple(map(float, row)) for row in re.findall(r"loss (\S+), weights off by (\S+)", printed)]
            assert len(rows) == 3 and all(abs(number) < 1e-12 for row in rows for number in row)
            """,
        "12. Stop and go on": """
            assert straight == stopped and len(straight) == 6
            """,
        "13. Find the bug": """
            lines = printed.splitlines()
            assert lines[0] == "A [0.2, 0.2, 1.4, 1.4]" and lines[1] == "B [5, 99, 7, 99] [-100, 99, -100, 99]"
            assert lines[2] == "C 3.0"  # (4 + 2 + 2 + 2) / 4 is 2.5
            before, after = [float(word) for word in lines[3].split() if word[-1].isdigit()]
            assert before != after
            """,
    },
}
CLAIMED = [(lesson, heading) for lesson, claims in CLAIMS.items() for heading in claims]


@cache
def errors(name: str) -> dict[str, str]:
    """Heading -> what went wrong in its blocks or its claim. All blocks of a lesson run in one process."""
    lesson = load(name, ROOT)
    with TemporaryDirectory() as folder:
        claims = Path(folder) / "claims.json"
        claims.write_text(json.dumps({heading: dedent(code) for heading, code in CLAIMS[name].items()}), "utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(used.solution) for used in (lesson, *lesson.prerequisites())),
            "MPLBACKEND": "Agg",
            "MPLCONFIGDIR": folder,
            "HF_HUB_OFFLINE": "1",
        }
        run = subprocess.run(
            [sys.executable, ROOT / "tests" / "handout_blocks.py", lesson.handout, claims],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert run.returncode == 0, run.stderr[-3000:]
    return dict(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("lesson", "heading"), CLAIMED)
def test_a_block_runs_alone_and_shows_what_the_text_says(lesson, heading):
    assert errors(lesson)[heading] == ""


@pytest.mark.parametrize("lesson", list(CLAIMS))
def test_every_block_is_claimed_to_show_something(lesson):
    headings = [heading for heading, _ in blocks_with_headings(load(lesson, ROOT).handout.read_text("utf-8"))]

    assert headings == list(CLAIMS[lesson])
