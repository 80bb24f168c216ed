# %% [markdown]
# # LLM interactive lab
#
# You follow one text on its way through a language model: it becomes tokens, tokens become vectors, vectors look at each
# other, and out comes a probability for every next token. Then you train such a model, and see what makes an assistant of it.
#
# - Run the cells from top to bottom. On a laptop without a GPU all of them take about a minute.
# - All models here are tiny, and the lab makes them itself. They are saved and loaded by the same calls as real ones.
# - **Exercises** are cells with `# TODO(student)`. Below each one is a cell that checks a few values. Hidden tests on other
#   values decide the points when your work is graded. They see the cells of exercises only, so each of these must run on its
#   own: import in it what it needs, and use nothing that another cell has defined.
# - **Try it** is for you. It gives no points; it is how one learns the most.
#
# You need `torch`, `transformers` and `matplotlib`: `pip install torch transformers matplotlib`.

# %%
# What the lab uses.
import math
import random
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    pipeline,
)
from transformers.utils import logging


logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
MODELS = Path("models")  # what the lab trains is saved below this folder

# %% [markdown]
# ## 1. From text to tokens
#
# A model reads numbers, so a text is cut into pieces, and each piece has a number, its **id**. What should a piece be?
#
# - **Characters**: a small vocabulary, but long sequences, and a character says little.
# - **Words**: short sequences, but there is always a word that the vocabulary does not have.
# - **Subwords**: frequent words stay whole, and rare ones fall into parts. This is what LLMs use.
#
# First we need a text. This one is made from a few patterns, so that a tiny model can learn it.

# %%
random.seed(0)
ANIMALS = {
    "cat": "milk",
    "dog": "bones",
    "mouse": "cheese",
    "rabbit": "carrots",
    "horse": "apples",
    "bird": "seeds",
}
PLACES = ["garden", "kitchen", "forest", "house", "field"]


def sentence():
    animal, other = random.sample(list(ANIMALS), 2)
    place = random.choice(PLACES)
    return random.choice(
        [
            f"the {animal} likes {ANIMALS[animal]}.",
            f"the {animal} eats {ANIMALS[animal]} in the {place}.",
            f"the {animal} runs to the {place}.",
            f"the {animal} sees the {other} in the {place}.",
        ]
    )


SENTENCES = [sentence() for _ in range(2000)]
print(*SENTENCES[:5], sep="\n")

# %% [markdown]
# Byte-pair encoding (BPE) learns subwords: it starts with single bytes, and joins the most frequent pair of neighbours again
# and again. You write this algorithm in `tokenization.py`. Here the library `tokenizers` does it.

# %%
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
bpe.train_from_iterator(
    SENTENCES,
    trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ),
)
INPUTS = ["input_ids", "attention_mask"]  # what our models read
PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_input_names=INPUTS
).save_pretrained(MODELS / "tiny-lm")

tokenizer = AutoTokenizer.from_pretrained(MODELS / "tiny-lm")
text = "the rabbit eats carrots."
print("characters:", list(text))
print("words:     ", text.split())
print("subwords:  ", [tokenizer.decode([id]) for id in tokenizer(text)["input_ids"]])
print("ids:       ", tokenizer(text)["input_ids"])

# %% [markdown]
# With a network, a real tokenizer is loaded by the same call, by its name on the Hugging Face Hub instead of a folder:
# `AutoTokenizer.from_pretrained("gpt2")`.
#
# **Try it.** Encode "the elephant eats carrots.". Why does "elephant" fall into so many pieces? Then encode your own name,
# and a word with an accent: how many tokens does one character take?
#
# ### Exercise: count tokens
#
# Providers charge by the token, and a model's memory is limited in tokens. Count those that the model reads. Some tokenizers
# add special tokens at the beginning and end; the model reads these, too. `tokenizer(text)` gives what the model reads.


# %% exercise="Count tokens"
def count_tokens(text, tokenizer) -> int:
    """The number of ids that the model reads for the text.

    They are what `tokenizer(text)` gives, with its special tokens.
    """
    ### BEGIN SOLUTION
    return len(tokenizer(text)["input_ids"])
    ### END SOLUTION


