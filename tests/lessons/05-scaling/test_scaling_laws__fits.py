"""Hidden tests of scaling_laws: laws that are fitted to measured losses."""

import math

import pytest
import torch

from shared import MANNERS, on_inputs, randn, shuffled

FIT = pytest.mark.question("fit_chinchilla")
VERTEX = pytest.mark.question("isoflop_optimum")

NAMES = ("E", "A", "B", "alpha", "beta")
PUBLISHED = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
POINTS = (
    "params",
    "tokens",
    "losses",
    "points",
    "runs",
    "measurements",
    "data",
    "length",
    "sizes",
)  # what a message may name


def number_between(rng, low, high):
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- fit_chinchilla


def a_law(rng, larger="alpha"):
    """The five numbers of a law; `larger` is the greater exponent. A and B differ."""
    exponents = {"alpha": number_between(rng, 0.24, 0.28), "beta": number_between(rng, 0.24, 0.28)}
    exponents[larger] = number_between(rng, 0.34, 0.4)
    sizes = number_between(rng, 150, 400), number_between(rng, 600, 1500)
    A, B = sizes if larger == "alpha" else sizes[::-1]
    return {"E": number_between(rng, 1.2, 2.5), "A": A, "B": B, **exponents}


def runs_of(rng, law, places, base=10.0):
    """params, tokens and losses, as lists in random order, for these (log N, log D), of this base."""
    sizes = [(base**n, base**d) for n, d in shuffled(rng, places)]
    losses = [law["E"] + law["A"] / n ** law["alpha"] + law["B"] / d ** law["beta"] for n, d in sizes]
    return [n for n, _ in sizes], [d for _, d in sizes], losses


POWERS = [(n, d) for n in (23, 26, 29, 33) for d in (30, 33, 36, 40)]  # of 2: exact in bfloat16 and float32
GRID = [(n, d) for n in (7.0, 8.0, 9.0, 10.0) for d in (9.0, 10.0, 11.0, 12.0)]
CROSS = [(7.0, 9.0), (8.5, 9.0), (10.0, 9.0), (7.0, 10.5), (7.0, 12.0)]


def wrong_fits(law):
    """Sentence -> a law that a mistake gives."""
    E, A, B, alpha, beta = (law[name] for name in NAMES)
    return {
        "the numbers of the paper are returned; they should be fitted to the losses": PUBLISHED,
        "A and B are exchanged": law | {"A": B, "B": A},
        "alpha and beta are exchanged": law | {"alpha": beta, "beta": alpha},
        "A and alpha are those of tokens; they should be those of params": law
        | {"A": B, "B": A, "alpha": beta, "beta": alpha},
        "the logarithms of A and B are returned": law | {"A": math.log(A), "B": math.log(B)},
        "the logarithms of E, A and B are returned": law | {"E": math.log(E), "A": math.log(A), "B": math.log(B)},
        "A and B are those for params and tokens in billions": law | {"A": A / 1e9**alpha, "B": B / 1e9**beta},
        "A and B are those for params in millions and tokens in billions": law
        | {"A": A / 1e6**alpha, "B": B / 1e9**beta},
        "the exponents are negative; the law divides by the powers": law | {"alpha": -alpha, "beta": -beta},
    }


def wrong_forms(found):
    """Sentence -> whether what is returned is not a law of the right form, or one in which E is not fitted."""
    given = found if isinstance(found, dict) else {}
    E = given.get("E")
    return {
        "a tuple or list is returned; it should be a dict": isinstance(found, (tuple, list)),
        "the keys of the dict should be E, A, B, alpha and beta": bool(given) and given.keys() != set(NAMES),
        "a tensor is in the dict; the numbers should be floats": any(
            isinstance(value, torch.Tensor) for value in given.values()
        ),
        "E is always 1.69, as in the paper; it should be fitted to the losses": is_near(E, 1.69),
        "E is 0 or nearly so; it should be fitted to the losses, too": type(E) is float and abs(E) < 1e-6,
    }