# %% checks="Count tokens"
assert count_tokens("", tokenizer) == 0
assert count_tokens("the cat likes milk.", tokenizer) == 5
assert count_tokens("xyz", tokenizer) == 3

# %% [markdown]
# ## 2. Embeddings: meaning as direction
#
# Each token becomes a vector, its **embedding**. In a good embedding, words that are used alike point in like directions. How
# much two vectors point in the same direction is their **cosine similarity**, from -1 to 1:
#
# $$\cos(a, b) = \frac{a \cdot b}{\lVert a \rVert \, \lVert b \rVert}$$
#
# ### Exercise: cosine similarity

# %% exercise="Cosine similarity"
import torch


def cosine_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The cosine of the angle between two vectors (D,), which are not zero: a tensor of shape ()."""
    ### BEGIN SOLUTION
    return a @ b / (a.norm() * b.norm())
    ### END SOLUTION


# %% checks="Cosine similarity"
assert abs(cosine_similarity(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))) < 1e-6  # a right angle
assert abs(cosine_similarity(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])) - 1) < 1e-6  # the same direction

# %% [markdown]
# Models learn embeddings while they are trained. A simpler way shows the idea: count which words stand beside which, and take
# the most important directions of that table (a singular value decomposition).

# %%
words = sorted({word for line in SENTENCES for word in line.strip(".").split()})
index = {word: number for number, word in enumerate(words)}
counts = torch.zeros(len(words), len(words))  # (V, V)
for line in SENTENCES:
    row = [index[word] for word in line.strip(".").split()]
    for left, right in zip(row, row[1:], strict=False):
        counts[left, right] += 1
        counts[right, left] += 1
log_counts = torch.log1p(counts)
U, S, _ = torch.linalg.svd(log_counts - log_counts.mean(0))
embeddings = U[:, :4] * S[:4]  # (V, 4)

for one, other in [("cat", "dog"), ("garden", "kitchen"), ("cat", "garden"), ("likes", "horse")]:
    print(f"{one:>8} {other:<8} {cosine_similarity(embeddings[index[one]], embeddings[index[other]]):+.2f}")

# %% [markdown]
# No one told the table what an animal is: words that have the same neighbours get similar vectors.
#
# **Try it.** Which word is the most similar to "milk"? Compute its cosine with all words, and sort them.
#
# ## 3. Attention: tokens look at each other
#
# In an attention head every position asks a question (its **query** q), and every position offers a **key** k. The score of
# a pair is q · k / √d. A softmax over each row turns scores into weights that sum to 1. A language model predicts what comes
# next, so a position must not see later ones: their scores become -∞ before the softmax.
#
# ### Exercise: attention weights

# %% exercise="Attention weights"
import math

import torch


def attention_weights(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Causal attention weights of one head.

    Args:
        queries: (T, d). keys: (T, d).

    Returns:
        (T, T): row t holds the weights with which position t looks at positions 0 … t;
        later ones have weight 0.
    """
    ### BEGIN SOLUTION
    T, d = queries.shape
    scores = queries @ keys.T / math.sqrt(d)  # (T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(dim=-1)
    ### END SOLUTION


# %% checks="Attention weights"
_weights = attention_weights(torch.zeros(3, 4), torch.zeros(3, 4))
assert torch.allclose(_weights, torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]))

# %%
shown = "the cat sees the dog in the garden".split()
X = torch.stack([embeddings[index[word]] for word in shown])  # (T, 4)
weights = attention_weights(X, X)  # here queries and keys are the embeddings themselves

plt.figure(figsize=(5, 4))
plt.imshow(weights, cmap="viridis")
plt.xticks(range(len(shown)), shown, rotation=60)
plt.yticks(range(len(shown)), shown)
plt.xlabel("is looked at")
plt.ylabel("looks")
plt.colorbar(label="weight")
plt.title("one attention head")
plt.tight_layout()
plt.show()

# %% [markdown]
# In a real model, queries and keys are learned linear maps of the vectors, so a head learns what to look for.
#
# **Try it.** Multiply `X` by 3 in the call, then by 0. What happens to the rows, and why?
#
# ## 4. Predicting the next token
#
# A language model gives a probability to each possible next token. Here is a small GPT-2 with random weights. It has learned
# nothing, so it finds all tokens nearly equally likely. Its **loss**, the mean of -ln p of the tokens that really come next,
# is about ln V, where V is the size of the vocabulary.