def other_valleys(found, runs):
    """Sentence -> whether the law misses losses which, as they are without noise, another one fits exactly."""
    numbers = [found.get(name) for name in NAMES] if isinstance(found, dict) else [None]
    misses = False
    if all(type(each) is float for each in numbers):
        E, A, B, alpha, beta = numbers
        n, d, losses = (torch.tensor(each, dtype=torch.float64) for each in runs)
        worst = float((E + A / n**alpha + B / d**beta - losses).abs().max())
        misses = 1e-4 < worst < 0.5  # not any wrong numbers, but those of a descent that ended elsewhere
    sentence = "the law misses the losses, which another one fits; the fit should not stop early, in a local minimum or at a bound"
    return {sentence: misses}


def dead_ends(found, own):
    """Sentence -> whether a number is lost that is there in the student's own law of plain runs."""

    def lost(law):
        return {name for name in NAMES if type(law[name]) is float and abs(law[name]) < 1e-6}

    laws = all(isinstance(law, dict) and law.keys() == set(NAMES) for law in (found, own))
    sentence = "the fit is stuck where one of the five numbers is nearly 0; it should begin at a better first guess, or at several"
    return {sentence: laws and bool(lost(found) - lost(own))}


def law_to_repeat(law, own):
    """What a fit of the same losses should give again: the student's own law where it has the right numbers, or wrong ones
    that a known mistake gives; else the right one."""
    return next((each for each in (law, *list(wrong_fits(law).values())[1:]) if near(own, each)), law)


def near(found, law):
    if not isinstance(found, dict) or found.keys() != law.keys():
        return False
    return all(is_near(found[name], law[name], 0.01) for name in law)


@FIT
@pytest.mark.points(3)
@pytest.mark.parametrize("larger", ["alpha", "beta"])
def test_a_law_is_found_from_runs_on_a_grid(student, check, rng, larger):
    """Each of the five numbers is within 1 %; the runs are in random order."""
    law = a_law(rng, larger)

    runs = runs_of(rng, law, GRID)
    found = student.call("scaling_laws.fit_chinchilla", *runs)

    facts = wrong_forms(found) | other_valleys(found, runs)
    mistakes = wrong_fits(law) | {sentence: check.when(so) for sentence, so in facts.items()}
    check(found, law, relative=0.01, mistakes=mistakes)


@FIT
@pytest.mark.points(1)
def test_a_law_is_found_from_five_runs(student, check, rng):
    """Three sizes with one text, and three texts with one size, are enough."""
    law = a_law(rng)
    runs = runs_of(rng, law, CROSS)

    found = student.call("scaling_laws.fit_chinchilla", *runs)
    own = student.call("scaling_laws.fit_chinchilla", *runs_of(rng, law, GRID))

    facts = other_valleys(found, runs) | dead_ends(found, own)
    mistakes = wrong_fits(law) | {sentence: check.when(so) for sentence, so in facts.items()}
    check(found, law_to_repeat(law, own), relative=0.01, mistakes=mistakes)


# Laws at the ends of what the docstring promises. In the second, one term is far larger than the other, so that a descent
# from a poor first guess ends where the small one is lost. In the third both terms are far larger than E, and fall slowly, so
# that of a first guess by linear least squares a term is negative. The others part good first guesses and small steps from
# such as are found by luck: in the fourth the power of N is little more than a thousandth of the loss.
# In the last the sizes are not evenly spaced, and a first guess without E ends elsewhere.
SMALL = {"E": (2.8, 3.0), "A": (100, 150), "B": (1500, 2000), "alpha": (0.2, 0.22), "beta": (0.46, 0.5)}
LARGE = {"E": (1.0, 1.2), "A": (100, 250), "B": (1800, 2000), "alpha": (0.47, 0.5), "beta": (0.2, 0.22)}
FLAT = {"E": (1.5, 2.5), "A": (100, 150), "B": (200, 300), "alpha": (0.2, 0.22), "beta": (0.2, 0.22)}
LITTLE = {"E": (2.9, 3.0), "A": (100, 102), "B": (265, 272), "alpha": (0.377, 0.38), "beta": (0.264, 0.266)}
STEEP = {"E": (1.5, 2.0), "A": (700, 750), "B": (1600, 1650), "alpha": (0.49, 0.5), "beta": (0.49, 0.5)}
CROWDED = {"E": (2.89, 2.91), "A": (210.8, 211.6), "B": (1.677, 1.685), "alpha": (0.474, 0.475), "beta": (0.484, 0.485)}
UNLIKE = {"E": (1.0, 1.05), "A": (375, 385), "B": (505, 515), "alpha": (0.495, 0.5), "beta": (0.2075, 0.209)}