# %%
torch.manual_seed(0)
eos = tokenizer.eos_token_id
config = GPT2Config(
    vocab_size=len(tokenizer),
    n_positions=64,
    n_embd=64,
    n_layer=2,
    n_head=2,
    bos_token_id=eos,
    eos_token_id=eos,
    pad_token_id=eos,
)
model = GPT2LMHeadModel(config)


def show_next(prompt, model, most=5):
    """Prints the likeliest next tokens."""
    model.eval()
    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits  # (1, T, V)
    top = logits[0, -1].softmax(-1).topk(most)
    for probability, id in zip(top.values, top.indices, strict=True):
        print(f"{probability:6.1%}  {tokenizer.decode([id])!r}")


print(f"{sum(p.numel() for p in model.parameters()):,} parameters; ln V = {math.log(len(tokenizer)):.2f}")
show_next("the rabbit eats", model)

# %% [markdown]
# **Try it.** Run the cell with another seed. Do the same tokens come out?
#
# ## 5. Pre-training
#
# Pre-training is: predict the next token, everywhere in a lot of text, and change the weights a little so that the loss falls.
# No labels are needed, because the text is its own label.

# %%
STEPS, BATCH, LENGTH = 400, 16, 48
ids = torch.tensor([id for line in SENTENCES for id in tokenizer(line)["input_ids"] + [eos]])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = []
model.train()
for _ in range(STEPS):
    starts = torch.randint(len(ids) - LENGTH, (BATCH,)).tolist()
    batch = torch.stack([ids[start : start + LENGTH] for start in starts])  # (B, T)
    loss = model(input_ids=batch, labels=batch).loss  # the model shifts the labels by one itself
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

plt.figure(figsize=(5, 3))
plt.plot(losses)
plt.axhline(math.log(len(tokenizer)), linestyle=":", color="gray")
plt.xlabel("step")
plt.ylabel("loss")
plt.title("pre-training; dotted: ln V")
plt.tight_layout()
plt.show()
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
show_next("the rabbit eats", model)

# %% [markdown]
# **Try it.** Why can the loss not reach 0 on this text? (Which token after "the" can nobody know?) Set `STEPS` to 20, run
# from "4. Predicting the next token" on, and compare what the model predicts.
#
# A model is saved to a folder, and loaded from it by the class that fits its task. A real one is loaded by its name:
# `AutoModelForCausalLM.from_pretrained("gpt2")`. Loading gives a model in evaluation mode: dropout is off.

# %%
model.save_pretrained(MODELS / "tiny-lm")
lm = AutoModelForCausalLM.from_pretrained(MODELS / "tiny-lm")

# %% [markdown]
# ### Exercise: generate from a prompt
#
# To generate is to predict, append, and predict again. Choose the likeliest token at each step (**greedy** decoding), so that the
# same prompt always gives the same text. You may write the loop, or use `model.generate`, which needs `do_sample=False` and
# `max_new_tokens`. The model ends a text by its token `model.config.eos_token_id`; nothing is generated after it.

# %% exercise="Generate from a prompt"
import torch


def generate(prompt: str, tokenizer, model, max_new_tokens: int) -> str:
    """The prompt and its greedy continuation of at most max_new_tokens tokens.

    Both are one text, without special tokens.
    """
    ### BEGIN SOLUTION
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # (1, T + new)
    return tokenizer.decode(ids[0], skip_special_tokens=True)
    ### END SOLUTION


# %% checks="Generate from a prompt"
_text = generate("the rabbit likes", tokenizer, lm, 3)
assert _text.startswith("the rabbit likes")
assert 3 <= count_tokens(_text, tokenizer) <= 3 + 3
assert generate("the rabbit likes", tokenizer, lm, 3) == _text

# %%
for prompt in ("the rabbit likes", "the dog eats", "the bird"):
    print(generate(prompt, tokenizer, lm, 12))