@FIT
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("ends", "n", "d"),
    [
        (SMALL, (6.0, 7.5, 9.0), (8.0, 9.5, 11.0)),
        (LARGE, (8.0, 10.0, 12.0), (10.0, 11.5, 13.0)),
        (FLAT, (1.0, 2.5, 4.0), (1.0, 2.5, 4.0)),  # params in millions, tokens in billions
        (LITTLE, (10.0, 11.5, 13.0), (1.5, 2.7, 3.9, 5.1)),  # tokens in billions
        (STEEP, (7.8, 9.3, 10.8), (6.0, 7.5, 9.1, 10.7)),
        (UNLIKE, (4.0, 5.5, 7.0), (4.0, 5.0, 6.0, 7.0)),  # tokens in thousands
        (CROWDED, (8.73, 11.62, 11.73), (3.01, 3.64, 4.32, 6.65, 8.09, 8.15, 8.49, 9.01)),  # tokens in millions
    ],
    ids=["small", "large", "in-millions", "little", "steep", "unlike", "crowded"],
)
def test_the_law_may_be_one_of_small_or_large_models(student, check, rng, ends, n, d):
    """The sizes of the runs, their units and the numbers of their law are not those of a certain paper."""
    law = {name: number_between(rng, *each) for name, each in ends.items()}
    runs = runs_of(rng, law, [(a, b) for a in n for b in d])

    found = student.call("scaling_laws.fit_chinchilla", *runs)
    plain = a_law(rng)
    own = student.call("scaling_laws.fit_chinchilla", *runs_of(rng, plain, GRID))

    known = [sentence for sentence, wrong in list(wrong_fits(plain).items())[1:] if near(own, wrong)]
    expected = wrong_fits(law)[known[0]] if known else law
    facts = other_valleys(found, runs) | dead_ends(found, own)
    mistakes = wrong_fits(law) | {sentence: check.when(so) for sentence, so in facts.items()}
    check(found, expected, relative=0.01, mistakes=mistakes)


@FIT
@pytest.mark.points(1)
def test_a_fit_takes_lists_arrays_and_tensors(student, check, rng):
    """Lists of ints, tuples, arrays of numpy and tensors, each of several dtypes, give the same law, as floats."""
    law = a_law(rng)
    runs = runs_of(rng, law, POWERS, base=2.0)

    def probe(*runs):
        import numpy
        from scaling_laws import fit_chinchilla

        of_numpy = numpy.int64, numpy.float32, numpy.float64
        of_torch = torch.bfloat16, torch.int64, torch.float64
        return {
            "lists": fit_chinchilla(*([int(size) for size in sizes] for sizes in runs[:2]), runs[2]),
            "tuples": fit_chinchilla(*map(tuple, runs)),
            "arrays": fit_chinchilla(*map(numpy.array, runs, of_numpy)),
            "arrays that are turned around": fit_chinchilla(*(numpy.array(each)[::-1] for each in runs)),
            "tensors": fit_chinchilla(
                *(torch.tensor(numbers, dtype=dtype) for numbers, dtype in zip(runs, of_torch, strict=True))
            ),
        }

    found = student.run(probe, *runs)

    for kind in ("lists", "tuples", "arrays", "arrays that are turned around", "tensors"):
        check(found[kind], law_to_repeat(law, found["lists"]), relative=0.01, what=f"the law from {kind}")


@FIT
@pytest.mark.points(1)
def test_a_fit_needs_five_runs_of_one_length(student, rng):
    """ValueError for fewer than 5 runs, or for lists of different lengths, 1 included."""
    params, tokens, losses = runs_of(rng, a_law(rng), GRID)
    path = "scaling_laws.fit_chinchilla"

    student.accepts(path, *runs_of(rng, a_law(rng), CROSS))
    student.accepts(path, params, tokens, losses)
    student.raises(ValueError, path, params[:4], tokens[:4], losses[:4], says=(*POINTS, 4))
    student.raises(ValueError, path, [], [], [], says=(*POINTS, 0))
    student.raises(ValueError, path, params[:-1], tokens, losses, says=(*POINTS, 15))
    student.raises(ValueError, path, params, tokens, losses[:-1], says=(*POINTS, 15))
    student.raises(ValueError, path, params, tokens[:-1], losses, says=(*POINTS, 15))
    student.raises(ValueError, path, params, tokens[:1], losses, says=(*POINTS, 1))


@FIT
@pytest.mark.points(1)
@pytest.mark.parametrize("bad", [0.0, -2.5])
def test_the_runs_of_a_fit_are_positive(student, rng, bad):
    """ValueError where one of params, tokens or losses is zero or less."""
    good = runs_of(rng, a_law(rng), GRID)
    student.accepts("scaling_laws.fit_chinchilla", *good)
    for place, name in enumerate(("params", "tokens", "losses")):
        runs = [list(each) for each in good]
        runs[place][3] = bad
        student.raises(ValueError, "scaling_laws.fit_chinchilla", *runs, says=(name, bad, "parameters", "N", "D"))


def conduct_of_a_fit(path, *lists):
    """A probe: (lists after the call, arrays after it, tensors after it, what the call did besides, is a seed set?)."""
    import importlib
    import random

    import numpy

    module, _, name = path.partition(".")
    function = getattr(importlib.import_module(module), name)
    # Tensors come first: a setting that an earlier call has changed would not be seen.
    _, tensors, rude = inside.manners(function, *(torch.tensor(each, dtype=torch.float64) for each in lists))
    given, states = ([list(each) for each in lists], [numpy.array(each) for each in lists]), []
    for seed, numbers in enumerate(given):
        random.seed(seed)
        numpy.random.seed(seed)
        function(*numbers)
        states.append((random.getstate(), numpy.random.get_state()[1].tolist()))
    seeded = any(one == other for one, other in zip(*states, strict=True))
    return given[0], [torch.tensor(each) for each in given[1]], tensors, rude, seeded


@FIT
@pytest.mark.points(1)
def test_a_fit_leaves_its_inputs_alone(student, check, rng):
    """Lists, arrays and tensors are not changed in place, nothing is printed, and no setting or seed changes."""
    runs = runs_of(rng, a_law(rng), GRID)

    lists, arrays, tensors, rude, seeded = student.run(conduct_of_a_fit, "scaling_laws.fit_chinchilla", *runs)

    given = [torch.tensor(each, dtype=torch.float64) for each in runs]
    check(arrays, given, otherwise="an array that was given is changed in place")
    check(tensors, given, otherwise="a tensor that was given is changed in place")
    check(lists, runs, otherwise="a list that was given is changed in place")
    check(rude, "", mistakes=MANNERS)
    check.that(not seeded, "the seed of numpy or of random is set, which changes what the caller draws afterwards")


# ---------------------------------------------------------------------------------------------- isoflop_optimum


def parabola(log_sizes, losses):
    """The least-squares parabola c0 + c1 x + c2 x² through losses, in float64: (c0, c1, c2)."""
    x, y = (torch.tensor(each, dtype=torch.float64) for each in (log_sizes, losses))
    return torch.linalg.lstsq(torch.stack([torch.ones_like(x), x, x * x], dim=1), y[:, None]).solution[:, 0].tolist()


def vertex(sizes, losses, *, of=math.log, back=math.exp, loss=lambda y: y, factor=0.5, sign=-1.0):
    """Where the parabola of loss(losses) in of(sizes) is least; the mean of x is subtracted first."""
    x = [of(size) for size in sizes]
    middle = sum(x) / len(x)
    _, slope, curvature = parabola([each - middle for each in x], [loss(each) for each in losses])
    return back(middle + sign * factor * slope / curvature)


def nearest_three(sizes, losses):
    """The vertex of the parabola through the best size and both of its neighbours."""
    rows = sorted(zip(sizes, losses, strict=True))
    best = min(range(1, len(rows) - 1), key=lambda at: rows[at][1])
    return vertex(*zip(*rows[best - 1 : best + 2], strict=True))