# %% [markdown]
# A `pipeline` puts tokenizer and model together. This line works for real models, too: `pipeline("text-generation",
# model="gpt2")`.

# %%
writer = pipeline("text-generation", model=str(MODELS / "tiny-lm"))
print(writer("the horse", do_sample=True, temperature=0.8, max_new_tokens=8)[0]["generated_text"])

# %% [markdown]
# **Try it.** Run the last line several times, with a temperature of 0.1 and of 3. What does the temperature change?
#
# ## 6. From a language model to an assistant: three stages
#
# | stage | learns from | goal |
# |---|---|---|
# | **1. pre-training** | a huge amount of plain text | predict the next token: language and facts |
# | **2. supervised fine-tuning (SFT)** | prompts with good answers, written by people | answer, instead of only continuing |
# | **3. RLHF** (reinforcement learning from human feedback) | people's choice between answers | prefer the answers that people prefer |
#
# Stage 1 is done. Our model has never seen a question, and does not answer it. For stage 2 we go on training with questions and
# answers. Only the tokens of the answer count for the loss: the label -100 means "not counted".

# %%
question = "Q: what does the horse like? A:"
print("before SFT:", generate(question, tokenizer, lm, 8))

optimizer = torch.optim.AdamW(lm.parameters(), lr=2e-3)
lm.train()
examples = [(f"Q: what does the {animal} like? A:", f" {food}.") for animal, food in ANIMALS.items()]
for _ in range(100):
    rows, labels = [], []
    for prompt, answer in examples:
        start, end = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"] + [eos]
        rows.append(torch.tensor(start + end))
        labels.append(torch.tensor([-100] * len(start) + end))
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=eos)
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    loss = lm(input_ids=padded, labels=targets).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
lm.eval()
print("after SFT: ", generate(question, tokenizer, lm, 8))

# %% [markdown]
# It answers now, and has learned that a food belongs there. So small a model hardly learns which one: an answer in the right form
# can still be false.
#
# Stage 3 in its smallest form: three possible answers, and a **reward** for each, which stands for what people prefer. The policy
# is a softmax over three numbers. It goes up where the reward is high, and a penalty (the KL divergence) keeps it near the
# policy that SFT gave.

# %%
answers = ["apples.", "Apples, most of all!", "I will not tell you."]
reward = torch.tensor([0.5, 1.0, -1.0])
start = torch.log(torch.tensor([0.6, 0.1, 0.3]))  # what SFT gave
BETA = 0.2  # how much it costs to leave it
policy = start.clone().requires_grad_()
for _ in range(200):
    log_p = policy.log_softmax(-1)
    kl = (log_p.exp() * (log_p - start)).sum()
    objective = (log_p.exp() * reward).sum() - BETA * kl
    (slope,) = torch.autograd.grad(objective, policy)
    policy = (policy + slope / max(BETA, 1)).detach().requires_grad_()
for answer, before, after in zip(answers, start.exp(), policy.softmax(-1), strict=True):
    print(f"{before:5.0%} -> {after:5.0%}  {answer}")

# %% [markdown]
# **Try it.** Set `BETA` to 0, and then to 10. Which of the two would find and use every mistake of the reward?

# %% [markdown] written="three-stages" points=2
# A model has been pre-trained only. You ask it "What is the capital of France?", and it goes on with "What is the
# capital of Spain?". Why is that a reasonable continuation for it? Which of the later stages changes this first, and how?
#
# ### BEGIN MARK SCHEME
#
# 1 point: the model continues a text as texts in its training data go on, and lists of questions occur there. 1 point:
# supervised fine-tuning, which trains on prompts with the answers that are wanted.
#
# ### END MARK SCHEME

# %% [markdown]
# ## 7. A model that classifies
#
# With another last layer the same kind of network gives a text a label, such as its **sentiment**. Here is a tiny DistilBERT. It is
# trained on sentences that are labelled as they are made.

# %%
GOOD = ["great", "wonderful", "lovely", "funny", "brilliant", "good"]
BAD = ["awful", "boring", "terrible", "dull", "weak", "bad"]
THINGS = ["film", "book", "song", "plot", "game"]
random.seed(1)


def review(adjectives):
    thing, one, other = random.choice(THINGS), random.choice(adjectives), random.choice(adjectives)
    return random.choice([f"a {one} {thing}", f"the {thing} was {one}", f"the {thing} was {one} and {other}"])


reviews = [(review(GOOD), 1) for _ in range(300)] + [(review(BAD), 0) for _ in range(300)]
vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for line, _ in reviews for word in line.split()})]
by_words = Tokenizer(models.WordLevel({word: id for id, word in enumerate(vocabulary)}, unk_token="[UNK]"))
by_words.pre_tokenizer = pre_tokenizers.Whitespace()
by_words.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
PreTrainedTokenizerFast(
    tokenizer_object=by_words,
    pad_token="[PAD]",
    unk_token="[UNK]",
    cls_token="[CLS]",
    sep_token="[SEP]",
    model_input_names=INPUTS,
).save_pretrained(MODELS / "tiny-sentiment")

torch.manual_seed(0)
sentiment_tokenizer = AutoTokenizer.from_pretrained(MODELS / "tiny-sentiment")
classifier = DistilBertForSequenceClassification(
    DistilBertConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=32,
        dim=32,
        hidden_dim=64,
        n_layers=1,
        n_heads=2,
        pad_token_id=0,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
)
inputs = sentiment_tokenizer([line for line, _ in reviews], padding=True, return_tensors="pt")
targets = torch.tensor([label for _, label in reviews])
optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
classifier.train()
for _ in range(60):
    logits = classifier(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits  # (N, 2)
    loss = F.cross_entropy(logits, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
classifier.eval()
classifier.save_pretrained(MODELS / "tiny-sentiment")
print(f"loss {loss:.3f}, {(logits.argmax(-1) == targets).float().mean():.0%} of the training sentences are right")

# %% [markdown]
# It is loaded as a real one, which would be `AutoModelForSequenceClassification.from_pretrained(
# "distilbert-base-uncased-finetuned-sst-2-english")`.

# %%
sentiment_model = AutoModelForSequenceClassification.from_pretrained(MODELS / "tiny-sentiment")
judge = pipeline("sentiment-analysis", model=str(MODELS / "tiny-sentiment"))
print(judge(["the film was great", "a dull book"]))

# %% [markdown]
# ### Exercise: classify sentiment
#
# The model gives one logit for each class. The number of the greatest one is the class, and `model.config.id2label` has its name: it
# is not the same for all models. Texts of different lengths are padded to one length, so give the model the tokenizer's
# `attention_mask`, too. You may use a pipeline.

# %% exercise="Classify sentiment"
import torch


def classify_sentiment(texts: list[str], tokenizer, model) -> list[str]:
    """The model's label for each text, as `model.config.id2label` names it."""
    ### BEGIN SOLUTION
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits  # (N, classes)
    return [model.config.id2label[number] for number in logits.argmax(dim=-1).tolist()]
    ### END SOLUTION


# %% checks="Classify sentiment"
assert classify_sentiment(["the film was great"], sentiment_tokenizer, sentiment_model) == ["POSITIVE"]
_texts = ["a dull book", "the song was lovely and funny"]
assert classify_sentiment(_texts, sentiment_tokenizer, sentiment_model) == ["NEGATIVE", "POSITIVE"]

# %%
hard = ["the film was not good", "the plot was awful and the song was great", "a magnificent game"]
for line, label in zip(hard, classify_sentiment(hard, sentiment_tokenizer, sentiment_model), strict=True):
    print(f"{label:>8}  {line}")

# %% [markdown]
# **Try it.** Write three sentences that the classifier gets wrong. Which words does it not know?

# %% [markdown] written="not-good" points=2
# Why can this classifier not be trusted with "the film was not good"? What would you add to its training, and
# how would you find out whether that helped?
#
# ### BEGIN MARK SCHEME
#
# 1 point: "not" does not occur in its training sentences (it is [UNK]), and "good" only in positive ones. 1 point:
# add labelled sentences with negations, and measure on sentences that it was not trained on.
#
# ### END MARK SCHEME

# %% [markdown]
# ## 8. The memory of a model
#
# Each parameter is a number, and takes as many bytes as its format has: 16 bits are 2 bytes. So 70 billion parameters take 140 GB
# at 16 bits, 70 GB at 8 and 35 GB at 4 (1 GB is 10⁹ bytes). That is for the weights alone; what the model keeps while it
# generates comes on top.
#
# ### Exercise: memory of the weights


# %% exercise="Memory of the weights"
def weights_gb(parameters: float, bits: int) -> float:
    """The memory of the weights in GB (10**9 bytes), at this number of bits for each parameter."""
    ### BEGIN SOLUTION
    return parameters * bits / 8 / 1e9
    ### END SOLUTION


# %% checks="Memory of the weights"
assert [weights_gb(70e9, bits) for bits in (16, 8, 4)] == [140, 70, 35]

# %%
for name, parameters in [("GPT-2 small", 124e6), ("7 billion", 7e9), ("70 billion", 70e9)]:
    sizes = [f"{weights_gb(parameters, bits):.2f} GB at {bits} bits" for bits in (16, 8, 4)]
    print(f"{name}:", ", ".join(sizes))


def rounded(weight, bits):
    """The nearest of 2**bits - 1 evenly spaced values: the simplest quantization."""
    step = weight.abs().max() / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


weight = model.transformer.h[0].mlp.c_fc.weight.detach()
for bits in (8, 4, 2):
    error = (rounded(weight, bits) - weight).norm() / weight.norm()
    print(f"{bits} bits: the weights of one layer change by {error:.1%}")

# %% [markdown]
# **Try it.** How many bits for each parameter can a model of 7 billion have, to fit into 8 GB? And into 4 GB?

# %% [markdown] written="fewer-bits" points=2
# You have one GPU with 48 GB. You may take a model of 70 billion parameters at 4 bits, or one of 13 billion at
# 16 bits. Do both fit, and what is left of the memory for? What would you measure before you choose?
#
# ### BEGIN MARK SCHEME
#
# 1 point: 35 GB and 26 GB, so both fit; the rest, 13 and 22 GB, is for activations and the keys and values of the context.
# 1 point: the quality of both on one's own task (and speed, or length of context), because rounding to 4 bits costs some
# quality.
#
# ### END MARK SCHEME

# %% [markdown]
# ## 9. Context windows
#
# A model reads a limited number of tokens at once, its **context window**: 1,024 for GPT-2, and 64 for ours. The prompt and the answer share
# it. A chat program has to leave out something when a conversation gets longer than that. The simplest way is to
# forget the oldest messages.
#
# ### Exercise: recent messages


# %% exercise="Recent messages"
def recent_messages(messages: list[str], tokenizer, max_tokens: int) -> list[str]:
    """The newest messages that fit together, in their order.

    Starting from the newest (the last), messages are kept as long as the sum of their tokens,
    `len(tokenizer(m)["input_ids"])`, is at most max_tokens. The first one that does not fit,
    and all that are older, are left out.
    """
    ### BEGIN SOLUTION
    kept: list[str] = []
    for message in reversed(messages):
        max_tokens -= len(tokenizer(message)["input_ids"])
        if max_tokens < 0:
            break
        kept.insert(0, message)
    return kept
    ### END SOLUTION


# %% checks="Recent messages"
_chat = ["the cat likes milk.", "the dog", "the bird"]  # 5, 2 and 2 tokens
assert recent_messages(_chat, tokenizer, 100) == _chat
assert recent_messages(_chat, tokenizer, 4) == ["the dog", "the bird"]
assert recent_messages(_chat, tokenizer, 1) == []

# %%
chat = ["Q: what does the horse like? A: apples.", "the dog sees the bird in the garden.", "what does it eat?"]
for size in (64, 24, 12):
    print(size, recent_messages(chat, tokenizer, size))

# %% [markdown]
# In the last line nobody can know any more what "it" is: what is outside the window does not exist for the model.
#
# **Try it.** Give `lm` a prompt of more than 64 tokens. What happens, and why? (Section 4 says how many positions it has.)
#
# ## What you have seen
#
# A text becomes ids, ids become vectors, attention mixes them, and the model gives probabilities for the next token. Pre-training
# makes it predict, SFT makes it answer, and RLHF makes it answer as people prefer. The next lessons build each of these parts.