def ends_and_middle(sizes, losses):
    rows = sorted(zip(sizes, losses, strict=True))
    return vertex(*zip(rows[0], rows[len(rows) // 2], rows[-1], strict=True))


def best_measured(sizes, losses):
    return min(zip(losses, sizes, strict=True))[1]


def lowest_loss(sizes, losses):
    x = [math.log(size) for size in sizes]
    c0, c1, c2 = parabola(x, losses)
    return c0 - c1 * c1 / (4 * c2)


def equal_sizes_once(sizes, losses):
    first = dict(zip(reversed(sizes), reversed(losses), strict=True))
    return vertex(list(first), list(first.values()))


VERTICES = {  # sentence -> isoflop_optimum with a mistake
    "the best measured size is returned; it should be the vertex of the parabola": best_measured,
    "the parabola is one in N; it should be in log N": lambda n, y: vertex(
        n, y, of=lambda size: size / 1e9, back=lambda x: x * 1e9
    ),
    "the logarithm of the best size is returned": lambda n, y: math.log(vertex(n, y)),
    "the decimal logarithm of the best size is returned": lambda n, y: math.log10(vertex(n, y)),
    "the binary logarithm of the best size is returned": lambda n, y: math.log2(vertex(n, y)),
    "the parabola is one in log10 N, and the way back is exp; it should be a power of 10": lambda n, y: math.exp(
        math.log10(vertex(n, y))
    ),
    "the parabola is one of log loss; it should be of the loss": lambda n, y: vertex(n, y, loss=math.log),
    "the vertex has the wrong sign; it is at -c1 / (2 c2)": lambda n, y: vertex(n, y, sign=1.0),
    "the 2 is missing in -c1 / (2 c2)": lambda n, y: vertex(n, y, factor=1.0),
    "the vertex has the wrong sign; it is at -c1 / (2 c2), of log N as it is": lambda n, y: 1 / vertex(n, y),
    "the 2 is missing in -c1 / (2 c2), of log N as it is": lambda n, y: vertex(n, y) ** 2,
    "the loss at the vertex is returned; it should be the size": lowest_loss,
    "the parabola runs through the best size and its neighbours; it should be fitted to all": nearest_three,
    "of equal sizes only the first counts; all runs should": equal_sizes_once,
    "the parabola runs through three of the sizes; it should be fitted to all": ends_and_middle,
}


def around(rng, best, places, noise=0.0, steep=1.0):
    """Sizes at these distances in ln N from the best, in random order, and losses near a parabola, as lists."""
    curvature, least = steep * number_between(rng, 0.03, 0.08), number_between(rng, 2.0, 3.0)
    x = shuffled(rng, places)
    errors = (noise * randn(rng, len(x), dtype=torch.float64)).tolist()
    losses = [least + curvature * each * each + error for each, error in zip(x, errors, strict=True)]
    return [best * math.exp(each) for each in x], losses


@VERTEX
@pytest.mark.points(2)
@pytest.mark.parametrize(("low", "high"), [(8.0, 8.5), (10.5, 11.0)])
def test_the_best_size_is_the_vertex_of_the_parabola_in_log_n(student, check, rng, low, high):
    """Losses on a parabola in log N: its vertex is between the sizes."""
    best = 10 ** number_between(rng, low, high)
    sizes, losses = around(rng, best, [-1.7, -0.6, 0.5, 1.9, 2.8])

    found = student.call("scaling_laws.isoflop_optimum", sizes, losses)

    a_tensor = {"a tensor is returned; it should be a float": check.when(isinstance(found, torch.Tensor))}
    check(found, best, mistakes=a_tensor | on_inputs(VERTICES, sizes, losses))


@VERTEX
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["lists", "arrays", "tensors"])
def test_a_flat_parabola_has_a_vertex_too(student, check, rng, kind):
    """Losses that differ in their sixth digit, of sizes so small that rounding one of them would show."""
    best = math.floor(number_between(rng, 4, 9)) + number_between(rng, 0.3, 0.7)
    sizes, losses = around(rng, best, [-1.3, -0.6, 0.5, 1.9, 2.8], steep=3e-5)
    own_sizes, own_losses = around(rng, 1e9, [-1.7, -0.6, 0.5, 1.9, 2.8])

    def probe(kind, *runs):
        import numpy
        from scaling_laws import isoflop_optimum

        make = {"lists": list, "arrays": numpy.array, "tensors": lambda each: torch.tensor(each, dtype=torch.float64)}
        return isoflop_optimum(*map(make[kind], runs))

    found = student.run(probe, kind, sizes, losses)
    own = student.run(probe, kind, own_sizes, own_losses)

    expected = like_own_vertex(own, own_sizes, own_losses)(sizes, losses)
    rounded = {
        "the best size is rounded": float(round(expected)),
        "the best size is cut off at the point": float(int(expected)),
        "losses are rounded to float32; the parabola should be worked out in float64": vertex(
            sizes, torch.tensor(losses).tolist()
        ),
    }
    check(found, expected, what=f"the best size from {kind}", mistakes=rounded | on_inputs(VERTICES, sizes, losses))


@VERTEX
@pytest.mark.points(2)
def test_the_parabola_is_fitted_by_least_squares(student, check, rng):
    """Losses that are a little off, and sizes that occur twice: all runs count, and all count the same."""
    sizes, losses = around(
        rng, 10 ** number_between(rng, 8, 9), [-2.6, -1.9, -1.9, -0.9, -0.1, 0.7, 1.5, 1.5, 2.8], noise=0.002
    )

    found = student.call("scaling_laws.isoflop_optimum", sizes, losses)

    check(found, vertex(sizes, losses), mistakes=on_inputs(VERTICES, sizes, losses))


@VERTEX
@pytest.mark.points(1)
@pytest.mark.parametrize("side", [-1, 1])
def test_the_vertex_may_be_outside_of_the_measured_sizes(student, check, rng, side):
    """All sizes are too small, or all too large; three are enough."""
    best = 10 ** number_between(rng, 9, 9.5)
    sizes, losses = around(rng, best, [side * 0.7, side * 1.5, side * 2.6])

    found = student.call("scaling_laws.isoflop_optimum", sizes, losses)
    own_sizes, own_losses = around(rng, best, [-1.7, -0.6, 0.5, 1.9, 2.8])
    own = student.call("scaling_laws.isoflop_optimum", own_sizes, own_losses)

    inside_only = {"the vertex is not allowed outside of the measured sizes": min(max(best, min(sizes)), max(sizes))}
    check(
        found,
        like_own_vertex(own, own_sizes, own_losses)(sizes, losses),
        mistakes=inside_only | on_inputs(VERTICES, sizes, losses),
    )


FORMULAS = [  # mistakes of what the vertex is, which another test is about
    sentence for sentence in VERTICES if "logarithm" in sentence or "log loss" in sentence or "log10" in sentence
]


def like_own_vertex(own, sizes, losses):
    """vertex, with the mistake that the student's own result for these losses has, where it is one of FORMULAS."""
    formulas = (VERTICES[sentence] for sentence in FORMULAS)
    return next((each for each in formulas if is_near(own, each(sizes, losses))), vertex)


def is_near(value, truth, within=1e-5):
    return type(value) is float and abs(value - truth) <= within * abs(truth)


@VERTEX
@pytest.mark.points(1)
def test_the_optimum_takes_lists_arrays_and_tensors(student, check, rng):
    """Lists of ints, tuples, arrays of numpy and tensors of any dtype give the vertex of their numbers, as a float."""
    sizes = [2.0**power for power in shuffled(rng, [28, 29, 31, 32, 34])]  # exact in every dtype but float16
    least, best = number_between(rng, 2.0, 3.0), number_between(rng, 30.0, 31.5)
    losses = [least + 0.05 * (math.log2(size) - best) ** 2 for size in sizes]

    def probe(sizes, losses):
        import numpy
        from scaling_laws import isoflop_optimum

        return {
            "lists": isoflop_optimum([int(size) for size in sizes], losses),
            "tuples": isoflop_optimum(tuple(sizes), tuple(losses)),
            "arrays": isoflop_optimum(numpy.array(sizes), numpy.array(losses)),
            "tensors": isoflop_optimum(*(torch.tensor(each, dtype=torch.float64) for each in (sizes, losses))),
            "arrays of int64 and float16": isoflop_optimum(
                numpy.array(sizes, numpy.int64), numpy.array(losses, numpy.float16)
            ),
            "arrays that are turned around": isoflop_optimum(*(numpy.array(each)[::-1] for each in (sizes, losses))),
            "arrays of float32": isoflop_optimum(*(numpy.array(each, numpy.float32) for each in (sizes, losses))),
            "tensors of bfloat16": isoflop_optimum(
                *(torch.tensor(each, dtype=torch.bfloat16) for each in (sizes, losses))
            ),
            "tensors of int64 and float32": isoflop_optimum(
                torch.tensor(sizes, dtype=torch.int64), torch.tensor(losses, dtype=torch.float32)
            ),
        }

    found = student.run(probe, sizes, losses)
    own = student.call("scaling_laws.isoflop_optimum", sizes, losses)

    known = (vertex, *VERTICES.values())
    formula = next((each for each in known if is_near(own, each(sizes, losses))), vertex)
    for kind, value in found.items():
        dtype = next((each for each in (torch.bfloat16, torch.float16, torch.float32) if str(each)[6:] in kind), None)
        rounded = torch.tensor(losses, dtype=dtype or torch.float64).tolist()
        check(value, formula(sizes, rounded), what=f"the best size from {kind}")


@VERTEX
@pytest.mark.points(1)
def test_a_parabola_needs_three_runs_of_one_length(student, rng):
    """ValueError for fewer than 3 runs, or for lists of different lengths, 1 included."""
    sizes, losses = around(rng, 1e9, [-1.7, -0.6, 0.5, 1.9])
    path = "scaling_laws.isoflop_optimum"

    student.accepts(path, sizes[:3], losses[:3])
    student.accepts(path, sizes, losses)
    student.raises(ValueError, path, sizes[:2], losses[:2], says=(*POINTS, 2))
    student.raises(ValueError, path, [], [], says=(*POINTS, 0))
    student.raises(ValueError, path, sizes[:-1], losses, says=(*POINTS, 3))
    student.raises(ValueError, path, sizes, losses[:-1], says=(*POINTS, 3))
    student.raises(ValueError, path, sizes[:1], losses, says=(*POINTS, 1))


@VERTEX
@pytest.mark.points(1)
def test_a_parabola_that_opens_downwards_has_no_minimum(student, rng):
    """ValueError where the largest loss is in the middle."""
    sizes, losses = around(rng, 1e9, [-1.7, -0.6, 0.5, 1.9, 2.8])

    student.accepts("scaling_laws.isoflop_optimum", sizes, losses)
    student.raises(
        ValueError,
        "scaling_laws.isoflop_optimum",
        sizes,
        [6 - loss for loss in losses],
        says=(*POINTS, "minimum", "parabola", "curvature", "convex", "concave", "opens", "vertex", "optimum"),
    )


@VERTEX
@pytest.mark.points(1)
@pytest.mark.parametrize("bad", [0.0, -2.5])
def test_the_runs_of_a_parabola_are_positive(student, rng, bad):
    """ValueError where one of params or losses is zero or less."""
    student.accepts("scaling_laws.isoflop_optimum", *around(rng, 1e-3, [-1.7, -0.6, 0.5, 1.9, 2.8]))
    for place, name in enumerate(("params", "losses")):
        runs = around(rng, 1e9, [-1.7, -0.6, 0.5, 1.9, 2.8])
        runs[place][1] = bad
        student.raises(ValueError, "scaling_laws.isoflop_optimum", *runs, says=(name, bad, "parameters", "N"))


@VERTEX
@pytest.mark.points(1)
def test_the_optimum_leaves_its_inputs_alone(student, check, rng):
    """Lists, arrays and tensors are not changed in place, nothing is printed, and no setting or seed changes."""
    runs = around(rng, 1e9, [-1.7, -0.6, 0.5, 1.9, 2.8])

    lists, arrays, tensors, rude, seeded = student.run(conduct_of_a_fit, "scaling_laws.isoflop_optimum", *runs)

    given = [torch.tensor(each, dtype=torch.float64) for each in runs]
    check(arrays, given, otherwise="an array that was given is changed in place")
    check(tensors, given, otherwise="a tensor that was given is changed in place")
    check(lists, runs, otherwise="a list that was given is changed in place")
    check(rude, "", mistakes=MANNERS)
    check.that(not seeded, "the seed of numpy or of random is set, which changes what the caller draws afterwards")
